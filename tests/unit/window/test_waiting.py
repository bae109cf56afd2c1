"""What waits, against a naive list: order, whole requests, every row exactly once, exactly the late taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.infer import Batch
from pipeline.window import Waiting
from pipeline.window.asked import PATIENCE_NS
from pipeline.window.ordered import Asked
from tests.unit.infer.makers import FakeBackend, admitted_of, column_of, rows_in

BATCH_ROWS_MAX = 8


def asked(*moments_ns: int, keys: Sequence[int] = ()) -> Asked:
    """Requests with these deadlines, and in their order."""
    ends = np.array(moments_ns, np.int64)
    return Asked(ends, ends, ends, np.array(keys or [0] * len(moments_ns), np.int64))


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
    waiting.add(admitted_of([6, 1]), asked(10, 40))
    waiting.add(admitted_of([1]), None)
    waiting.add(admitted_of([1, 1]), asked(50, 30))
    assert waiting.next_deadline_ns == 10
    waiting.take(4, 0)
    assert waiting.next_deadline_ns == 30


def test_exactly_the_late_are_taken_out() -> None:
    waiting = Waiting()
    early, late = admitted_of([1, 2, 1]), admitted_of([1], first=10)
    waiting.add(early, asked(50, 20, 21))
    waiting.add(late, asked(20))
    assert waiting.expire(20) == [(early, [1]), (late, [0])]
    assert waiting.expire(20) == []
    assert waiting.rows == 2 and taken(waiting.take(8, 0)) == [0, 3]


def test_what_takes_longer_than_is_left_is_late_too() -> None:
    waiting = Waiting()
    admitted = admitted_of([1, 3, 2])
    waiting.add(admitted, asked(50, 50, 50))
    assert waiting.expire(19, 10.0) == []
    assert waiting.expire(20, 10.0) == [(admitted, [1])]
    assert waiting.expire(30, 10.0) == [(admitted, [2])]
    assert taken(waiting.take(8, 0)) == [0]


def test_one_that_has_begun_is_never_late() -> None:
    waiting = Waiting()
    admitted = admitted_of([6, 1, 1])
    waiting.add(admitted, asked(10, 10, 99))
    waiting.take(4, 0)
    assert waiting.expire(50) == [(admitted, [1])]
    assert taken(waiting.take(8, 0)) == [4, 5, 7]


def test_the_most_urgent_leave_first_and_as_long_runs_as_can_be() -> None:
    waiting = Waiting()
    waiting.add(admitted_of([1] * 4), asked(50, 20, 21, 22))
    waiting.add(admitted_of([1] * 3, first=10), asked(10, 60, 23))
    batch = waiting.take(4, 0)
    assert taken(batch) == [1, 2, 3, 10] and len(batch.runs) == 2
    assert batch.deadline_ns == 10
    assert taken(waiting.take(8, 0)) == [0, 11, 12]


def test_what_came_before_the_first_deadline_is_ordered_with_the_rest() -> None:
    waiting = Waiting()
    waiting.add(admitted_of([9, 1], polled_ns=0), None)
    assert taken(waiting.take(4, 0)) == [0, 1, 2, 3]
    waiting.add(admitted_of([1, 1], first=20), asked(PATIENCE_NS - 1, PATIENCE_NS + 1))
    assert taken(waiting.take(6, 0)) == [4, 5, 6, 7, 8, 20], "one that has begun goes on first"
    assert taken(waiting.take(8, 0)) == [9, 21]
    waiting.add(admitted_of([1]), None)
    assert waiting.columns is None, "nothing asks for anything any more"


def test_a_later_request_of_a_key_makes_the_earlier_as_urgent() -> None:
    waiting = Waiting()
    waiting.add(admitted_of([1] * 4), asked(50, 40, 30, 20, keys=(7, 0, 8, 7)))
    assert [taken(waiting.take(1, 0)) for _ in range(4)] == [[0], [3], [2], [1]]


def test_a_request_that_would_fit_a_full_batch_is_not_cut() -> None:
    waiting = Waiting(8)
    waiting.add(admitted_of([2, 5, 9]), asked(1, 2, 3))
    assert taken(waiting.take(4, 0)) == [0, 1]
    assert taken(waiting.take(6, 0)) == [2, 3, 4, 5, 6, 7], "one that would not is"


@dataclass
class Request:
    """A request in the naive list: the numbers of its rows, of which ``begun`` have left."""

    rows: list[int]
    asks: bool
    order_ns: int
    key: int
    begun: int = 0


REQUEST = st.tuples(st.integers(1, 20), st.integers(0, 30), st.integers(0, 3))
ADD = st.tuples(st.just("add"), st.lists(REQUEST, min_size=1, max_size=5), st.booleans())
TAKE = st.tuples(st.just("take"), st.integers(1, BATCH_ROWS_MAX), st.none())
EXPIRE = st.tuples(st.just("expire"), st.integers(0, 30), st.none())


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(st.one_of(ADD, ADD, TAKE, TAKE, EXPIRE), max_size=30))
def test_whatever_comes_every_row_leaves_exactly_once_and_in_order(steps: list[tuple[str, object, object]]) -> None:
    waiting = Waiting()
    naive: list[Request] = []
    first = 0
    for what, argument, extra in steps:
        if what == "add":
            assert isinstance(argument, list)
            sizes, ends, keys = zip(*argument, strict=True)
            asks = asked(*ends, keys=keys) if extra else None
            waiting.add(admitted_of(sizes, first=first, polled_ns=-PATIENCE_NS), asks)
            for size, end_ns, key in argument:
                rows = list(range(first, first + size))
                naive.append(Request(rows, bool(extra), end_ns if extra else 0, key if extra else 0))
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
    """Whole requests, the most urgent ones that fit, those of a key as they came, larger ones cut where it is full."""
    rows = taken(batch)
    assert 0 < len(rows) <= rows_max
    gone, left = set(rows), []
    for request in naive:
        rest = request.rows[request.begun :]
        part = [row for row in rest if row in gone]
        assert part == rest[: len(part)], "out of order"
        assert [row for row in rows if row in part] == part
        if part and len(part) < len(rest):
            assert request.begun or len(request.rows) > rows_max, "only a request larger than a batch is split"
            assert len(rows) == rows_max, "a piece fills its batch"
        request.begun += len(part)
        if len(part) < len(rest):
            left.append(request)
    for at, request in enumerate(left):
        ahead = [other for other in naive[: naive.index(request)] if other.key == request.key != 0]
        assert not request.begun or not any(other in left[:at] for other in ahead), "overtaken by one of its key"
    return left


def check_expire(naive: list[Request], waiting: Waiting, now_ns: int) -> list[Request]:
    late = [r for r in naive if r.asks and r.order_ns <= now_ns and not r.begun]
    found = [
        column_of(admitted)[admitted.row_start[index] : admitted.row_start[index + 1], 0].tolist()
        for admitted, gone in waiting.expire(now_ns)
        for index in gone
    ]
    assert found == [request.rows for request in late]
    return [request for request in naive if request not in late]


def check_view(naive: list[Request], waiting: Waiting) -> None:
    assert waiting.rows == sum(len(request.rows) - request.begun for request in naive)
    assert waiting.next_deadline_ns == min((r.order_ns for r in naive if r.asks and not r.begun), default=None)
    assert (waiting.oldest_ns is None) == (not naive)


@settings(max_examples=200, deadline=None)
@given(requests=st.lists(REQUEST, min_size=1, max_size=25), cuts=st.lists(st.integers(1, 24), max_size=4))
def test_the_order_is_that_of_a_naive_scheduler(requests: list[tuple[int, int, int]], cuts: list[int]) -> None:
    """Each time the one goes whose turn it is: the most urgent counting those of its key behind it, then the oldest."""
    waiting = Waiting()
    for lo, hi in pairwise([0, *sorted({c for c in cuts if c < len(requests)}), len(requests)]):
        part = requests[lo:hi]
        asks = asked(*(end for _, end, _ in part), keys=[key for *_, key in part])
        waiting.add(admitted_of([1] * len(part), first=lo), asks)
    ours = [taken(waiting.take(1, 0))[0] for _ in requests]
    urgent = [
        min(
            end for at, (_, end, key) in enumerate(requests) if at == one or (at > one and key == requests[one][2] != 0)
        )
        for one in range(len(requests))
    ]
    assert ours == sorted(range(len(requests)), key=lambda one: (urgent[one], one))


@pytest.mark.parametrize("moment", [0, 5])
def test_an_expired_row_is_never_taken(moment: int) -> None:
    waiting = Waiting()
    waiting.add(admitted_of([1] * 4), asked(0, 5, 9, 5))
    gone = {index for _, indices in waiting.expire(moment) for index in indices}
    assert gone | set(taken(waiting.take(8, 0))) == {0, 1, 2, 3}
    assert waiting.rows == 0


def test_one_from_long_ago_leaves_the_others_their_order() -> None:
    """Its producer stamps in seconds, say: so many years times the keys that wait do not fit 64 bits."""
    waiting = Waiting()
    years_ago, keys = -1_788_000_000 * 10**9, range(2, 14)
    waiting.add(admitted_of([1] * 25), asked(years_ago, *[200] * 12, *[100] * 12, keys=(1, *keys, *keys)))
    assert [requests for _, requests in waiting.expire(0)] == [[0]]
    assert waiting.due_ns == 100
    waiting.add(admitted_of([1], first=25), asked(50, keys=(2,)))
    assert taken(waiting.take(3, 0)) == [1, 13, 25]
    assert waiting.due_ns == 100 and taken(waiting.take(22, 0)) == [*range(2, 13), *range(14, 25)]
