"""A window before a device whose batches run when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from pipeline.core.errors import BackendError
from pipeline.infer import Batch, Device, DeviceState, Lane
from pipeline.window import Late, Parts, Scheduler, Window, WorkConserving
from tests.unit.infer.makers import FakeBackend, model_of, rows_in
from tests.unit.intake.messages import POLLED_MS, POLLED_NS

__all__ = ["Bench", "answered", "run"]

Scenario = Callable[["Bench"], Coroutine[Any, Any, None]]


class StoppedClock:
    """Stands at the chunks' poll until told; its two readings have different origins."""

    def __init__(self) -> None:
        self.ms = 0.0

    def now_ns(self) -> int:
        return POLLED_NS + round(self.ms * 1e6)

    def unix_ms(self) -> float:
        return POLLED_MS + self.ms


class FakeDevice(Device):
    """Fills slots as the real one does; batches run when the test says so."""

    def __init__(self, lane: Lane) -> None:
        super().__init__(fail=_unexpected)
        self.lane = lane
        self.running: list[Batch] = []
        self.free_ns = 0
        self.ran: list[list[int]] = []
        self.submits = asyncio.Semaphore(0)

    def state(self, lane: Lane, now_ns: int) -> DeviceState:
        return DeviceState(idle=not self.running, free_slots=len(lane.free), free_ns=self.free_ns)

    def submit(self, lane: Lane, batch: Batch) -> None:
        batch.fill(lane.free.pop())
        self.running.append(batch)
        assert batch.slot is not None
        self.ran.append(rows_in(batch.slot, batch.rows))
        self.submits.release()

    def end(self, *, retry: bool = False) -> None:
        """The oldest batch has run and was read, or failed."""
        batch = self.running.pop(0)
        assert batch.slot is not None
        self.lane.free.append(batch.slot)
        if retry:
            batch.error = BackendError("failed")
            self.lane.retry(batch)
        else:
            self.lane.changed()


class Bench:
    """A window of 16 rows before a device of two slots of 8 rows."""

    def __init__(self, gather_ms: int, slo_ms: float | None = None) -> None:
        backend, model = FakeBackend(), model_of()
        model = replace(model, manifest=replace(model.manifest, slo_ms=slo_ms))
        self.lane = Lane(model, backend, lambda lane, batch: None, backend.slots(2))
        self.clock = StoppedClock()
        self.device = FakeDevice(self.lane)
        self.late: list[Late] = []
        self.window = Window(
            self.lane,
            self.device,
            {length: Scheduler(WorkConserving(8, gather_ms * 1_000_000), 8) for length in (None, 2, 4, 6)},
            rows_max=16,
            attempts_max=1,
            expire=self.late.extend,
            clock=self.clock,
        )

    @classmethod
    def promised(cls) -> Bench:
        """With an SLO of 100 ms, of which 8 rows take 10."""
        bench = cls(0, slo_ms=100)
        planner = Parts("m/1", 8, (8,), 0, 100_000_000, [(8, 10_000_000)]).planner()
        bench.window._schedulers = {None: Scheduler(planner, 8)}
        return bench


def _unexpected(error: BaseException) -> None:
    raise error


def run(scenario: Scenario, gather_ms: int = 0) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(Bench(gather_ms)), 20)

    asyncio.run(bounded())


def answered(bench: Bench, *, run_ms: float, late_ms: float) -> None:
    """A batch took so long on the device, a millisecond more to be acknowledged, and was so late."""
    started_ns = bench.clock.now_ns()
    batch = Batch([], [], 8, started_ns, started_ns=started_ns, computed_ns=started_ns + round(run_ms * 1e6))
    acked_ns = batch.computed_ns + 1_000_000
    batch.deadline_ns = acked_ns - round(late_ms * 1e6)
    bench.window._answered(batch, acked_ns)
