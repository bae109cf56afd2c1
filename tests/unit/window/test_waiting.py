"""What waits, against a naive list: order, whole requests, every row exactly once, exactly the late taken out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.infer import Batch
from pipeline.window import Waiting
from tests.unit.infer.makers import FakeBackend, admitted_of, rows_in

BATCH_ROWS_MAX = 8


def deadlines(*moments_ns: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(moments_ns, np.int64)


def taken(batch: Batch) -> list[int]:
    """The numbers of a batch's rows, as they lie in a slot."""
    slot = FakeBackend(rows_max=max(1, batch.rows)).slots(1)[0]
    batch.fill(slot)
    return rows_in(slot, batch.rows)


def test_requests_leave_whole_and_in_order() -> None:
    waiting = Waiting()
    waiting.add(admitted_of([3, 4, 2]), None)
    batch = waiting.take(8, 123)
    assert (batch.rows, batch.planned_ns, waiting.rows) == (7, 123, 2), "the third request fits in the next batch"
    assert taken(batch) == list(range(7))
    assert taken(waiting.take(8, 0)) == [7, 8]


def test_rows_of_several_chunks_share_a_batch() -> None:
    waiting = Waiting()
    waiting.add(admitted_of([2]), None)
    waiting.add(admitted_of([1, 1], first=100), None)
    batch = waiting.take(3, 0)
    assert len(batch.runs) == 2 and taken(batch) == [0, 1, 100]


def test_a_request_larger_than_a_batch_fills_the_rest_of_one_and_goes_on_in_the_next() -> None:
    waiting = Waiting()
    waiting.add(admitted_of([2, 11, 1]), None)
    batches = [waiting.take(5, 0) for _ in range(3)]
    assert [taken(batch) for batch in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13]]
    assert [(piece.row, piece.rows) for batch in batches for piece in batch.pieces] == [(0, 3), (3, 5), (8, 3)]
    assert len({id(piece.joined) for batch in batches for piece in batch.pieces}) == 1
    assert batches[2].runs[0].lo == 2


def test_a_request_that_has_begun_goes_on_though_it_would_fit_a_larger_batch() -> None:
    waiting = Waiting()
    waiting.add(admitted_of([5]), None)
    assert taken(waiting.take(3, 0)) == [0, 1, 2]
    assert taken(waiting.take(8, 0)) == [3, 4]


def test_the_oldest_is_the_arrival_of_the_first() -> None:
    waiting = Waiting()
    assert (waiting.rows, waiting.oldest_ns, waiting.next_deadline_ns) == (0, None, None)
    waiting.add(admitted_of([1], polled_ns=70), None)
    waiting.add(admitted_of([1], polled_ns=90), None)
    assert waiting.oldest_ns == 70
    waiting.take(1, 0)
    assert waiting.oldest_ns == 90


def test_the_next_deadline_is_the_earliest_of_all_that_have_not_begun() -> None:
    waiting = Waiting()
    waiting.add(admitted_of([6, 1]), deadlines(10, 40))
    waiting.add(admitted_of([1]), None)
    waiting.add(admitted_of([1, 1]), deadlines(50, 30))
    assert waiting.next_deadline_ns == 10
    waiting.take(4, 0)
    assert waiting.next_deadline_ns == 30


def test_exactly_the_late_are_taken_out() -> None:
    waiting = Waiting()
    early, late = admitted_of([1, 2, 1]), admitted_of([1], first=10)
    waiting.add(early, deadlines(50, 20, 21))
    waiting.add(late, deadlines(20))
    assert waiting.expire(20) == [(early, [1]), (late, [0])]
    assert waiting.expire(20) == []
    assert waiting.rows == 2 and taken(waiting.take(8, 0)) == [0, 3]


def test_one_that_has_begun_is_never_late() -> None:
    waiting = Waiting()
    admitted = admitted_of([6, 1, 1])
    waiting.add(admitted, deadlines(10, 10, 99))
    waiting.take(4, 0)
    assert waiting.expire(50) == [(admitted, [1])]
    assert taken(waiting.take(8, 0)) == [4, 5, 7]


