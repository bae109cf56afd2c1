"""The slots under random schedules: nothing of a slot is touched while a copy or a run that uses it is in flight."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytest

from pipeline.core.errors import BackendError
from pipeline.infer import Slot
from pipeline.infer.backends.tensorrt import TensorRt
from pipeline.infer.backends.tensorrt.slots import GpuSlot, Patience
from pipeline.models import Model
from tests.unit.infer.makers import model_of
from tests.unit.infer.tensorrt.fake_cuda import CAPTURE_UNSUPPORTED, INVALID_VALUE, OUT_OF_MEMORY, FakeCuda
from tests.unit.infer.tensorrt.fake_engine import FakeContext, FakeEngine, of_function

SCHEDULES = 1000
STEPS = 25
BUCKETS = (1, 3, 4)
TROUBLE = ("copy_in", "copy_out", "launch", "record", "use", "event_done")


def model() -> Model:
    made = model_of(rows_max=BUCKETS[-1])
    return Model(replace(made.manifest, buckets=BUCKETS), made.path)


class Schedule:
    """One seed: batches are filled, run, waited for in turn and read, while the device advances when it likes."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.cuda = FakeCuda(self.rng)
        self.now_s = 0.0
        patience = Patience(1e9, pause=self.pause, now_s=lambda: self.now_s)
        self.backend = TensorRt(cuda=self.cuda, opened=of_function(self.cuda), patience=patience)
        self.running: deque[tuple[Slot, int, float]] = deque()
        self.number = 0.0
        self.answered = self.failed = 0

    def pause(self, seconds: float) -> None:
        self.now_s += seconds
        self.cuda.advance()

    def play(self) -> None:
        self.backend.load(model())
        self.free = self.backend.slots(self.rng.choice((2, 3)))
        if self.rng.random() < 0.1:
            self.cuda.trouble[self.rng.choice(("begin_capture", "end_capture"))] = CAPTURE_UNSUPPORTED
        self.backend.warm()
        for _ in range(STEPS):
            if self.rng.random() < 0.1:
                self.cuda.trouble[self.rng.choice(TROUBLE)] = self.rng.choice((INVALID_VALUE, OUT_OF_MEMORY))
            if self.free and (not self.running or self.rng.random() < 0.6):
                self.run()
            elif self.running:
                self.wait()
        self.cuda.trouble.clear()
        self.backend.close()
        assert self.cuda.left() == []

    def run(self) -> None:
        slot, rows = self.free.pop(self.rng.randrange(len(self.free))), self.rng.randint(1, BUCKETS[-1])
        first, self.number = self.number, self.number + rows
        self.cuda.host(slot.inputs["x"], write=True)
        slot.inputs["x"][:rows] = np.arange(first, first + rows, dtype=np.float32)[:, None]
        try:
            self.backend.run(slot, rows)
        except BackendError:
            self.failed += 1
            self.free.append(slot)  # as the publisher gives it back, without a wait
        else:
            self.running.append((slot, rows, first))

    def wait(self) -> None:
        slot, rows, first = self.running.popleft()
        try:
            self.backend.wait(slot)
        except BackendError:
            self.failed += 1
        else:
            self.cuda.host(slot.outputs["y"][:rows], write=False)
            assert np.array_equal(slot.outputs["y"][:rows, 1], 2 * np.arange(first, first + rows)), "wrong answer"
            self.answered += 1
        self.free.append(slot)


def test_no_buffer_is_touched_while_it_is_in_flight_in_any_schedule() -> None:
    answered = failed = graphs = 0
    for seed in range(SCHEDULES):
        schedule = Schedule(seed)
        try:
            schedule.play()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        answered += schedule.answered
        failed += schedule.failed
        graphs += schedule.cuda.calls.count("launch")
    assert answered > 5 * SCHEDULES and failed > SCHEDULES // 2 and graphs > 10 * SCHEDULES


def waits_for_nothing(patch: pytest.MonkeyPatch) -> None:
    def wait(self: GpuSlot) -> bool:
        self.in_flight = False
        return True

    patch.setattr(GpuSlot, "wait", wait)


def give_back(self: TensorRt, gpu_slot: GpuSlot, limit_s: float | None = None) -> None:
    gpu_slot.in_flight = False


def gives_back_what_failed_at_once(patch: pytest.MonkeyPatch) -> None:
    closes_with(patch, TensorRt._settle)
    patch.setattr(TensorRt, "_settle", give_back)


def ends_without_waiting(patch: pytest.MonkeyPatch) -> None:
    closes_with(patch, give_back)


def closes_with(patch: pytest.MonkeyPatch, settle: Callable[..., None]) -> None:
    close = TensorRt.close

    def closing(self: TensorRt) -> None:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(TensorRt, "_settle", settle)
            close(self)

    patch.setattr(TensorRt, "close", closing)


def has_one_graph_for_all_slots(patch: pytest.MonkeyPatch) -> None:
    graphs: dict[int, int] = {}
    real = GpuSlot.__init__

    def init(self: GpuSlot, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        graphs.clear() if self.slot.index == 0 else None
        self._graphs = graphs

    patch.setattr(GpuSlot, "__init__", init)


def has_one_graph_for_all_buckets(patch: pytest.MonkeyPatch) -> None:
    real = GpuSlot.capture

    def capture(self: GpuSlot, bucket: int) -> None:
        real(self, bucket)
        self._graphs = dict.fromkeys(self._graphs, self._graphs[min(self._graphs)])

    patch.setattr(GpuSlot, "capture", capture)


def captures_before_it_ran(patch: pytest.MonkeyPatch) -> None:
    real = GpuSlot.allocate

    def allocate(self: GpuSlot, engine: Any) -> None:
        real(self, engine)
        self.capture(BUCKETS[0])

    patch.setattr(GpuSlot, "allocate", allocate)


def shares_scratch_memory_between_slots(patch: pytest.MonkeyPatch) -> None:
    real, first = FakeEngine.context, WeakKeyDictionary[FakeEngine, int]()

    def context(self: FakeEngine, bucket: int, addresses: Any, scratch: int, stream: int) -> FakeContext:
        return real(self, bucket, addresses, first.setdefault(self, scratch), stream)

    patch.setattr(FakeEngine, "context", context)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    waits_for_nothing: "read by the host while in flight: a copy out",
    gives_back_what_failed_at_once: "while in flight",
    has_one_graph_for_all_slots: "launched in another slot",
    has_one_graph_for_all_buckets: "wrong answer",
    captures_before_it_ran: "captured of what has not run once",
    shares_scratch_memory_between_slots: "a run .* shares memory with a run",
    ends_without_waiting: "while it runs|with work on it",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_slots_that_are_broken_are_found(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        assert re.search(MUTANTS[mutant], found(range(50)))


def found(seeds: range) -> str:
    """What is wrong in the first of the schedules that goes wrong."""
    for seed in seeds:
        try:
            Schedule(seed).play()
        except AssertionError as error:  # `Misuse` is one
            return str(error)
    return "nothing"
