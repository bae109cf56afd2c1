"""Which requests of a partition are finished, and how far its offset may be committed (invariant I2)."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Ledger", "Offsets", "TopicPartitionKey", "Tracked"]

TopicPartitionKey = tuple[str, int]
Offsets = dict[TopicPartitionKey, int]


class Tracked(Protocol):
    """What the ledger needs of a chunk."""

    topic: str
    partition: int
    epoch: int
    offsets: list[int]

    @property
    def size_bytes(self) -> int: ...


@dataclass(slots=True, eq=False)
class _Open:
    """A chunk with unfinished requests."""

    offsets: list[int]
    size_bytes: int
    done: bytearray = field(init=False)
    arrived: bytearray = field(init=False)  # has an outcome, which may not be published yet
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.offsets)
        self.done, self.arrived = bytearray(self.left), bytearray(self.left)

    def finish(self, indices: Sequence[int] | slice | None) -> int:
        """Mark requests; return how many were open until now."""
        newly = _mark(self.done, indices)
        self.left -= newly
        return newly


def _mark(marks: bytearray, indices: Sequence[int] | slice | None) -> int:
    """Set marks; return how many were not set until now."""
    if indices is None:
        indices = slice(None)
    if isinstance(indices, slice):
        span = range(*indices.indices(len(marks)))
        assert span.step == 1, "requests finish in runs or one by one"
        newly = len(span) - marks.count(1, span.start, span.stop)
        marks[span.start : span.stop] = b"\x01" * len(span)
    else:
        newly = 0
        for index in indices:
            newly += not marks[index]
            marks[index] = 1
    return newly


@dataclass(slots=True, eq=False)
class _Partition:
    epoch: int
    open: dict[int, _Open] = field(default_factory=dict)  # by first offset
    order: deque[_Open] = field(default_factory=deque)
    next_offset: int | None = None  # committable; None until the first request is finished
    handed_offset: int | None = None  # last offset handed to a commit


class Ledger:
    """Tracks chunks from poll to terminal record; thread-safe, a call costs a chunk or a batch, never a request.

    A partition's committable offset is that of its first unfinished request, or one past the last finished one.
    Offsets need not be consecutive: transaction markers and compaction leave holes that are never waited for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._partitions: dict[TopicPartitionKey, _Partition] = {}
        self._epochs = 0
        self.in_flight_bytes = 0
        self._in_flight: Counter[str] = Counter()  # requests, by topic
        self._abandoned = False
        self.ignored = 0  # completions of assignments that were lost (F10)

    def assign(self, keys: Iterable[TopicPartitionKey]) -> None:
        """A new epoch for each partition; poll thread."""
        with self._lock:
            for key in keys:
                self._epochs += 1
                self._partitions[key] = _Partition(self._epochs)

    def epoch(self, key: TopicPartitionKey) -> int | None:
        """The partition's current epoch; None when it is not ours."""
        partition = self._partitions.get(key)
        return None if partition is None else partition.epoch

    def is_current(self, chunk: Tracked) -> bool:
        """Whether the chunk's assignment still holds; nothing else may be published (invariant I3)."""
        return self.epoch((chunk.topic, chunk.partition)) == chunk.epoch

    def track(self, chunk: Tracked) -> None:
        """A chunk was polled: its requests are in flight from here on. Chunks of a partition come in offset order."""
        entry = _Open(chunk.offsets, chunk.size_bytes)
        with self._lock:
            partition = self._partitions[chunk.topic, chunk.partition]
            partition.open[chunk.offsets[0]] = entry
            partition.order.append(entry)
            self._in_flight[chunk.topic] += entry.left
            self.in_flight_bytes += entry.size_bytes

    def finish(self, chunk: Tracked, indices: Sequence[int] | slice | None = None) -> int:
        """Requests of ``chunk`` (all where None) have their terminal record, acknowledged by the broker.

        Return how many were unfinished until now; 0 where the assignment was lost, and `release` counted them.
        """
        with self._lock:
            partition = self._partitions.get((chunk.topic, chunk.partition))
            if partition is None or partition.epoch != chunk.epoch:
                self.ignored += 1
                return 0
            entry = partition.open.get(chunk.offsets[0])
            if entry is None:
                self.ignored += 1
                return 0
            newly = entry.finish(indices)
            self._in_flight[chunk.topic] -= newly
            if entry.left == 0:
                del partition.open[entry.offsets[0]]
                self.in_flight_bytes -= entry.size_bytes
            self._advance(partition)
            self._changed.notify_all()
            return newly

    def arrive(self, chunk: Tracked, indices: Sequence[int] | slice) -> int | None:
        """Requests of ``chunk`` have an outcome; return the partition's first offset that has none.

        One past the last where all have one; None for an assignment that was lost.
        """
        with self._lock:
            partition = self._partitions.get((chunk.topic, chunk.partition))
            if partition is None or partition.epoch != chunk.epoch:
                return None
            _mark(partition.open[chunk.offsets[0]].arrived, indices)
            for entry in partition.order:
                if (first := entry.arrived.find(0)) >= 0:
                    return entry.offsets[first]
            return partition.order[-1].offsets[-1] + 1

    def is_open(self, key: TopicPartitionKey, epoch: int, offset: int) -> bool | None:
        """Whether a request that was tracked in that epoch is unfinished; None where the assignment was lost."""
        with self._lock:
            partition = self._partitions.get(key)
            if partition is None or partition.epoch != epoch:
                return None
            for entry in partition.order:
                if offset <= entry.offsets[-1]:
                    return not entry.done[bisect_left(entry.offsets, offset)]
            return False

    @staticmethod
    def _advance(partition: _Partition) -> None:
        order = partition.order
        while order and order[0].left == 0:
            partition.next_offset = order.popleft().offsets[-1] + 1
        if order and (unfinished := order[0].done.find(0)) > 0:
            partition.next_offset = order[0].offsets[unfinished]

    def committable(self, keys: Iterable[TopicPartitionKey] | None = None) -> Offsets:
        """Next offsets that have moved since they were last returned from here; the caller commits them."""
        with self._lock:
            moved: Offsets = {}
            for key in list(self._partitions) if keys is None else keys:
                partition = self._partitions.get(key)
                if partition is not None and partition.next_offset != partition.handed_offset:
                    assert partition.next_offset is not None
                    moved[key] = partition.handed_offset = partition.next_offset
            return moved

    def forget_commit(self, offsets: Offsets) -> None:
        """A commit of ``offsets`` failed: they are committable again."""
        with self._lock:
            for key in offsets:
                if (partition := self._partitions.get(key)) is not None:
                    partition.handed_offset = None

    def release(self, keys: Iterable[TopicPartitionKey]) -> dict[TopicPartitionKey, int]:
        """The partitions are no longer ours; return how many unfinished requests each gives back."""
        given_back: dict[TopicPartitionKey, int] = {}
        with self._lock:
            for key in keys:
                partition = self._partitions.pop(key, None)
                if partition is None:
                    continue
                given_back[key] = sum(entry.left for entry in partition.open.values())
                self._in_flight[key[0]] -= given_back[key]
                self.in_flight_bytes -= sum(entry.size_bytes for entry in partition.open.values())
            self._changed.notify_all()
        return given_back

    def abandon(self) -> None:
        """The flow has failed: nothing will be finished any more, so nobody need wait for it."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def in_flight(self) -> Mapping[str, int]:
        """Requests in flight of each topic."""
        with self._lock:
            return dict(self._in_flight)

    @property
    def in_flight_requests(self) -> int:
        """Of all topics."""
        return self._in_flight.total()

    def wait_below(self, requests: int, size_bytes: int, timeout_s: float) -> bool:
        """Wait until less than both is in flight; False on time-out, or where there will be no room any more."""
        with self._changed:
            return (
                self._changed.wait_for(
                    lambda: (
                        self._abandoned or (self.in_flight_requests < requests and self.in_flight_bytes < size_bytes)
                    ),
                    timeout_s,
                )
                and not self._abandoned
            )

    def wait_drained(self, keys: Iterable[TopicPartitionKey], deadline_s: float) -> bool:
        """Wait until nothing of these partitions is in flight; False when `time.monotonic` passes ``deadline_s``."""
        keys = list(keys)
        with self._changed:
            return self._changed.wait_for(
                lambda: self._abandoned or not self._any_open(keys), max(0.0, deadline_s - time.monotonic())
            ) and not self._any_open(keys)

    def _any_open(self, keys: list[TopicPartitionKey]) -> bool:
        return any(key in self._partitions and self._partitions[key].open for key in keys)
