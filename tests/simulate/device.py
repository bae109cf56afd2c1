"""A device of virtual time: batches take some, and fail, all of them or for one row."""

from __future__ import annotations

from pipeline.core.errors import BackendError
from pipeline.infer import Slot
from tests.simulate.broker import Weather
from tests.simulate.judge import Judge
from tests.simulate.machine import Machine
from tests.simulate.requests import ROWS_EACH
from tests.unit.infer.makers import FakeBackend, rows_in

__all__ = ["AsynchronousBackend", "Backend"]


class Backend(FakeBackend):
    """Answers after a while, in `run`."""

    def __init__(self, machine: Machine, weather: Weather, judge: Judge, *, rows_max: int, batch_s_max: float) -> None:
        super().__init__(rows_max=rows_max)
        self._machine = machine
        self._weather = weather
        self._judge = judge
        self._batch_s_max = batch_s_max

    def run(self, slot: Slot, rows: int) -> None:
        self._machine.sleep(self._machine.random.random() * self._batch_s_max)
        self._answer(slot, rows)

    def _answer(self, slot: Slot, rows: int) -> None:
        numbers = {row // ROWS_EACH for row in rows_in(slot, rows)}
        poisoned = not self._judge.poison.isdisjoint(numbers)
        if poisoned or self._machine.random.random() < self._weather.batch_fails:
            self._judge.batch_failed(numbers)
            raise BackendError("a poison row" if poisoned else "a bad moment")
        slot.outputs["y"][:rows] = 2 * slot.inputs["x"][:rows]
        slot.outputs["half"][:rows] = slot.inputs["x"][:rows, 0] / 2


class AsynchronousBackend(Backend):
    """Starts in `run` and answers in `wait`, one batch after the other, as a GPU's stream."""

    asynchronous = True

    def __init__(self, machine: Machine, weather: Weather, judge: Judge, *, rows_max: int, batch_s_max: float) -> None:
        super().__init__(machine, weather, judge, rows_max=rows_max, batch_s_max=batch_s_max)
        self._started: dict[int, tuple[int, int]] = {}  # by slot: rows, and when they are done
        self._free_ns = 0

    def run(self, slot: Slot, rows: int) -> None:
        begins_ns = max(self._machine.now_ns, self._free_ns)
        self._free_ns = begins_ns + int(self._machine.random.random() * self._batch_s_max * 1e9)
        self._started[slot.index] = rows, self._free_ns

    def wait(self, slot: Slot) -> None:
        rows, done_ns = self._started.pop(slot.index)
        self._machine.sleep((done_ns - self._machine.now_ns) / 1e9)
        self._answer(slot, rows)
