"""A batch: every row in its place once, halves down to the single request, pieces joined in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.admit import Admitted
from pipeline.core.errors import BackendBusyError, BackendError
from pipeline.infer import Batch, Joined, Piece, Run
from tests.unit.infer.makers import SIGNATURE, FakeBackend, admitted_of, column_of, rows_in

Request = tuple[int, int]  # the admitted it is of, its number there


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Admitted], Batch]:
    """Runs of several admitted in any order, and up to two pieces of larger requests."""
    admitted: list[Admitted] = []
    batch, first = Batch([], [], 0, 7), 0
    for kind in draw(st.lists(st.sampled_from(["run", "run", "run", "piece"]), min_size=1, max_size=6)):
        sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
        each = admitted_of(sizes, first=first, scattered=draw(st.booleans()))
        admitted.append(each)
        first += each.rows
        if kind == "run":
            lo = draw(st.integers(0, len(sizes) - 1))
            batch.add(Run(each, lo, draw(st.integers(lo + 1, len(sizes))), 0))
        elif len(batch.pieces) < 2:
            request = draw(st.integers(0, len(sizes) - 1))
            row = draw(st.integers(0, sizes[request] - 1))
            joined = Joined(each, request, sizes[request])
            batch.add(Piece(joined, row, draw(st.integers(1, sizes[request] - row)), 0))
    return admitted, batch


def rows_of(batch: Batch) -> list[int]:
    """The numbers of the rows a batch should hold, in order."""
    parts = sorted(batch.parts(), key=lambda part: part.slot_row)
    columns = [column_of(part.admitted)[part.first_row : part.first_row + part.rows, 0] for part in parts]
    return [int(row) for column in columns for row in column]


def requests_of(batch: Batch) -> list[tuple[int, int]]:
    """(identity of the admitted, request) of all in a batch."""
    found = [(id(run.admitted), request) for run in batch.runs for request in range(run.lo, run.hi)]
    return found + [(id(piece.admitted), piece.joined.request) for piece in batch.pieces]


@settings(deadline=None)
@given(made=batches())
def test_each_row_is_written_once_in_its_place(made: tuple[list[Admitted], Batch]) -> None:
    _, batch = made
    slot = FakeBackend(rows_max=batch.rows + 3).slots(1)[0]
    slot.inputs["x"][:] = -1
    batch.fill(slot)
    assert batch.slot is slot
    assert rows_in(slot, batch.rows) == rows_of(batch)
    assert (slot.inputs["x"][batch.rows :] == -1).all(), "rows past the batch are the backend's"
    spans = sorted((part.slot_row, part.slot_row + part.rows) for part in batch.parts())
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == batch.rows


@settings(deadline=None)
@given(made=batches())
def test_halves_share_the_requests_out_and_end_at_single_ones(made: tuple[list[Admitted], Batch]) -> None:
    _, batch = made
    rows, single, ran, todo = [], [], 0, [batch]
    while todo:
        half = todo.pop(0)
        ran += 1
        assert half.planned_ns == 7 and half.error is None and half.slot is None
        if half.is_single:
            single += requests_of(half)
            rows += rows_of(half)
            continue
        halves = half.halves()
        assert sorted(requests_of(halves[0]) + requests_of(halves[1])) == sorted(requests_of(half))
        assert all(each.rows for each in halves) and sum(each.rows for each in halves) == half.rows
        todo += halves
    assert sorted(single) == sorted(requests_of(batch))
    assert sorted(rows) == sorted(rows_of(batch))
    assert ran == 2 * len(single) - 1, "a batch is run again only to be told apart"


def test_a_poison_request_of_a_full_batch_is_found_in_few_runs() -> None:
    batch = Batch([], [], 0, 0)
    batch.add(Run(admitted_of([1] * 256), 0, 256, 0))
    runs = 0
    while not batch.is_single:
        batch = next(half for half in batch.halves() if 77 in rows_of(half))
        runs += 2
    assert rows_of(batch) == [77] and runs == 16


def test_one_request_cannot_be_halved() -> None:
    batch = Batch([], [], 0, 0)
    batch.add(Run(admitted_of([3]), 0, 1, 0))
    assert batch.is_single
    with pytest.raises(AssertionError, match="halved"):
        batch.halves()


def pieces_of(joined: Joined, cuts: Sequence[int]) -> list[Piece]:
    starts = [0, *cuts[:-1]]
    return [
        Piece(joined, start, end - start, slot_row)
        for slot_row, (start, end) in enumerate(zip(starts, cuts, strict=True))
    ]


@settings(deadline=None)
@given(rows=st.integers(1, 30), cuts=st.sets(st.integers(1, 29)), seed=st.integers(0, 999))
def test_pieces_join_in_any_order(rows: int, cuts: set[int], seed: int) -> None:
    admitted = admitted_of([2, rows, 1], first=50)
    joined = Joined(admitted, 1, rows)
    pieces = pieces_of(joined, [*sorted(cut for cut in cuts if cut < rows), rows])
    random.Random(seed).shuffle(pieces)
    backend = FakeBackend(rows_max=70)
    (slot,) = backend.slots(1)
    whole = []
    for piece in pieces:
        batch = Batch([], [piece], piece.rows, 0)
        slot.inputs["x"][:] = -7  # the slot is used again and again: the answer must not lie in it
        batch.fill(slot)
        end = piece.slot_row + piece.rows
        slot.outputs["y"][piece.slot_row : end] = 2 * slot.inputs["x"][piece.slot_row : end]
        slot.outputs["half"][piece.slot_row : end] = slot.inputs["x"][piece.slot_row : end, 0] / 2
        whole.append(joined.take(slot, piece, SIGNATURE.outputs, rows))
    assert whole == [False] * (len(pieces) - 1) + [True]
    expected = np.arange(52, 52 + rows, dtype=np.float32)
    assert (joined.outputs["y"] == 2 * np.stack([expected, expected], axis=1)).all()
    assert (joined.outputs["half"] == expected / 2).all()


@pytest.mark.parametrize(
    ("requests", "retryable", "attempts", "expected"),
    [
        (4, False, 1, "halves"),
        (4, True, 1, "same"),
        (4, True, 3, "halves"),
        (1, True, 2, "same"),
        (1, True, 3, "zeros"),
        (1, False, 1, "zeros"),
    ],
)
def test_what_runs_after_a_failure(requests: int, retryable: bool, attempts: int, expected: str) -> None:
    batch = Batch([], [], 0, 7, attempts=attempts)
    batch.add(Run(admitted_of([1] * requests, first=5), 0, requests, 0))
    batch.error = BackendBusyError("full") if retryable else BackendError("broken")
    again = batch.again(3)
    if expected == "halves":
        assert [each.rows for each in again] == [2, 2] and [each.attempts for each in again] == [1, 1]
        return
    (one,) = again
    assert (one.rows, one.planned_ns, one.error, requests_of(one)) == (requests, 7, None, requests_of(batch))
    assert (one.attempts, one.blamed) == ((attempts + 1, None) if expected == "same" else (1, batch.error))
    (slot,) = FakeBackend().slots(1)
    slot.inputs["x"][:] = 9
    one.fill(slot)
    assert rows_in(slot, requests) == ([0] * requests if expected == "zeros" else list(range(5, 5 + requests)))
