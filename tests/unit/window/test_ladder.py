"""Which rung answers a batch: the highest on which nobody is late and that keeps up, without flapping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.infer import DeviceState
from pipeline.window import DeadlineFirst, Ladder, Reason, Recording, replay
from pipeline.window.ladder import TRY_NS, Outlook, choose
from tests.unit.window.laddered import BUSY, IDLE, MS, PARTS, ROWS_MAX, add, ask, rung_of, scheduler_of

FULL, FAST, DEFAULT, EXPIRED = range(4)
outlooks = st.builds(Outlook, st.floats(0, 3), st.booleans(), st.booleans())


@given(st.data(), st.lists(outlooks, min_size=1, max_size=5))
def test_less_slack_and_more_load_never_lead_to_a_higher_rung(data: Any, now: list[Outlook]) -> None:
    base = data.draw(st.integers(0, len(now) - 1))
    worse = [
        replace(each, load=each.load + data.draw(st.floats(0, 2)), in_time=each.in_time and data.draw(st.booleans()))
        for each in now
    ]
    assert all(was <= is_ for was, is_ in zip(choose(base, now), choose(base, worse), strict=True))


@given(st.lists(st.builds(Outlook, st.floats(0, 0.8), st.just(True)), min_size=1, max_size=5), st.data())
def test_the_model_itself_answers_where_nobody_is_late_and_little_arrives(now: list[Outlook], data: Any) -> None:
    assert choose(data.draw(st.integers(0, len(now) - 1)), now) == (0, 0)


@given(st.lists(st.floats(0.801, 1.0), min_size=1, max_size=30))
def test_a_load_about_the_limit_does_not_make_it_flap(loads: list[float]) -> None:
    for start in (0, 1):
        base = start
        for load in loads:
            base, rung = choose(base, [Outlook(load, in_time=True), Outlook(load / 10, in_time=True)])
            assert (base, rung) == (start, start)


@settings(deadline=None)
@given(
    st.lists(st.floats(0.1, 60), min_size=1, max_size=30),
    st.floats(0, 50),
    st.sampled_from([IDLE, replace(BUSY, idle=True)]),
    st.booleans(),
)
def test_the_same_requests_with_less_slack_are_never_served_by_a_higher_rung(
    due_ms: list[float], less_ms: float, state: DeviceState, answers: bool
) -> None:
    parts = PARTS if answers else replace(PARTS, rungs=PARTS.rungs[:2])
    rungs = []
    for shift_ms in (0.0, less_ms):
        scheduler = scheduler_of(parts)
        add(scheduler, *(ms - shift_ms for ms in due_ms))
        rungs.append(rung_of(ask(scheduler, state)))
    assert rungs[0] <= rungs[1]
    assert answers or DEFAULT not in rungs


@pytest.mark.parametrize(
    ("due_ms", "state", "rung", "rows"),
    [
        pytest.param([50] * 3, IDLE, FULL, 3, id="nobody is late"),
        pytest.param([4.9] * 3, IDLE, FAST, 3, id="on the model they would be"),
        pytest.param([11] * 8 + [12] * 8, IDLE, FAST, 8, id="those behind them would be"),
        pytest.param([11] * 8 + [20] * 8, IDLE, FULL, 8, id="nor those"),
        pytest.param([0.9, 50, 50], IDLE, DEFAULT, 1, id="on no model: the constant, and only that one"),
        pytest.param([10.9] + [50] * 3, BUSY, DEFAULT, 1, id="the constant waits for its turn"),
        pytest.param([9.9] + [50] * 3, BUSY, EXPIRED, 1, id="even that would be late"),
        pytest.param([-1, 0.5, 50], IDLE, EXPIRED, 1, id="the one is late, the other not yet"),
    ],
)
def test_the_highest_rung_on_which_nobody_is_late(
    due_ms: list[float], state: DeviceState, rung: int, rows: int
) -> None:
    scheduler = scheduler_of()
    scheduler._rungs[1].cost.tail_ns = scheduler._rungs[0].cost.tail_ns = 0.0
    add(scheduler, *due_ms)
    decision = ask(scheduler, state)
    assert rung_of(decision) == rung
    assert (decision.batch.rows if decision.batch else sum(len(gone) for _, gone in decision.late)) == rows


def test_what_the_model_cannot_keep_up_with_is_served_below_until_there_is_room() -> None:
    scheduler, rungs = scheduler_of(), []
    for at, share in enumerate((0.9, 1.1, 0.9, 1.1, 0.85, 0.79, 0.9)):
        now_ns = (at + 1) * TRY_NS // 10
        add(scheduler, now_ns / MS + 90, now_ns=now_ns)
        rungs.append(rung_of(ask(scheduler, IDLE, now_ns, share)))
    assert rungs == [FULL, FAST, FAST, FAST, FAST, FULL, FULL]


def test_a_rung_that_was_slow_is_tried_again_once_a_second() -> None:
    """What it costs may have been learnt while the machine was slow: nothing else would ever tell."""
    scheduler, tried = scheduler_of(), []
    for at in range(1, 40):
        now_ns = at * TRY_NS // 10
        add(scheduler, now_ns / MS + 90, now_ns=now_ns)
        if rung_of(ask(scheduler, IDLE, now_ns, share=1.5)) == FULL:
            tried.append(at)
    assert tried == [10, 20, 30]


def test_a_tried_rung_learns_and_serves_again() -> None:
    scheduler = scheduler_of()
    for _ in range(100):
        scheduler.ran(8, 40 * MS)  # four times what it takes
    add(scheduler, 12)
    assert rung_of(ask(scheduler, share=0.6)) == FAST
    for _ in range(100):
        scheduler.ran(8, 10 * MS)
    add(scheduler, 12)
    assert rung_of(ask(scheduler, share=0.6)) == FULL


def test_without_a_free_slot_those_late_on_every_model_wait_for_one_and_expire_in_time() -> None:
    scheduler = scheduler_of()
    scheduler._rungs[1].cost.tail_ns = scheduler._rungs[0].cost.tail_ns = 0.0
    add(scheduler, 10.9, 50)
    plan = scheduler.next(replace(BUSY, free_slots=0), 0).plan
    assert (plan.run_rows, plan.expire_ns, plan.wake_at_ns) == (0, None, round(10.9 * MS))
    assert rung_of(scheduler.next(BUSY, 0)) == DEFAULT


def test_a_keys_earlier_requests_go_with_the_one_that_is_late() -> None:
    scheduler = scheduler_of()
    scheduler._rungs[1].cost.tail_ns = scheduler._rungs[0].cost.tail_ns = 0.0
    add(scheduler, 50, 60, 0.5, 70, keys=[1, 2, 1, 1])
    decision = ask(scheduler)
    assert rung_of(decision) == DEFAULT
    assert decision.batch is not None
    assert [(run.lo, run.hi) for run in decision.batch.runs] == [(0, 1), (2, 3)]
    decision = ask(scheduler)
    assert decision.batch is not None
    assert [(run.lo, run.hi) for run in decision.batch.runs] == [(1, 2), (3, 4)]
    assert scheduler.waiting.rows == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(1, 4)), min_size=1, max_size=40))
def test_of_no_key_does_a_request_stay_that_came_before_one_that_left(requests: list[tuple[int, int, int]]) -> None:
    scheduler = scheduler_of()
    came = [id(add(scheduler, due_ms, keys=[key], rows=rows)) for key, due_ms, rows in requests]
    waiting = scheduler.waiting
    if all(due_ms > 10 for _, due_ms, _ in requests):
        return
    batch = waiting.take_late(10 * MS, 0.0, ROWS_MAX, 0)
    assert batch is not None and 0 < batch.rows <= ROWS_MAX
    left = {came.index(id(run.admitted)) for run in batch.runs}
    assert batch.deadline_ns == min(requests[at][1] * MS for at in left)
    assert waiting.rows == sum(rows for at, (_, _, rows) in enumerate(requests) if at not in left)
    latest = {requests[at][0]: at for at in sorted(left) if requests[at][0]}
    for at, (key, due_ms, _) in enumerate(requests):
        assert (at in left) or at > latest.get(key, -1)
        assert (at not in left) or due_ms <= 10 or key


def test_a_request_in_pieces_is_served_by_one_rung() -> None:
    scheduler = scheduler_of()
    add(scheduler, 90, rows=20)
    assert rung_of(ask(scheduler, share=1.1)) == FAST
    assert [rung_of(ask(scheduler, share=0.7)) for _ in range(2)] == [FAST, FAST]
    add(scheduler, 90)
    assert rung_of(ask(scheduler, share=0.7)) == FULL


def test_one_that_is_larger_than_a_batch_expires() -> None:
    scheduler = scheduler_of()
    add(scheduler, 0.5, rows=4)
    add(scheduler, 0.6, rows=20)
    scheduler._rungs[1].cost.tail_ns = 0.0
    assert rung_of(ask(scheduler)) == DEFAULT
    assert rung_of(ask(scheduler)) == EXPIRED


def test_costs_are_learnt_by_the_rung_that_ran() -> None:
    scheduler = scheduler_of()
    before = [planner.cost.run_ns(8) for planner in scheduler._rungs]
    for _ in range(20):
        scheduler.ran(8, 5 * MS, FAST)
        scheduler.ran(8, 5 * MS, DEFAULT)  # costs nothing and teaches nothing
    assert scheduler._rungs[0].cost.run_ns(8) == before[0]
    assert scheduler._rungs[1].cost.run_ns(8) < before[1]


def test_what_another_version_waits_for_leaves_on_the_rung_that_was_chosen() -> None:
    scheduler = scheduler_of()
    add(scheduler, 9.9)
    decision = scheduler.next(replace(BUSY, free_ns=7 * MS), 0, last=True)
    assert (decision.plan.reason, rung_of(decision)) == (Reason.HAND_OVER, FAST)


def test_a_model_without_a_ladder_has_none_of_it() -> None:
    planner = replace(PARTS, rungs=(), below=()).planner()
    assert isinstance(planner, DeadlineFirst)
    assert isinstance(PARTS.planner(), Ladder)


def test_a_recording_is_decided_again_and_names_the_rungs() -> None:
    lines: list[bytes] = []
    scheduler = scheduler_of(recording=Recording(lines.append, PARTS))
    for at in range(1, 60):
        now_ns = at * 20 * MS
        add(scheduler, *[at * 20 + 3 + at % 40] * (1 + at % 12), now_ns=now_ns)
        while (decision := scheduler.next(IDLE, now_ns)).batch is not None or decision.late:
            if decision.batch is not None:
                scheduler.ran(decision.batch.rows, 3 * MS, decision.batch.rung)
                scheduler.acked(decision.batch.rows, 3 * MS, MS, now_ns, late=False, rung=decision.batch.rung)
    departures = list(replay(lines))
    assert departures and all(each.same for each in departures)
    assert {each.rung for each in departures if each.rows} >= {"full", "fast"}
    assert all(each.rung is None for each in departures if not each.rows)


def test_that_others_ask_for_the_load_between_decisions_changes_no_replay() -> None:
    """Asking has what ran be learnt from, which is not recorded."""
    lines: list[bytes] = []
    parts = replace(PARTS, rungs=(), below=())
    scheduler = scheduler_of(parts, recording=Recording(lines.append, parts))
    for at in range(1, 60):
        now_ns = at * 20 * MS
        for rows in (1 + at % 8, 8):
            scheduler.ran(rows, (3 + at * rows % 5) * MS)
            scheduler.next(IDLE, now_ns)  # nothing waits
            scheduler.load(now_ns)
        add(scheduler, at * 20 + 15, now_ns=now_ns)
        scheduler.next(IDLE, now_ns)
    departures = list(replay(lines))
    assert departures and all(each.same for each in departures)
