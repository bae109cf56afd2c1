"""Admitted requests waiting for the device, in columns, first come first served."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.admit import Admitted
from pipeline.infer.batch import Batch, Joined, Piece, Run

__all__ = ["Late", "Waiting"]

IntArray = np.ndarray[Any, np.dtype[np.int64]]
Late = tuple[Admitted, list[int]]
"""Requests of one `Admitted` that are past their deadline."""


@dataclass(slots=True, eq=False)
class _Stretch:
    """Requests ``lo..hi`` of one `Admitted`; ``taken`` rows of the first one are in batches already."""

    admitted: Admitted
    lo: int
    hi: int
    deadlines_ns: IntArray | None  # (requests of the admitted,), monotonic
    joined: Joined | None = None
    taken: int = 0


class Waiting:
    """What waits. Requests leave whole, except one larger than a batch, which leaves in pieces."""

    def __init__(self) -> None:
        self._stretches: deque[_Stretch] = deque()
        self._rows = 0

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def oldest_ns(self) -> int | None:
        return self._stretches[0].admitted.chunk.polled_ns if self._stretches else None

    @property
    def next_deadline_ns(self) -> int | None:
        # A request that has begun is finished whatever its deadline: its first rows are computed already.
        earliest = [
            int(s.deadlines_ns[first : s.hi].min())
            for s in self._stretches
            if s.deadlines_ns is not None and (first := s.lo + (s.taken > 0)) < s.hi
        ]
        return min(earliest, default=None)

    def add(self, admitted: Admitted, deadlines_ns: IntArray | None) -> None:
        """Requests arrive behind those that wait."""
        self._stretches.append(_Stretch(admitted, 0, len(admitted), deadlines_ns))
        self._rows += admitted.rows

    def take(self, rows_max: int, planned_ns: int) -> Batch:
        """The next batch from the front: as many whole requests as fit in ``rows_max`` rows, at least a piece."""
        batch = Batch([], [], 0, planned_ns)
        while self._stretches and batch.rows < rows_max:
            stretch = self._stretches[0]
            starts, space = stretch.admitted.row_start, rows_max - batch.rows
            if not stretch.taken:
                ends = starts[stretch.lo + 1 : stretch.hi + 1]
                whole = int(np.searchsorted(ends, starts[stretch.lo] + space, side="right"))
                if whole:
                    batch.add(Run(stretch.admitted, stretch.lo, stretch.lo + whole, 0))
                    stretch.lo += whole
            if stretch.lo < stretch.hi and batch.rows < rows_max:
                size = int(starts[stretch.lo + 1] - starts[stretch.lo])
                if size <= rows_max and not stretch.taken:
                    break  # it fits in a batch of its own: next time
                self._take_piece(stretch, batch, size, rows_max)
            if stretch.lo == stretch.hi:
                self._stretches.popleft()
        self._rows -= batch.rows
        assert batch.rows <= rows_max
        return batch

    @staticmethod
    def _take_piece(stretch: _Stretch, batch: Batch, size: int, rows_max: int) -> None:
        if stretch.joined is None:
            stretch.joined = Joined(stretch.admitted, stretch.lo, size)
        rows = min(rows_max - batch.rows, size - stretch.taken)
        batch.add(Piece(stretch.joined, stretch.taken, rows, 0))
        stretch.taken += rows
        if stretch.taken == size:
            stretch.lo, stretch.taken, stretch.joined = stretch.lo + 1, 0, None

    def expire(self, now_ns: int) -> list[Late]:
        """Take out the requests whose deadline has passed."""
        late: list[Late] = []
        kept: deque[_Stretch] = deque()
        for stretch in self._stretches:
            first = stretch.lo + (stretch.taken > 0)
            if stretch.deadlines_ns is None or not (stretch.deadlines_ns[first : stretch.hi] <= now_ns).any():
                kept.append(stretch)
                continue
            gone = [i for i in range(first, stretch.hi) if stretch.deadlines_ns[i] <= now_ns]
            late.append((stretch.admitted, gone))
            starts = stretch.admitted.row_start
            self._rows -= int(sum(starts[i + 1] - starts[i] for i in gone))
            lo, taken, joined = stretch.lo, stretch.taken, stretch.joined
            for hi in [*gone, stretch.hi]:
                if lo < hi:
                    kept.append(_Stretch(stretch.admitted, lo, hi, stretch.deadlines_ns, joined, taken))
                lo, taken, joined = hi + 1, 0, None
        self._stretches = kept
        return late
