"""Requests apart by the length of their sequences, so that a batch's rows are padded to what is about their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from topics.signature import Columns

if TYPE_CHECKING:
    from pipeline.admit.admission import Admitted

__all__ = ["by_length"]

IntArray = np.ndarray[Any, np.dtype[np.int64]]


def by_length(admitted: Admitted, sequences: Sequence[str], lengths: Sequence[int]) -> Iterator[Admitted]:
    """One `Admitted` for each of the ascending ``lengths`` that some of the requests need, without what lies past it.

    A sequence ends with the last value that is not zero, and a request is as long as its longest row. The requests keep
    their order among those of one length.
    """
    columns, starts = cast(Columns, admitted.columns), admitted.row_start  # none of them is `Scattered`
    used = np.maximum.reduceat(_used([columns[name] for name in sequences]), starts[:-1])
    places = np.searchsorted(lengths, used)
    for place in np.unique(places).tolist():
        length, these, sizes = lengths[place], places == place, np.diff(starts)
        picked = np.flatnonzero(these).tolist()
        kept = columns if these.all() else {name: column[np.repeat(these, sizes)] for name, column in columns.items()}
        yield replace(
            admitted,
            columns={**kept, **{name: kept[name][:, :length] for name in sequences}},
            row_start=np.concatenate([[0], np.cumsum(sizes[picked])]),
            indices=[admitted.indices[request] for request in picked],
            headers=admitted.headers.pick(picked),
            deadlines_ms=None if admitted.deadlines_ms is None else admitted.deadlines_ms[picked],
            length=length,
        )


def _used(columns: Sequence[np.ndarray[Any, Any]]) -> IntArray:
    """(rows,): positions up to the last that is not zero in any of ``columns``, which are of one length."""
    filled = np.logical_or.reduce([(column != 0).reshape(*column.shape[:2], -1).any(axis=2) for column in columns])
    behind = filled[:, ::-1].argmax(axis=1)
    return np.where(filled.any(axis=1), filled.shape[1] - behind, 0)
