"""Waiting requests in the order of their urgency: columns, never an object per request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.admit import Admitted
from pipeline.infer.batch import Run
from pipeline.window.remembered import Recall

__all__ = ["NEVER_NS", "Asked", "Columns", "IntArray", "Late", "Ordered"]

IntArray = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Late = tuple[Admitted, list[int]]
"""Requests of one `Admitted` that are expired."""

NEVER_NS = int(np.iinfo(np.int64).max)

_ORDER, _DUE, _DEADLINE, _KEY, _PLACE, _ROWS = range(6)
_BITS = 32  # of a place for the request's number, those above for its arrival: places ascend as requests came
_MASK = (1 << _BITS) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What requests of one `Admitted` ask for, (requests,) each; moments are monotonic ns.

    ``order_ns``: smaller goes first. ``due_ns``: by then it had better be answered. ``deadline_ns``: after it the
    answer is worth nothing, `NEVER_NS` where there is none. ``keys``: a hash of the key, 0 where there is none.
    """

    order_ns: IntArray
    due_ns: IntArray
    deadline_ns: IntArray
    keys: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What waits, most urgent first, as a planner sees it: (requests,) each."""

    due_ns: IntArray
    deadline_ns: IntArray
    rows: IntArray


class Ordered:
    """Requests by ``order_ns``, those of a key as they came.

    A request is as urgent as the most urgent of its key behind it (priority inheritance), so that a later one of a key
    neither overtakes an earlier one nor waits because of it: with due dates so changed, earliest due first is optimal
    for jobs that must follow one another (Lawler 1973).
    """

    def __init__(self) -> None:
        self._sorted: IntArray = np.empty((6, 0), np.int64)
        self._came: list[IntArray] = []  # since then: what arrives while the device is busy is sorted once
        self._earliest_ns = NEVER_NS  # deadline
        self.request_rows_max = 0  # rows of the largest request, at most
        self._sources: dict[int, Admitted] = {}  # by arrival; requests of each are somewhere in the matrix
        self._left: dict[int, int] = {}  # how many
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(self._left.values())

    @property
    def oldest_ns(self) -> int:
        """Arrival of the first request that waits."""
        return next(iter(self._sources.values())).chunk.polled_ns

    @property
    def next_deadline_ns(self) -> int | None:
        """The earliest deadline."""
        return None if self._earliest_ns == NEVER_NS else self._earliest_ns

    @property
    def order_ns(self) -> int:
        """Of the first."""
        return int(self._matrix[_ORDER, 0])

    @property
    def columns(self) -> Columns:
        return Columns(self._matrix[_DUE], self._matrix[_DEADLINE], self._matrix[_ROWS])

    def add(self, admitted: Admitted, asked: Asked, lo: int, hi: int) -> None:
        """Requests ``lo..hi`` arrive; ``asked`` is of all of the admitted."""
        part = slice(lo, hi)
        places = (self._arrivals << _BITS) + np.arange(lo, hi)
        rows = np.diff(admitted.row_start[lo : hi + 1])
        columns = (asked.order_ns[part], asked.due_ns[part], asked.deadline_ns[part], asked.keys[part], places, rows)
        self._came.append(np.stack(columns))
        self._earliest_ns = min(self._earliest_ns, int(self._came[-1][_DEADLINE].min()))
        self.request_rows_max = max(self.request_rows_max, int(rows.max()))
        self._sources[self._arrivals] = admitted
        self._left[self._arrivals] = hi - lo
        self._arrivals += 1

    @property
    def _matrix(self) -> IntArray:
        """A column for each request, most urgent first."""
        if self._came:
            matrix = np.concatenate([self._sorted, *self._came], axis=1)
            order = matrix[_ORDER, max(0, self._sorted.shape[1] - 1) :]
            if not (order[1:] >= order[:-1]).all():
                _inherit(matrix)
                # Last key first: by order, and as they came where that is the same.
                matrix = matrix[:, np.lexsort((matrix[_PLACE], matrix[_ORDER]))]
            self._sorted = matrix
            self._came.clear()
        return self._sorted

    @_matrix.setter
    def _matrix(self, left: IntArray) -> None:
        self._sorted = left
        self._earliest_ns = int(left[_DEADLINE].min(initial=NEVER_NS))
        self.request_rows_max = int(left[_ROWS].max(initial=0))

    def rows_of_first(self) -> int:
        return int(self._matrix[_ROWS, 0])

    def take(self, space: int) -> tuple[list[Run], int]:
        """Take out the first requests, as many as fit whole into ``space`` rows, and say their earliest deadline.

        Within a batch all are answered together: as they came they make the longest runs, and keys stay in order.
        """
        count = int(np.searchsorted(np.cumsum(self._matrix[_ROWS]), space, side="right"))
        deadline_ns = int(self._matrix[_DEADLINE, :count].min(initial=NEVER_NS))
        places = np.sort(self._matrix[_PLACE, :count])
        self._matrix = self._matrix[:, count:]
        return [Run(self._leave(source, hi - lo), lo, hi, 0) for source, lo, hi in _stretches(places)], deadline_ns

    def take_first(self) -> tuple[Admitted, int]:
        """Take out the first request, for pieces."""
        place = int(self._matrix[_PLACE, 0])
        self._matrix = self._matrix[:, 1:]
        return self._leave(place >> _BITS, 1), place & _MASK

    def expire(self, by_ns: int, row_ns: float) -> tuple[list[Late], int]:
        """Take out requests whose deadline less ``row_ns`` a row is not after ``by_ns``; also say how many rows."""
        late = hopeless(self.columns, by_ns, row_ns)
        places, rows = np.sort(self._matrix[_PLACE, late]), int(self._matrix[_ROWS, late].sum())
        self._matrix = self._matrix[:, ~late]
        gone: dict[int, list[int]] = {}
        for source, lo, hi in _stretches(places):
            gone.setdefault(source, []).extend(range(lo, hi))
        return [(self._leave(source, len(requests)), requests) for source, requests in gone.items()], rows

    def take_late(self, by_ns: int, row_ns: float, space: int, recall: Recall | None = None) -> tuple[list[Run], int]:
        """Take out what `expire` would and what came earlier of their keys, as many as fit whole into ``space``.

        With ``recall`` those only whose answers are remembered, as are those of all that came earlier of their keys.
        """
        late = hopeless(self.columns, by_ns, row_ns)
        if recall is not None:
            late = self._remembered(late, space, recall)
        chosen = self._with_earlier(late)  # as they came: what does not fit is behind in its key, too
        chosen = chosen[: int(np.searchsorted(np.cumsum(self._matrix[_ROWS, chosen]), space, side="right"))]
        deadline_ns = int(self._matrix[_DEADLINE, chosen].min(initial=NEVER_NS))
        places = self._matrix[_PLACE, chosen]
        self._matrix = np.delete(self._matrix, chosen, axis=1)
        return [Run(self._leave(source, hi - lo), lo, hi, 0) for source, lo, hi in _stretches(places)], deadline_ns

    def _with_earlier(self, late: Mask) -> IntArray:
        """Which requests are late or come before such a one of their key, as they came."""
        keys, places = self._matrix[_KEY], self._matrix[_PLACE]
        keyed = late & (keys != 0)
        theirs, which = np.unique(keys[keyed], return_inverse=True)
        if theirs.size:
            latest = np.zeros(theirs.size, np.int64)
            np.maximum.at(latest, which, places[keyed])
            at = np.searchsorted(theirs, keys).clip(max=theirs.size - 1)
            late = late | (theirs[at] == keys) & (places <= latest[at])
        chosen = np.flatnonzero(late)
        return chosen[np.argsort(places[chosen])]

    def _remembered(self, late: Mask, space: int, recall: Recall) -> Mask:
        """Which of the late are remembered with all that came earlier of their keys: the first to fill ``space``."""
        remembered, others = np.zeros_like(late), set[int]()  # keys of those that are not
        chosen = self._with_earlier(late)
        keys, places, rows = (self._matrix[row, chosen].tolist() for row in (_KEY, _PLACE, _ROWS))
        for at, key, place, size in zip(chosen.tolist(), keys, places, rows, strict=True):
            if key and key in others:
                continue
            if recall(self._sources[place >> _BITS], place & _MASK) is None:
                others.add(key)
            elif late[at]:
                remembered[at] = True
                space -= size
                if space <= 0:
                    break
        return remembered

    def _leave(self, source: int, count: int) -> Admitted:
        admitted = self._sources[source]
        self._left[source] -= count
        if not self._left[source]:
            del self._sources[source], self._left[source]
        return admitted


def hopeless(columns: Columns, by_ns: int, row_ns: float) -> Mask:
    """Which requests have a deadline that, less ``row_ns`` for each of their rows, is not after ``by_ns``."""
    if not row_ns:
        return columns.deadline_ns <= by_ns
    return columns.deadline_ns - (columns.rows * row_ns).astype(np.int64) <= by_ns


def _stretches(places: Sequence[int] | IntArray) -> Iterator[tuple[int, int, int]]:
    """Ascending places as arrivals and ``lo..hi`` of their requests."""
    places = np.asarray(places, np.int64)
    if not places.size:
        return
    ends = [*(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), places.size]
    begin = 0
    for end in ends:
        first = int(places[begin])
        yield first >> _BITS, first & _MASK, (first & _MASK) + end - begin
        begin = end


def _inherit(matrix: IntArray) -> None:
    """Each request becomes as urgent as the most urgent of its key that came at the same time or later."""
    keyed = np.flatnonzero(matrix[_KEY])
    if len(set(matrix[_KEY, keyed].tolist())) == keyed.size:
        return
    # By key, the last first; then a running minimum that begins anew with each key, for which each key's orders are
    # moved below all those of the key before: by their ranks, since moments may lie any time apart.
    keyed = keyed[np.lexsort((-matrix[_PLACE, keyed], matrix[_KEY, keyed]))]
    group = np.cumsum(np.diff(matrix[_KEY, keyed], prepend=matrix[_KEY, keyed[0]]) != 0)
    moments, ranks = np.unique(matrix[_ORDER, keyed], return_inverse=True)
    shift = group * moments.size
    matrix[_ORDER, keyed] = moments[np.minimum.accumulate(ranks - shift) + shift]
