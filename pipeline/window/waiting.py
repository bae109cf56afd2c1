"""Admitted requests waiting for the device, in columns: first come first served, or by urgency where that is asked."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from pipeline.admit import Admitted
from pipeline.infer.batch import Batch, Joined, Piece, Run
from pipeline.window.asked import of_turn, turn_ns
from pipeline.window.ordered import NEVER_NS, Asked, Columns, Late, Ordered
from pipeline.window.remembered import Recall

__all__ = ["Waiting"]


@dataclass(slots=True, eq=False)
class _Stretch:
    """Requests ``lo..hi`` of one `Admitted`; ``taken`` rows of the first one are in batches already."""

    admitted: Admitted
    lo: int
    hi: int
    joined: Joined | None = None
    taken: int = 0


class Waiting:
    """What waits. Requests leave whole, except one of over ``whole_max`` rows (or the batch's), which leaves in pieces.

    While no request asks for anything but its turn, stretches of requests are kept and taken as they came. With the
    first that has a deadline or a priority all that waits is ordered, until nothing waits any more.
    """

    def __init__(self, whole_max: int = 0) -> None:
        self._whole_max = whole_max
        self._stretches: deque[_Stretch] = (
            deque()
        )  # as they came; at most the one that has begun where the rest is ordered
        self._ordered: Ordered | None = None
        self._rows = 0

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def oldest_ns(self) -> int | None:
        if self._stretches:
            return self._stretches[0].admitted.chunk.polled_ns
        return self._ordered.oldest_ns if self._ordered else None

    @property
    def next_deadline_ns(self) -> int | None:
        # A request that has begun is finished whatever its deadline: its first rows are computed already.
        return None if self._ordered is None else self._ordered.next_deadline_ns

    @property
    def request_rows_max(self) -> int:
        return 0 if self._ordered is None else self._ordered.request_rows_max

    @property
    def columns(self) -> Columns | None:
        return None if self._stretches or self._ordered is None else self._ordered.columns

    @property
    def due_ns(self) -> int:
        """What the next batch has to be done by, where others want the device too: the first of it goes first."""
        if self._stretches:
            return turn_ns(self._stretches[0].admitted)
        return self._ordered.order_ns if self._ordered else NEVER_NS

    def add(self, admitted: Admitted, asked: Asked | None) -> None:
        """Requests arrive; ``asked`` is None where they ask for nothing but their turn."""
        if asked is None and self._ordered is None:
            self._stretches.append(_Stretch(admitted, 0, len(admitted)))
        else:
            if self._ordered is None:
                self._order()
            assert self._ordered is not None
            self._ordered.add(admitted, asked or of_turn(admitted), 0, len(admitted))
        self._rows += admitted.rows

    def _order(self) -> None:
        """From now on by urgency; one that has begun stays in front."""
        ordered = self._ordered = Ordered()
        stretches, self._stretches = self._stretches, deque()
        for stretch in stretches:
            lo = stretch.lo
            if stretch.taken:
                lo += 1
                self._stretches.append(_Stretch(stretch.admitted, stretch.lo, lo, stretch.joined, stretch.taken))
            if lo < stretch.hi:
                ordered.add(stretch.admitted, of_turn(stretch.admitted), lo, stretch.hi)

    def take(self, rows_max: int, planned_ns: int) -> Batch:
        """The next batch from the front: as many whole requests as fit in ``rows_max`` rows, at least a piece."""
        batch = Batch([], [], 0, planned_ns)
        self._take_stretches(batch, rows_max)
        if not self._stretches and self._ordered is not None:
            self._take_ordered(self._ordered, batch, rows_max)
        self._rows -= batch.rows
        assert 0 < batch.rows <= rows_max
        return batch

    def _take_stretches(self, batch: Batch, rows_max: int) -> None:
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
                if size <= max(rows_max, self._whole_max) and not stretch.taken:
                    break  # it fits in a batch of its own: next time
                self._take_piece(stretch, batch, size, rows_max)
            if stretch.lo == stretch.hi:
                self._stretches.popleft()

    def _take_ordered(self, ordered: Ordered, batch: Batch, rows_max: int) -> None:
        runs, batch.deadline_ns = ordered.take(rows_max - batch.rows)
        for run in runs:
            batch.add(run)
        size = ordered.rows_of_first() if ordered else 0
        if batch.rows < rows_max and size > max(rows_max, self._whole_max):
            admitted, request = ordered.take_first()
            stretch = _Stretch(admitted, request, request + 1)
            self._stretches.append(stretch)
            self._take_piece(stretch, batch, size, rows_max)
        if not ordered:
            self._ordered = None

    @staticmethod
    def _take_piece(stretch: _Stretch, batch: Batch, size: int, rows_max: int) -> None:
        if stretch.joined is None:
            stretch.joined = Joined(stretch.admitted, stretch.lo, size)
        rows = min(rows_max - batch.rows, size - stretch.taken)
        batch.add(Piece(stretch.joined, stretch.taken, rows, 0))
        stretch.taken += rows
        if stretch.taken == size:
            stretch.lo, stretch.taken, stretch.joined = stretch.lo + 1, 0, None

    def take_late(
        self, by_ns: int, row_ns: float, rows_max: int, planned_ns: int, recall: Recall | None = None
    ) -> Batch | None:
        """A batch of what `expire` would take out, and of their keys before them; None where not one fits into it.

        With ``recall`` of those only whose answers are remembered: with these.
        """
        assert self._ordered is not None and not self._stretches
        batch = Batch([], [], 0, planned_ns)
        runs, batch.deadline_ns = self._ordered.take_late(by_ns, row_ns, rows_max, recall)
        for run in runs:
            batch.add(run)
        if recall is not None:
            found = (recall(run.admitted, request) for run in runs for request in range(run.lo, run.hi))
            batch.answers = [answer for answer in found if answer is not None]
        self._rows -= batch.rows
        if not self._ordered:
            self._ordered = None
        return batch if runs else None

    def expire(self, by_ns: int, row_ns: float = 0.0) -> list[Late]:
        """Take out the requests whose deadline, less ``row_ns`` for each of their rows, is not after ``by_ns``."""
        if self._ordered is None:
            return []
        late, rows = self._ordered.expire(by_ns, row_ns)
        self._rows -= rows
        if not self._ordered:
            self._ordered = None
        return late
