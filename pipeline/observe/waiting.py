"""Answered parts that wait for their commit."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from pipeline.observe.stages import BatchTimes, Part
from pipeline.observe.timings import Finished

__all__ = ["PARTS_WAITING_MAX", "Commit", "Waiting"]

Partition = tuple[str, int]
Batch = TypeVar("Batch")

# Twice the 32,768 requests a worker has in flight, each a part of its own at worst: what is answered while a
# commit is under way fits as well. At about 500 bytes a part 32 MB, and at full load a hundredth of that.
PARTS_WAITING_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Commit:
    """A partition's committed next offset, and when it was, on both clocks."""

    next_offset: int
    at_ns: int
    at_unix_ms: float

    def finish(self, part: Part, times: BatchTimes) -> Finished:
        """A part it covers; told only after its commit, it counts as committed no earlier than acknowledged."""
        late_ns = max(0, times.acked_ns - self.at_ns)
        return Finished(part, times, self.at_ns + late_ns, self.at_unix_ms + late_ns / 1e6)


class Waiting(Generic[Batch]):
    """Parts by partition and offset, at most ``parts_max`` of them. Not thread-safe: the owner locks.

    Batches end in any order, commits go up: a heap per partition. Each part is kept with its batch's ``Batch``,
    whatever the owner wants to have back. A part over the limit pushes out the lowest offset of the partition
    that has most waiting, which is counted in ``dropped``.
    """

    def __init__(self, parts_max: int = PARTS_WAITING_MAX) -> None:
        self.dropped = 0
        self._parts_max = parts_max
        self._size = 0
        self._heaps: dict[Partition, list[tuple[int, int, Part, BatchTimes, Batch]]] = {}
        self._commits: dict[Partition, Commit] = {}
        self._sequence = count()

    def __len__(self) -> int:
        return self._size

    def add(self, times: BatchTimes, batch: Batch) -> list[tuple[Finished, Batch]]:
        """Keep the parts of a batch; return those whose commit was told before them."""
        finished = []
        for part in times.parts:
            key = part.topic, part.partition
            commit = self._commits.get(key)
            if commit is not None and part.last_offset < commit.next_offset:
                finished.append((commit.finish(part, times), batch))
                continue
            heap = self._heaps.setdefault(key, [])
            heapq.heappush(heap, (part.last_offset, next(self._sequence), part, times, batch))
            self._size += 1
            if self._size > self._parts_max:
                heapq.heappop(max(self._heaps.values(), key=len))
                self._size -= 1
                self.dropped += 1
        return finished

    def commit(self, commits: Mapping[Partition, Commit]) -> list[tuple[Finished, Batch]]:
        """Take out the parts that commits cover."""
        finished = []
        for key, commit in commits.items():
            self._commits[key] = commit
            heap = self._heaps.get(key)
            while heap and heap[0][0] < commit.next_offset:
                _, _, part, times, batch = heapq.heappop(heap)
                finished.append((commit.finish(part, times), batch))
        self._size -= len(finished)
        return finished

    def forget(self, key: Partition) -> None:
        """A partition is gone: so are its waiting parts and its commit."""
        self._size -= len(self._heaps.pop(key, ()))
        self._commits.pop(key, None)
