"""A worker's state goes forwards and tells when it last got on."""

from __future__ import annotations

import pytest

from pipeline.observe import Health, State
from tests.unit.observe.batch_maker import StoppedClock


def test_only_a_ready_worker_says_ready() -> None:
    health = Health(StoppedClock())
    said = []
    for state in State:
        health.become(state)
        said.append((health.to_dict()["state"], health.to_dict()["ready"]))
    assert said == [("starting", False), ("ready", True), ("draining", False), ("stopped", False)]


def test_idle_time_counts_from_the_last_progress_and_state_time_from_the_change() -> None:
    clock = StoppedClock()
    health = Health(clock)
    health.become(State.READY)
    clock.advance(1_500)
    health.progressed()
    clock.advance(500)
    assert health.to_dict() == {"state": "ready", "ready": True, "state_s": 2.0, "idle_s": 0.5}


def test_a_state_never_goes_back() -> None:
    health = Health(StoppedClock())
    health.become(State.DRAINING)
    with pytest.raises(AssertionError):
        health.become(State.READY)
