"""The requests one poll returned for one partition."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Protocol, cast

import numpy as np
from confluent_kafka import Message

from topics.headers import UNREADABLE, RawHeaders, headers_of

__all__ = ["UNREADABLE", "Chunk", "Finish", "RawHeaders", "TimestampMs"]

TimestampMs = np.ndarray[Any, np.dtype[np.int64]]


_MS = itemgetter(1)  # of (kind, milliseconds)


class Finish(Protocol):
    """Tells the ledger that requests of a chunk have their terminal record; any thread may call it."""

    def __call__(self, chunk: Chunk, indices: Sequence[int] | slice | None) -> int: ...


class Chunk:
    """A run of requests of one partition, in offset order: the value of a Faust event.

    Columns are built from the messages when first asked for, each in one pass without per-message Python.
    ``epoch`` numbers the assignment the chunk came with; ``polled_ns`` is monotonic, ``polled_unix_ms`` Unix.
    """

    __slots__ = (
        "_finish", "_stamps_ms", "epoch", "messages", "offsets", "partition", "polled_ns", "polled_unix_ms", "topic"
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
        self.messages = messages
        self.polled_ns = polled_ns
        self.polled_unix_ms = polled_unix_ms
        self.offsets = cast(list[int], list(map(Message.offset, messages)))
        self._finish = finish
        self._stamps_ms: TimestampMs | None = None

    def __len__(self) -> int:
        return len(self.messages)

    def __repr__(self) -> str:
        return f"<Chunk {self.topic}/{self.partition} {self.offsets[0]}..{self.offsets[-1]} epoch {self.epoch}>"

    def values(self) -> list[bytes | None]:
        """The requests' values; None is a tombstone."""
        return list(map(Message.value, self.messages))

    def keys(self) -> list[bytes | None]:
        """The requests' keys."""
        return list(map(Message.key, self.messages))

    def headers(self) -> list[RawHeaders]:
        """The requests' headers, `UNREADABLE` where they are."""
        return headers_of(self.messages)

    def headers_of(self, index: int) -> RawHeaders:
        """One request's headers, `UNREADABLE` where they are."""
        return headers_of([self.messages[index]])[0]

    def timestamps_ms(self) -> TimestampMs:
        """Kafka timestamps, Unix milliseconds; the time of the poll where a message has none."""
        if self._stamps_ms is None:
            stamps = np.fromiter(map(_MS, map(Message.timestamp, self.messages)), np.int64, len(self.messages))
            stamps[stamps <= 0] = int(self.polled_unix_ms)
            self._stamps_ms = stamps
        return self._stamps_ms

    @property
    def size_bytes(self) -> int:
        """Bytes of the values: what the in-flight limit counts."""
        return sum(map(len, self.messages))

    def finish(self, indices: Sequence[int] | slice | None = None) -> int:
        """These requests (all where None) are done for good: their offsets may be committed.

        Call it once per request, from any thread, in any order: commits never pass the first unfinished one.
        A chunk of an assignment that was lost is ignored and counted. Return how many were unfinished until now.
        """
        return self._finish(self, indices)
