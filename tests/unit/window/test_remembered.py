"""What was answered is found by the very same input, and the one asked for longest ago is forgotten first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.admit import Admitted, HeaderColumns, RequestHeaders
from pipeline.infer import Batch, Run, Slot
from pipeline.infer.batch import Joined, Piece
from pipeline.window import Remembered
from tests.unit.infer.makers import admitted_of
from tests.unit.intake.messages import chunk_of, message
from topics.codecs import codec_for
from topics.records import JSON


def requests(*values: bytes, rows: Sequence[int] | None = None) -> Admitted:
    chunk = chunk_of([message(offset, value) for offset, value in enumerate(values)])
    return replace(admitted_of(rows or [1] * len(values)), chunk=chunk)


def answered(*runs: Run) -> Batch:
    """Row ``r`` of the slot is answered ``r``."""
    batch = Batch([], [], 0, 0)
    for run in runs:
        batch.add(run)
    batch.slot = Slot(0, {}, {"y": np.arange(8.0)})
    return batch


def found(remembered: Remembered, admitted: Admitted) -> list[list[float] | None]:
    answers = [remembered.recall(admitted, request) for request in range(len(admitted))]
    return [None if answer is None else answer["y"].tolist() for answer in answers]


def test_each_request_of_a_batch_is_found_with_its_rows_wherever_it_lay() -> None:
    remembered = Remembered(8)
    first, second = requests(b"a", b"b", b"c", rows=[1, 2, 1]), requests(b"d", b"e", rows=[1, 3])
    batch = answered(Run(first, 1, 3, 0), Run(second, 1, 2, 0))
    remembered.keep(batch)
    assert batch.slot is not None
    batch.slot.outputs["y"][:] = -1  # the slot is filled again
    assert found(remembered, requests(b"a", b"b", b"c", b"d", b"e")) == [None, [0, 1], [2], None, [3, 4, 5]]


def test_the_same_bytes_of_another_content_type_are_another_input() -> None:
    remembered, admitted = Remembered(8), requests(b"a")
    remembered.keep(answered(Run(admitted, 0, 1, 0)))
    assert found(remembered, admitted) == [[0]]
    as_json = replace(admitted, headers=HeaderColumns.of([RequestHeaders(codec_for(JSON))]))
    assert found(remembered, as_json) == [None]


def test_the_one_that_was_asked_for_longest_ago_is_forgotten_first() -> None:
    remembered, admitted = Remembered(2), requests(b"a", b"b")
    remembered.keep(answered(Run(admitted, 0, 2, 0)))
    assert found(remembered, requests(b"a")) == [[0]]
    remembered.keep(answered(Run(requests(b"c"), 0, 1, 0)))
    assert found(remembered, requests(b"b", b"a", b"c")) == [None, [0], [0]]
    for _ in range(2):  # the same again is no other
        remembered.keep(answered(Run(requests(b"d"), 0, 1, 0)))
    assert found(remembered, requests(b"a", b"c", b"d")) == [None, [0], [0]]
    assert len(remembered) == 2


def test_a_request_in_pieces_is_not_remembered() -> None:
    remembered, whole, large = Remembered(8), requests(b"a", rows=[2]), requests(b"b", rows=[20])
    batch = answered(Run(whole, 0, 1, 0))
    batch.add(Piece(Joined(large, 0, 20), 0, 6, 0))
    remembered.keep(batch)
    assert found(remembered, requests(b"a", b"b")) == [[0, 1], None]
