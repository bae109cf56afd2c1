"""A scheduler of a model with a ladder, requests that are due then, and what it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.admit import Admitted
from pipeline.infer import DeviceState
from pipeline.window import Decision, Parts, Recording, Scheduler
from pipeline.window.ordered import Asked
from pipeline.window.remembered import Recall
from tests.unit.infer.makers import admitted_of

__all__ = ["BUSY", "CACHED", "IDLE", "MS", "PARTS", "ROWS_MAX", "add", "ask", "rung_of", "scheduler_of"]

MS = 1_000_000
ROWS_MAX = 8
SIZES = range(1, ROWS_MAX + 1)
IDLE = DeviceState(idle=True, free_slots=2)
BUSY = DeviceState(idle=False, free_slots=2, free_ns=10 * MS)
PARTS = Parts(
    "m/1",
    ROWS_MAX,
    SIZES,
    0,
    100 * MS,
    [(rows, (2 + rows) * MS) for rows in SIZES],  # 0.8 rows a ms
    ("full", "fast", "default"),
    [[(rows, 400_000 + rows * 700_000) for rows in SIZES]],  # 1.33 rows a ms
)
CACHED = replace(PARTS, rungs=("full", "fast", "cached", "default"), cached=True)


def scheduler_of(
    parts: Parts = PARTS, *, recording: Recording | None = None, recall: Recall | None = None
) -> Scheduler:
    scheduler = Scheduler(parts.planner(), ROWS_MAX, recording, recall)
    for rung in range(1 + len(parts.below)):
        scheduler.acked(1, 0, 0, 0, late=False, rung=rung)
    return scheduler


def add(
    scheduler: Scheduler,
    *due_ms: float,
    rows: int = 1,
    now_ns: int = 0,
    keys: Sequence[int] | None = None,
) -> Admitted:
    """Requests that are due then arrive."""
    due_ns = np.array([round(ms * MS) for ms in due_ms], np.int64)
    admitted = admitted_of([rows] * len(due_ms), polled_ns=0)
    scheduler.add(admitted, Asked(due_ns, due_ns, due_ns, np.array(keys or [0] * len(due_ms), np.int64)), now_ns)
    return admitted


def ask(scheduler: Scheduler, state: DeviceState = IDLE, now_ns: int = 0, share: float = 0.9) -> Decision:
    """The next decision, where so much of what the full model can serve arrives; so much that nothing is put off."""
    rate = scheduler._rungs[0].rate
    rate._rows, rate._at_ns = share * 0.8 * 500, now_ns
    return scheduler.next(state, now_ns)


def rung_of(decision: Decision) -> int:
    """The batch's rung; one past the last of `PARTS` where requests expire."""
    assert decision.batch is None or not decision.late
    if decision.late:
        return len(PARTS.rungs)
    assert decision.batch is not None
    assert decision.batch.rung == decision.plan.rung
    return decision.batch.rung