@dataclass
class Request:
    """A request in the naive list: the numbers of its rows, of which ``begun`` have left."""

    rows: list[int]
    deadline_ns: int | None
    begun: int = 0


ADD = st.tuples(
    st.just("add"), st.lists(st.tuples(st.integers(1, 20), st.integers(0, 30)), min_size=1, max_size=5), st.booleans()
)
TAKE = st.tuples(st.just("take"), st.integers(1, BATCH_ROWS_MAX), st.none())
EXPIRE = st.tuples(st.just("expire"), st.integers(0, 30), st.none())


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(st.one_of(ADD, ADD, TAKE, TAKE, EXPIRE), max_size=30))
def test_whatever_comes_every_row_leaves_exactly_once_and_in_order(steps: list[tuple[str, object, object]]) -> None:
    waiting, naive, first = Waiting(), [], 0
    for what, argument, extra in steps:
        if what == "add":
            assert isinstance(argument, list)
            sizes = [size for size, _ in argument]
            ends = [deadline if extra else None for _, deadline in argument]
            waiting.add(admitted_of(sizes, first=first), deadlines(*(d for _, d in argument)) if extra else None)
            for size, deadline_ns in zip(sizes, ends, strict=True):
                naive.append(Request(list(range(first, first + size)), deadline_ns))
                first += size
        elif what == "take" and naive:
            assert isinstance(argument, int)
            naive = check_take(naive, waiting.take(argument, 0), argument)
        elif what == "expire":
            assert isinstance(argument, int)
            naive = check_expire(naive, waiting, argument)
        check_view(naive, waiting)
    while waiting.rows:
        naive = check_take(naive, waiting.take(BATCH_ROWS_MAX, 0), BATCH_ROWS_MAX)
    assert naive == []


def check_take(naive: list[Request], batch: Batch, rows_max: int) -> list[Request]:
    """The batch is a prefix of what waits: as long as whole requests allow, and larger ones cut where it is full."""
    rows = taken(batch)
    assert 0 < len(rows) <= rows_max
    assert [run.slot_row for run in batch.runs] == sorted(run.slot_row for run in batch.runs)
    left = list(rows)
    while left:
        request = naive[0]
        rest = request.rows[request.begun :]
        part, left = left[: len(rest)], left[len(rest) :]
        assert part == rest[: len(part)], "out of order"
        if len(part) < len(rest) or request.begun:
            assert request.begun or len(request.rows) > rows_max, "only a request larger than a batch is split"
        request.begun += len(part)
        if request.begun < len(request.rows):
            assert len(rows) == rows_max, "a piece fills its batch"
            return naive
        naive = naive[1:]
    space = rows_max - len(rows)
    assert not space or not naive or space < len(naive[0].rows) <= rows_max, "there was room for the next request"
    return naive


def check_expire(naive: list[Request], waiting: Waiting, now_ns: int) -> list[Request]:
    late = [r for r in naive if r.deadline_ns is not None and r.deadline_ns <= now_ns and not r.begun]
    found = [
        admitted.columns["x"][admitted.row_start[index] : admitted.row_start[index + 1], 0].tolist()
        for admitted, gone in waiting.expire(now_ns)
        for index in gone
    ]
    assert found == [request.rows for request in late]
    return [request for request in naive if request not in late]


def check_view(naive: list[Request], waiting: Waiting) -> None:
    assert waiting.rows == sum(len(request.rows) - request.begun for request in naive)
    assert waiting.next_deadline_ns == min(
        (r.deadline_ns for r in naive if r.deadline_ns is not None and not r.begun), default=None
    )
    assert (waiting.oldest_ns is None) == (not naive)


@pytest.mark.parametrize("moment", [0, 5])
def test_an_expired_row_is_never_taken(moment: int) -> None:
    waiting = Waiting()
    waiting.add(admitted_of([1] * 4), deadlines(0, 5, 9, 5))
    gone = {index for _, indices in waiting.expire(moment) for index in indices}
    assert gone | set(taken(waiting.take(8, 0))) == {0, 1, 2, 3}
    assert waiting.rows == 0
