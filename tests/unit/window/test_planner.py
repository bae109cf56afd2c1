"""When the work-conserving planner lets a batch leave, and when it asks to be woken."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.infer import DeviceState
from pipeline.window import Plan, Reason, WorkConserving
from pipeline.window.ordered import Columns

ROWS_MAX = 8
IDLE, BUSY = DeviceState(idle=True, free_slots=2), DeviceState(idle=False, free_slots=2)
FULL_UP, ENCODING = DeviceState(idle=False, free_slots=0), DeviceState(idle=True, free_slots=0)


@dataclass(frozen=True)
class View:
    """What waits; the oldest arrived at 100."""

    rows: int = 0
    oldest_ns: int | None = None
    next_deadline_ns: int | None = None
    request_rows_max: int = 1
    columns: Columns | None = None


def view(rows: int, deadline_ns: int | None = None) -> View:
    return View(rows, 100 if rows else None, deadline_ns)


def run(rows: int, reason: str) -> Plan:
    return Plan(run_rows=rows, reason=Reason(reason))


def wait(until_ns: int, reason: str) -> Plan:
    return Plan(wake_at_ns=until_ns, reason=Reason(reason))


LATE = Plan(expire_ns=100, reason=Reason.LATE)


@pytest.mark.parametrize(
    ("gather_ns", "waiting", "device", "now_ns", "plan"),
    [
        pytest.param(0, view(0), IDLE, 100, Plan(), id="nothing waits"),
        pytest.param(0, view(1), IDLE, 100, run(1, "idle"), id="an idle device runs what there is at once"),
        pytest.param(0, view(99), IDLE, 100, run(8, "full"), id="at most a batch"),
        pytest.param(0, view(7), BUSY, 900, Plan(), id="a busy one waits until a batch is full"),
        pytest.param(0, view(8), BUSY, 100, run(8, "full"), id="a full batch is filled meanwhile"),
        pytest.param(0, view(99), FULL_UP, 100, Plan(), id="no slot, no batch"),
        pytest.param(0, view(99), ENCODING, 900, Plan(), id="idle, but every slot is being read"),
        pytest.param(50, view(1), IDLE, 149, wait(150, "gathering"), id="gathers until the oldest is of age"),
        pytest.param(50, view(1), IDLE, 150, run(1, "gathered"), id="of age"),
        pytest.param(50, view(8), IDLE, 100, run(8, "full"), id="full before it is of age"),
        pytest.param(50, view(1), BUSY, 100, Plan(), id="the end of what runs wakes, not the age"),
        pytest.param(0, view(1, 90), IDLE, 100, LATE, id="what is late goes before anything runs"),
        pytest.param(0, view(1, 100), FULL_UP, 100, LATE, id="late at the deadline, slot or not"),
        pytest.param(0, view(1, 101), IDLE, 100, run(1, "idle"), id="in time"),
        pytest.param(0, view(1, 130), BUSY, 100, wait(130, "nothing"), id="a deadline wakes"),
        pytest.param(0, view(99, 130), FULL_UP, 100, wait(130, "nothing"), id="also without a slot"),
        pytest.param(50, view(1, 130), IDLE, 100, wait(130, "gathering"), id="the deadline comes first"),
        pytest.param(50, view(1, 170), IDLE, 100, wait(150, "gathering"), id="the age comes first"),
    ],
)
def test_plans(gather_ns: int, waiting: View, device: DeviceState, now_ns: int, plan: Plan) -> None:
    assert WorkConserving(ROWS_MAX, gather_ns).plan(waiting, device, now_ns) == plan


MOMENTS = st.integers(0, 10_000)


@given(
    gather_ns=st.integers(0, 500),
    rows=st.integers(1, 40),
    oldest_ns=MOMENTS,
    deadline_ns=st.none() | MOMENTS,
    device=st.builds(DeviceState, idle=st.booleans(), free_slots=st.integers(0, 3)),
    age_ns=st.integers(0, 1_000),
)
def test_every_plan_can_be_obeyed_and_goes_on(
    gather_ns: int, rows: int, oldest_ns: int, deadline_ns: int | None, device: DeviceState, age_ns: int
) -> None:
    now_ns = oldest_ns + age_ns
    waiting = View(rows, oldest_ns, deadline_ns)
    plan = WorkConserving(ROWS_MAX, gather_ns).plan(waiting, device, now_ns)
    assert 0 <= plan.run_rows <= min(rows, ROWS_MAX)
    assert device.free_slots or not plan.run_rows
    late = deadline_ns is not None and deadline_ns <= now_ns
    assert plan.expire_ns == (now_ns if late else None)
    assert (plan.run_rows > 0) + late + (plan.wake_at_ns is not None) <= 1
    if plan.wake_at_ns is not None:
        assert plan.wake_at_ns > now_ns, "asked again at once it would spin"
        assert deadline_ns is None or plan.wake_at_ns <= deadline_ns
    if device.idle and device.free_slots and not plan.run_rows and not late:
        assert gather_ns > age_ns and plan.wake_at_ns is not None, "nothing else would wake an idle device"
        assert plan.wake_at_ns <= oldest_ns + gather_ns
