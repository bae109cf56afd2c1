"""Kafka messages and chunks made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import Message

from pipeline.intake import Chunk
from pipeline.intake.chunk import Finish

__all__ = ["POLLED_MS", "POLLED_NS", "TOPIC", "chunk_of", "message"]

TOPIC = "m.requests"
POLLED_MS = 1_790_000_000_000
POLLED_NS = 5_000_000_000

HeaderList = Sequence[tuple[str, bytes | None]]


def message(
    offset: int,
    value: bytes | None = b"",
    *,
    key: bytes | None = None,
    headers: HeaderList = (),
    topic: str = TOPIC,
    partition: int = 0,
    timestamp_ms: int | None = POLLED_MS - 10,
) -> Message:
    """A message as a poll returns it; without a timestamp where that is None."""
    return Message(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=list(headers) or None,
        timestamp=(0, 0) if timestamp_ms is None else (1, timestamp_ms),
    )


def _unfinished(chunk: Chunk, indices: Sequence[int] | slice | None) -> int:
    raise AssertionError("nobody finishes a request of this chunk")


def chunk_of(
    messages: Sequence[Message], *, epoch: int = 1, finish: Finish = _unfinished, polled_ns: int = POLLED_NS
) -> Chunk:
    """The messages as one poll's chunk; their topic and partition are the first one's."""
    topic, partition = messages[0].topic(), messages[0].partition()
    assert topic is not None and partition is not None
    return Chunk(topic, partition, epoch, messages, polled_ns=polled_ns, polled_unix_ms=float(POLLED_MS), finish=finish)
