"""The planner for deadlines: what it decides when, and what holds whatever comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.admit import HeaderColumns, RequestHeaders
from pipeline.infer import DeviceState
from pipeline.window import Decision, Parts, Plan, Reason, Scheduler
from pipeline.window.asked import PATIENCE_NS, PRIORITY_NS, asked_of
from pipeline.window.ordered import NEVER_NS, Asked
from tests.unit.infer.makers import RAW_CODEC, admitted_of

MS = 1_000_000
ROWS_MAX = 8
IDLE = DeviceState(idle=True, free_slots=1)
BUSY = DeviceState(idle=False, free_slots=1, free_ns=10 * MS)


def line(rows: int) -> int:
    return 2 * MS + rows * MS


def scheduler_of(slo_ms: int | None = None, gather_ms: int = 0, tail_ms: int = 0) -> Scheduler:
    """A batch of b rows takes 2 + b ms, answers take ``tail_ms`` more, as a hundred of them did."""
    sizes = range(1, ROWS_MAX + 1)
    slo_ns = None if slo_ms is None else slo_ms * MS
    parts = Parts("m/1", ROWS_MAX, sizes, gather_ms * MS, slo_ns, [(rows, line(rows)) for rows in sizes])
    scheduler = Scheduler(parts.planner(), ROWS_MAX)
    for _ in range(100):
        scheduler.acked(1, line(1), tail_ms * MS, 0, late=False)
    return scheduler


def add(scheduler: Scheduler, *due_ms: float, rows: int = 1, now_ms: float = 0, first: int = 0) -> None:
    """Requests that are due then arrive."""
    due_ns = np.array([round(ms * MS) for ms in due_ms], np.int64)
    asked = Asked(due_ns, due_ns, due_ns, np.zeros(len(due_ms), np.int64))
    scheduler.add(admitted_of([rows] * len(due_ms), first=first, polled_ns=0), asked, round(now_ms * MS))


def busily(scheduler: Scheduler) -> None:
    """So much has arrived of late that nothing is put off."""
    learning = scheduler._learning
    assert learning is not None
    learning.rate.add(10_000, 0)


def said(decision: Decision) -> tuple[Reason, int, int]:
    """Reason, rows that leave, requests that are expired."""
    gone = sum(len(requests) for _, requests in decision.late)
    return decision.plan.reason, decision.batch.rows if decision.batch is not None else 0, gone


@pytest.mark.parametrize(
    ("due_ms", "state", "answer"),
    [
        pytest.param([50, 60], IDLE, (Reason.IDLE, 2, 0), id="without an SLO an idle device never waits"),
        pytest.param([50] * 9, IDLE, (Reason.FULL, 8, 0), id="at most a batch"),
        pytest.param([50] * 7, BUSY, (Reason.NOTHING, 0, 0), id="a busy one gets only full batches"),
        pytest.param([50] * 8, BUSY, (Reason.FULL, 8, 0), id="a full one is filled meanwhile"),
        pytest.param([19] * 8, BUSY, (Reason.NOTHING, 0, 0), id="but none that would be late when it is free"),
        pytest.param([2.9], IDLE, (Reason.LATE, 0, 1), id="what cannot make it alone is expired at once"),
        pytest.param([12.9], BUSY, (Reason.LATE, 0, 1), id="counted from when the device is free"),
        pytest.param([3.1], IDLE, (Reason.IDLE, 1, 0), id="in time"),
        pytest.param(
            [5.1, 30, 30, 30], IDLE, (Reason.DEADLINE, 3, 0), id="no more rows than the first deadline allows"
        ),
        pytest.param([4.1] * 3 + [9] * 4, IDLE, (Reason.OVERLOAD, 0, 3), id="who keeps the batch small goes"),
        pytest.param([4.1] * 3 + [9], IDLE, (Reason.DEADLINE, 2, 0), id="not all can, and no other batch is larger"),
        pytest.param([4.1] * 2 + [9] * 3, IDLE, (Reason.DEADLINE, 2, 0), id="all can, one after the other"),
    ],
)
def test_what_is_decided(due_ms: list[float], state: DeviceState, answer: tuple[Reason, int, int]) -> None:
    scheduler = scheduler_of()
    add(scheduler, *due_ms)
    assert said(scheduler.next(state, 0)) == answer


def test_what_comes_back_and_is_published_takes_its_time_too() -> None:
    scheduler = scheduler_of(tail_ms=4)
    add(scheduler, 9.1, 30, 30, 30)
    assert said(scheduler.next(IDLE, 0)) == (Reason.DEADLINE, 3, 0)
    add(scheduler, 6.9)
    assert said(scheduler.next(IDLE, 0)) == (Reason.LATE, 0, 1)


def test_a_broker_that_was_slow_does_not_make_everyone_expire_for_ever() -> None:
    """All would be refused for a tail that nothing any more could show to be over."""
    scheduler = scheduler_of(tail_ms=500)
    add(scheduler, 400, 400)
    assert said(scheduler.next(IDLE, 0)) == (Reason.LATE, 0, 2)
    add(scheduler, 1_400, 1_400, now_ms=1_001)
    assert said(scheduler.next(IDLE, 1_001 * MS)) == (Reason.IDLE, 2, 0), "nothing was answered for a second"
    add(scheduler, 1_490, now_ms=1_002)
    plan = scheduler.next(BUSY, 1_002 * MS).plan
    assert plan.wake_at_ns == 1_490 * MS, "until then it would be asked in vain"
    scheduler.acked(2, line(2), MS, 1_006 * MS, late=False)
    assert said(scheduler.next(IDLE, 1_010 * MS)) == (Reason.IDLE, 1, 0)
    add(scheduler, 1_013.9, 1_015, now_ms=1_010)
    assert said(scheduler.next(IDLE, 1_010 * MS)) == (Reason.LATE, 0, 1), "now it is known again"


def test_below_half_load_a_batch_leaves_when_one_more_row_would_be_too_late() -> None:
    scheduler = scheduler_of(slo_ms=20)
    add(scheduler, 20, 25)
    plan = scheduler.next(IDLE, 0).plan
    assert (plan.reason, plan.wake_at_ns) == (Reason.GATHERING, 20 * MS - line(3) - MS - MS)
    add(scheduler, 20)
    plan = scheduler.next(IDLE, 0).plan
    assert plan.wake_at_ns == 20 * MS - line(4) - MS - MS, "a twentieth of the SLO is kept"
    assert said(scheduler.next(IDLE, plan.wake_at_ns)) == (Reason.DEADLINE, 3, 0)


def test_a_batch_is_put_off_with_room_for_a_stall_and_sized_with_room_for_what_is_usual() -> None:
    scheduler = scheduler_of(slo_ms=40)
    for number in range(1, 320):
        scheduler.acked(1, line(1), (12 if number % 20 == 0 else 0) * MS, 0, late=False)
    add(scheduler, 40)
    plan = scheduler.next(IDLE, 0).plan
    assert plan.wake_at_ns == 40 * MS - line(2) - 12 * MS - 2 * MS - MS
    busily(scheduler)
    add(scheduler, *[11] * 7)
    assert said(scheduler.next(IDLE, 0)) == (Reason.FULL, 8, 0)


@pytest.mark.parametrize(
    ("due_ms", "answer"),
    [
        pytest.param([16] * 2 + [60] * 5, (Reason.DEADLINE, 2, 0), id="all make it in two batches, noise or not"),
        pytest.param([16] * 8, (Reason.FULL, 8, 0), id="else better one in which noise would make some late"),
        pytest.param([9] * 8 + [11] * 8, (Reason.OVERLOAD, 0, 8), id="than expire whom noise only might"),
    ],
)
def test_room_for_noise_is_kept_while_all_make_it_so(due_ms: list[float], answer: tuple[Reason, int, int]) -> None:
    scheduler = scheduler_of()
    for number in range(1, 320):
        scheduler.acked(1, line(1), (12 if number % 5 == 0 else 0) * MS, 0, late=False)
    add(scheduler, *due_ms)
    assert said(scheduler.next(IDLE, 0)) == answer


def test_a_device_that_will_be_free_in_a_moment_is_planned_then() -> None:
    scheduler = scheduler_of()
    add(scheduler, 50)
    assert scheduler.next(BUSY, 0).plan.wake_at_ns == 50 * MS - line(0), "when it would be too late"
    assert scheduler.next(replace(BUSY, idle_ns=7 * MS), 0).plan.wake_at_ns == 7 * MS
    assert scheduler.next(replace(BUSY, idle_ns=7 * MS, free_slots=0), 0).plan.wake_at_ns == 50 * MS - line(0)
    assert said(scheduler.next(replace(BUSY, idle=True), 7 * MS)) == (Reason.IDLE, 1, 0)


def test_nothing_is_put_off_while_all_is_asked_for() -> None:
    scheduler = scheduler_of(slo_ms=20)
    busily(scheduler)
    add(scheduler, 20, 25)
    assert said(scheduler.next(IDLE, 0)) == (Reason.IDLE, 2, 0)


def test_the_more_load_the_shorter_a_batch_is_put_off() -> None:
    wakes = []
    for load in (0.0, 0.49, 0.575, 0.64, 0.66):
        scheduler = scheduler_of(slo_ms=20)
        add(scheduler, 20)
        others = replace(IDLE, load=load - scheduler.load(0))
        wakes.append(scheduler.next(others, 0).plan.wake_at_ns or 0)
        why = Reason.DEADLINE if load < 0.5 else Reason.GATHERED
        assert not wakes[-1] or said(scheduler.next(others, wakes[-1])) == (why, 1, 0)
    assert wakes[0] == wakes[1] > wakes[2] > wakes[3] > wakes[4] == 0
    assert wakes[2] == pytest.approx(wakes[0] / 2, rel=0.02)


def test_whoever_was_too_late_makes_batches_leave_sooner_for_a_while() -> None:
    scheduler = scheduler_of(slo_ms=20)
    for _ in range(2):
        add(scheduler, 1)
        assert said(scheduler.next(IDLE, 0)) == (Reason.LATE, 0, 1)
    add(scheduler, 20)
    usual_ns = 20 * MS - line(2) - MS - MS
    assert scheduler.next(IDLE, 0).plan.wake_at_ns == usual_ns - 3 * MS, "a fifth of the SLO is kept"
    for _ in range(400):
        scheduler.acked(1, line(1), 0, 0, late=False)
    assert scheduler.next(IDLE, 0).plan.wake_at_ns == usual_ns


def test_nothing_is_put_off_before_it_is_known_how_the_machine_stalls() -> None:
    scheduler = Scheduler(Parts("m/1", 8, range(1, 9), 0, 20 * MS, [(1, line(1))]).planner(), 8)
    for _ in range(99):
        scheduler.acked(1, line(1), 0, 0, late=False)
    add(scheduler, 20)
    assert scheduler.gather_ns(0) == (0, 0)
    assert said(scheduler.next(IDLE, 0)) == (Reason.IDLE, 1, 0)


def test_nor_while_other_models_load_the_device() -> None:
    scheduler = scheduler_of(slo_ms=20)
    add(scheduler, 20, 25)
    assert said(scheduler.next(replace(IDLE, load=0.8), 0)) == (Reason.IDLE, 2, 0)


def test_while_batches_are_put_off_requests_gather_before_they_are_added() -> None:
    scheduler = scheduler_of(slo_ms=20)
    assert scheduler.gather_ns(0) == (4 * MS, 4 * MS)
    assert scheduler.gather_ns(60_000 * MS) == (0, 0), "nothing was answered of late: who knows how long that takes"
    busily(scheduler)
    assert scheduler.gather_ns(0) == (MS, 4 * MS), "for long only behind a batch that runs"
    assert scheduler_of().gather_ns(0) == (0, 0), "without an SLO nothing is put off"
    assert scheduler_of(slo_ms=60_000).gather_ns(0) == (20 * MS, 20 * MS), "the poll thread has more to do"


def test_the_manifests_gathering_is_the_longest_that_a_batch_is_put_off() -> None:
    scheduler = scheduler_of(slo_ms=20, gather_ms=3)
    due_ns = np.array([20 * MS], np.int64)
    scheduler.add(admitted_of([1], polled_ns=0), Asked(due_ns, due_ns, due_ns, due_ns * 0), 0)
    assert scheduler.next(IDLE, 0).plan.wake_at_ns == 3 * MS
    assert said(scheduler.next(IDLE, 3 * MS)) == (Reason.GATHERED, 1, 0), "nobody would be late yet"


def test_a_plan_says_what_it_was_computed_from() -> None:
    scheduler = scheduler_of(slo_ms=20, tail_ms=1)
    add(scheduler, 20, 25, 26)
    basis = scheduler.next(IDLE, MS).plan.basis
    assert basis is not None
    assert (basis.rows, basis.due_ns, basis.free_ns, basis.run_ns) == (3, 20 * MS, MS, line(3))
    assert basis.margin_ns == MS and 0 < basis.load < 0.5


def test_a_model_that_is_not_affine_is_found_out_by_trying() -> None:
    sizes = range(1, ROWS_MAX + 1)
    scheduler = Scheduler(Parts("m/1", ROWS_MAX, sizes).planner(), ROWS_MAX)
    scheduler.acked(1, line(1), 0, 0, late=False)
    for _ in range(20):
        for rows in sizes:
            scheduler.ran(rows, MS if rows < 5 else 9 * MS)
        assert scheduler.load(0) == 0 and scheduler._learning is not None and scheduler._learning.cost.run_ns(1) > 0
    add(scheduler, *[50] * 8)
    for rows in (2, 3):
        assert said(scheduler.next(IDLE, 0)) == (Reason.FULL, rows, 0), "all eight would be in time"
        scheduler.acked(rows, MS, 0, 0, late=False)
    for _ in range(3):
        scheduler.acked(3, MS, 40 * MS, 0, late=True)
    assert said(scheduler.next(IDLE, 0))[1] == 2


@pytest.mark.parametrize(
    ("first_ms", "tries", "answer"),
    [
        pytest.param(1, 20, (Reason.DEADLINE, 1, 0), id="eight in eight times the time are not worth the one"),
        pytest.param(2, 20, (Reason.OVERLOAD, 0, 1), id="eight in four times the time are"),
        pytest.param(2, 1, (Reason.DEADLINE, 1, 0), id="but two are not, and more are not tried yet"),
    ],
)
def test_also_where_a_model_is_not_affine_who_keeps_the_batch_small_goes(
    first_ms: int, tries: int, answer: tuple[Reason, int, int]
) -> None:
    sizes = range(1, ROWS_MAX + 1)
    scheduler = Scheduler(Parts("m/1", ROWS_MAX, sizes).planner(), ROWS_MAX)
    for _ in range(20):
        for rows in sizes:
            scheduler.ran(rows, (first_ms if rows == 1 else 8) * MS)
    for _ in range(tries):
        scheduler.acked(1, first_ms * MS, 0, 0, late=False)
    assert scheduler._learning is not None and not scheduler._learning.cost.affine
    add(scheduler, first_ms + 0.5, *[8.5] * 40)
    assert said(scheduler.next(IDLE, 0)) == answer


def test_one_larger_than_a_batch_goes_in_pieces_among_others_with_deadlines() -> None:
    scheduler = scheduler_of()
    add(scheduler, 90, rows=11)
    add(scheduler, 95, first=20)
    assert [said(scheduler.next(IDLE, 0))[1] for _ in range(2)] == [8, 4]


def test_however_many_urgent_ones_come_the_least_urgent_has_its_turn() -> None:
    """Twice what can be served, all of priority 9, for three seconds; one of priority 0 came a little before them."""
    scheduler, now_ns, left = scheduler_of(), 0, None
    patient = replace(
        admitted_of([1], polled_ns=0), headers=HeaderColumns(1, RequestHeaders(RAW_CODEC, priority=0), {})
    )
    scheduler.add(patient, asked_of(patient, None, 0), 0)
    while left is None and now_ns < 3_000 * MS:
        urgent = admitted_of([1] * 16, polled_ns=now_ns)
        urgent = replace(urgent, headers=HeaderColumns(16, RequestHeaders(RAW_CODEC, priority=9), {}))
        scheduler.add(urgent, asked_of(urgent, None, 0), now_ns)
        batch = scheduler.next(IDLE, now_ns).batch
        assert batch is not None
        if any(run.admitted is patient for run in batch.runs):
            left = now_ns
        now_ns += line(batch.rows)
    assert left is not None and PATIENCE_NS < left <= PATIENCE_NS + 10 * PRIORITY_NS


# --- whatever comes ---------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """All requests of a schedule, and what became of them: when, and in which step."""

    rows: list[int] = field(default_factory=list)
    deadline_ns: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    answered: dict[int, int] = field(default_factory=dict)  # request -> end
    expired: dict[int, tuple[int, Plan]] = field(default_factory=dict)  # request -> when, by which plan
    steps: dict[int, int] = field(default_factory=dict)
    decisions: list[tuple[int, Plan, list[int]]] = field(default_factory=list)


Request = tuple[int, int | None, int, int]  # rows, deadline in ms after arrival, priority, key
REQUEST = st.tuples(st.integers(1, 3), st.none() | st.integers(0, 60), st.integers(0, 9), st.integers(0, 3))
ARRIVALS = st.lists(st.tuples(st.integers(0, 15), st.lists(REQUEST, min_size=1, max_size=12)), min_size=1, max_size=10)


def drive(arrivals: Sequence[tuple[int, list[Request]]], slo_ms: int | None, tail_ms: int) -> Run:
    """One device, virtual time: every decision obeyed until nothing is left."""
    scheduler, run, at_ns, now_ns, owners = scheduler_of(slo_ms, tail_ms=tail_ms), Run(), 0, 0, {}
    pending = list(arrivals)
    next_ns = pending[0][0] * MS
    for _ in range(2_000):
        while pending and next_ns <= now_ns:
            _, requests = pending.pop(0)
            admitted = admitted_of([rows for rows, *_ in requests], first=sum(run.rows), polled_ns=next_ns)
            deadline_ns = [NEVER_NS if d is None else next_ns + d * MS for _, d, *_ in requests]
            order_ns = [
                min(d, next_ns + PATIENCE_NS) - (p - 5) * PRIORITY_NS
                for d, (*_, p, _) in zip(deadline_ns, requests, strict=True)
            ]
            keys = [key for *_, key in requests]
            due_ns = np.minimum(deadline_ns, next_ns + PATIENCE_NS)
            columns = (np.array(order_ns), due_ns, np.array(deadline_ns), np.array(keys))
            scheduler.add(admitted, Asked(*columns), now_ns)
            owners[id(admitted)] = admitted, len(run.rows)
            run.rows += [rows for rows, *_ in requests]
            run.deadline_ns += deadline_ns
            run.keys += keys
            at_ns = next_ns
            next_ns = at_ns + pending[0][0] * MS if pending else 0
        if not scheduler.waiting.rows:
            if not pending:
                return run
            now_ns = next_ns
            continue
        step = len(run.decisions)
        decision = scheduler.next(IDLE, now_ns)
        plan, batch = decision.plan, decision.batch
        gone = [owners[id(admitted)][1] + index for admitted, indices in decision.late for index in indices]
        run.expired |= dict.fromkeys(gone, (now_ns, plan))
        left: list[int] = []
        if batch is not None:
            assert 0 < batch.rows <= ROWS_MAX and batch.rows == sum(r.rows for r in batch.runs)
            left = [owners[id(r.admitted)][1] + i for r in batch.runs for i in range(r.lo, r.hi)]
            run.answered |= dict.fromkeys(left, now_ns + line(batch.rows))
            scheduler.ran(batch.rows, line(batch.rows))
            now_ns += line(batch.rows)
        elif not gone:
            assert plan.wake_at_ns is not None and plan.wake_at_ns > now_ns, "nothing would wake it"
            now_ns = min(plan.wake_at_ns, next_ns) if pending else plan.wake_at_ns
        run.steps |= dict.fromkeys(left + gone, step)
        run.decisions.append((now_ns, plan, left or gone))
    raise AssertionError("it goes on for ever")


@settings(max_examples=150, deadline=None)
@given(arrivals=ARRIVALS, slo_ms=st.none() | st.integers(10, 40), tail_ms=st.integers(0, 5))
def test_whatever_comes(arrivals: list[tuple[int, list[Request]]], slo_ms: int | None, tail_ms: int) -> None:
    run = drive(arrivals, slo_ms, tail_ms)
    everyone = set(range(len(run.rows)))
    assert run.answered.keys() | run.expired.keys() == everyone, "nothing is lost"
    assert not run.answered.keys() & run.expired.keys(), "nothing is answered twice"
    for later in run.answered:
        earlier = [run.steps[one] for one in range(later) if run.keys[one] == run.keys[later] != 0]
        assert max(earlier, default=0) <= run.steps[later], "answered before an earlier one of its key had its outcome"
    for request, (at_ns, plan) in run.expired.items():
        check_hopeless(run, request, at_ns, plan, tail_ms)
    again = drive(arrivals, slo_ms, tail_ms)
    assert run.decisions == again.decisions, "the same arrivals make the same batches"


def check_hopeless(run: Run, request: int, at_ns: int, plan: Plan, tail_ms: int) -> None:
    """It could not have been answered in time alone and next; or not at the end of the largest batch, nor later.

    The batch that leaves next may turn out smaller than the one it went for: then it might just have made it.
    """
    deadline_ns = run.deadline_ns[request]
    if plan.reason is Reason.LATE:
        assert deadline_ns <= at_ns + line(run.rows[request]) + tail_ms * MS + 1
        return
    assert plan.reason is Reason.OVERLOAD and plan.basis is not None
    assert deadline_ns <= at_ns + line(ROWS_MAX) + plan.basis.margin_ns
