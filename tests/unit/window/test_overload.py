"""Who goes where not all that waits can be answered in time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.window import Reason
from tests.unit.window.test_slo import IDLE, MS, add, line, said, scheduler_of


@pytest.mark.parametrize(
    ("due_ms", "load", "gone"),
    [
        pytest.param([9] * 8 + [17] * 8 + [19] * 8, 1.3, 16, id="as many are in time then, whatever comes"),
        pytest.param([17] * 8 + [19] * 8, 1.3, 8, id="also where the batch would be full without"),
        pytest.param([9] * 8 + [21] * 8 + [23] * 8, 1.3, 8, id="but who can wait for the batch after it stays"),
        pytest.param([9] * 8 + [17] * 8 + [19] * 8, 1.2, 8, id="and with less load"),
        pytest.param([9] * 8 + [17] * 8 + [19] * 7, 1.3, 8, id="and who fills the batch"),
    ],
)
def test_with_far_more_load_than_can_be_served_those_stay_who_are_due_last(
    due_ms: list[float], load: float, gone: int
) -> None:
    scheduler = scheduler_of(slo_ms=20)
    for number in range(1, 320):
        scheduler.acked(1, line(1), (12 if number % 5 == 0 else 0) * MS, 0, late=False)
    add(scheduler, *due_ms)
    state = replace(IDLE, load=load - scheduler.load(0))
    assert said(scheduler.next(state, 0)) == (Reason.OVERLOAD, 0, gone)
    assert said(scheduler.next(state, 0)) == (Reason.FULL, 8, 0)
