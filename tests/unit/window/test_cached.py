"""A rung of what is remembered answers whom every model would be too late for, in the order of keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.window import Recording, Scheduler, replay
from tests.unit.window.laddered import BUSY, CACHED, IDLE, MS, add, ask, rung_of, scheduler_of


def remembering(*requests: int, rungs: Sequence[str] = CACHED.rungs) -> Scheduler:
    """Of a model that remembers its answers to requests of these numbers, and whose answers are published at once."""
    scheduler = scheduler_of(
        replace(CACHED, rungs=rungs), recall=lambda admitted, request: {} if request in requests else None
    )
    for planner in scheduler._rungs:
        planner.cost.tail_ns = 0.0
    return scheduler


def departures_of(scheduler: Scheduler) -> list[tuple[str, list[int]]]:
    """On which rung requests of one `Admitted` leave, one batch after the other."""
    left = []
    while scheduler.waiting.rows:
        decision = ask(scheduler)
        if decision.batch is None:
            left.append(("expired", [request for _, requests in decision.late for request in requests]))
            assert decision.late
            continue
        requests = [request for run in decision.batch.runs for request in range(run.lo, run.hi)]
        left.append((CACHED.rungs[rung_of(decision)], requests))
        assert len(decision.batch.answers) == (len(requests) if left[-1][0] == "cached" else 0)
    return left


@pytest.mark.parametrize(
    ("due_ms", "keys", "known", "left"),
    [
        pytest.param([50] * 2, None, [0, 1], [("full", [0, 1])], id="nobody is late"),
        pytest.param(
            [0.5, 0.5, 50], None, [1, 2], [("cached", [1]), ("default", [0]), ("full", [2])], id="only who is late"
        ),
        pytest.param([0.5] * 10, None, range(10), [("cached", [*range(8)]), ("cached", [8, 9])], id="two batches"),
        pytest.param([50, 0.5, 60], [1, 1, 1], [0, 1], [("cached", [0, 1]), ("full", [2])], id="with those before it"),
        pytest.param([50, 0.5], [1, 1], [1], [("default", [0, 1])], id="not past one before it"),
        pytest.param([50, 0.5, 0.5], [1, 1, 2], [0, 2], [("cached", [2]), ("default", [0, 1])], id="not without cause"),
        pytest.param(
            [50, 0.5, 0.5, 0.5, 0.5],
            [1, 1, 1, 1, 2],
            [0, 1, 3, 4],
            [("cached", [0, 1, 4]), ("default", [2, 3])],
            id="up to the first that is not remembered",
        ),
    ],
)
def test_those_late_on_every_model_are_answered_by_what_is_remembered_and_the_others_by_the_constant(
    due_ms: list[float], keys: list[int] | None, known: Sequence[int], left: list[tuple[str, list[int]]]
) -> None:
    scheduler = remembering(*known)
    add(scheduler, *due_ms, keys=keys)
    assert departures_of(scheduler) == left


def test_without_a_constant_those_who_are_not_remembered_expire() -> None:
    scheduler = remembering(1, 2, rungs=CACHED.rungs[:3])
    add(scheduler, 0.5, 0.5, 0.5, 50, keys=[1, 2, 1, 0])
    assert departures_of(scheduler) == [("cached", [1]), ("expired", [0, 2]), ("full", [3])]


def test_what_is_remembered_expires_where_its_turn_comes_too_late() -> None:
    scheduler = remembering(0, 1)
    add(scheduler, 9.9, 10.9)
    assert scheduler.next(BUSY, 0).late[0][1] == [0]
    assert scheduler.next(replace(BUSY, free_slots=0), 0).plan.wake_at_ns == round(10.9 * MS)
    assert CACHED.rungs[rung_of(scheduler.next(BUSY, 0))] == "cached"


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(1, 4), st.booleans()), min_size=1),
    st.integers(4, 200),
)
def test_of_no_key_is_one_answered_from_memory_before_an_earlier_one(
    requests: list[tuple[int, int, int, bool]], space: int
) -> None:
    scheduler = scheduler_of()
    came = [id(add(scheduler, due_ms, keys=[key], rows=rows)) for key, due_ms, rows, _ in requests]
    known = {identity for identity, request in zip(came, requests, strict=True) if request[3]}
    batch = scheduler.waiting.take_late(
        10 * MS, 0.0, space, 0, lambda admitted, request: {} if id(admitted) in known else None
    )
    left = {came.index(id(run.admitted)) for run in batch.runs} if batch is not None else set()
    keys = [key or -at for at, (key, *_) in enumerate(requests, 1)]
    unknown = {key: at for at, key in reversed([*enumerate(keys)]) if not requests[at][3]}
    late = [at for at, key in enumerate(keys) if requests[at][1] <= 10 and at < unknown.get(key, len(keys))]
    expected = [at for at, key in enumerate(keys) if any(keys[each] == key and at <= each for each in late)]
    rows = np.cumsum([requests[at][2] for at in expected])
    assert left == set(expected[: int(np.searchsorted(rows, space, side="right"))])


def test_who_was_remembered_is_recorded_with_the_decision() -> None:
    lines: list[bytes] = []
    turn = 0
    recording = Recording(lines.append, CACHED)
    scheduler = scheduler_of(
        CACHED, recording=recording, recall=lambda admitted, request: {} if (request + turn) % 3 else None
    )
    for turn in range(1, 60):
        now_ns = turn * 20 * MS
        leads = [1 + (turn + request) % 4 / 4 for request in range(1 + turn % 12)]
        add(
            scheduler,
            *(turn * 20 + lead for lead in leads),
            now_ns=now_ns,
            keys=[1 + at % 5 for at in range(len(leads))],
        )
        while (decision := scheduler.next(IDLE, now_ns)).batch is not None or decision.late:
            pass
    departures = list(replay(lines))
    assert all(each.same for each in departures)
    assert {each.rung for each in departures} >= {"cached", "default"}
    forgotten = [re.sub(rb'"remembered":\[\[.*?]]', b'"remembered":[]', line) for line in lines]
    assert not all(each.same for each in replay(forgotten))
