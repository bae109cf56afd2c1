"""The requests one poll returned for one partition."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Protocol, cast

import numpy as np
from confluent_kafka import Message

from pipeline.intake.headers import bytes_of, in_columns, size_of
from topics.headers import UNREADABLE, RawHeaders, headers_of

__all__ = ["UNREADABLE", "Chunk", "Finish", "RawHeaders", "TimestampMs"]

TimestampMs = np.ndarray[Any, np.dtype[np.int64]]


_MS = itemgetter(1)  # of (kind, milliseconds)


class Finish(Protocol):
    """Tells the ledger that requests of a chunk have their terminal record; any thread may call it."""

    def __call__(self, chunk: Chunk, indices: Sequence[int] | slice | None) -> int: ...


class Chunk:
    """A run of requests of one partition, in offset order: the value of a Faust event.

    Its columns are built at once, while the messages are in the processor's cache, each in one pass without
    per-message Python; the messages are not kept. ``epoch`` numbers the assignment the chunk came with; ``polled_ns``
    is monotonic, ``polled_unix_ms`` Unix.
    """

    __slots__ = (
        "_finish", "_headers", "_keys", "_stamps_ms", "_values", "epoch", "offsets", "partition", "polled_ns",
        "polled_unix_ms", "size_bytes", "topic"
    )  # fmt: skip

    def __init__(
        self,
        topic: str,
        partition: int,
        epoch: int,
        messages: Sequence[Message],
        *,
        polled_ns: int,
        polled_unix_ms: float,
        finish: Finish,
    ) -> None:
        assert messages, "an empty chunk"
        self.topic = topic
        self.partition = partition
        self.epoch = epoch
        self.polled_ns = polled_ns
        self.polled_unix_ms = polled_unix_ms
        self.offsets = cast(list[int], list(map(Message.offset, messages)))
        self._values = list(map(Message.value, messages))
        self._keys = list(map(Message.key, messages))
        self._headers = in_columns(headers_of(messages))
        # What the in-flight limits count: all that is kept of the messages.
        self.size_bytes = sum(map(len, messages)) + bytes_of(self._keys) + size_of(self._headers)
        self._stamps_ms: TimestampMs = np.fromiter(map(_MS, map(Message.timestamp, messages)), np.int64, len(messages))
        self._stamps_ms[self._stamps_ms <= 0] = int(polled_unix_ms)
        self._finish = finish

    def __len__(self) -> int:
        return len(self.offsets)

    def __repr__(self) -> str:
        return f"<Chunk {self.topic}/{self.partition} {self.offsets[0]}..{self.offsets[-1]} epoch {self.epoch}>"

    def values(self) -> list[bytes | None]:
        """The requests' values; None is a tombstone."""
        return self._values

    def keys(self) -> list[bytes | None]:
        """The requests' keys."""
        return self._keys

    def headers(self) -> Sequence[RawHeaders]:
        """The requests' headers, `UNREADABLE` where they are; `RawColumns` where they are alike."""
        return self._headers

    def timestamps_ms(self) -> TimestampMs:
        """Kafka timestamps, Unix milliseconds; the time of the poll where a message has none."""
        return self._stamps_ms

    def finish(self, indices: Sequence[int] | slice | None = None) -> int:
        """These requests (all where None) are done for good: their offsets may be committed.

        Call it once per request, from any thread, in any order: commits never pass the first unfinished one.
        A chunk of an assignment that was lost is ignored and counted. Return how many were unfinished until now.
        """
        return self._finish(self, indices)
