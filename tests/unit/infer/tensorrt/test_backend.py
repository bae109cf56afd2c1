"""The TensorRT backend over a fake CUDA: the contract of every backend, errors of the device, memory, and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import BackendBusyError, BackendError, DeviceLostError
from pipeline.infer import Backend, Slot
from pipeline.infer.backends import backend_for
from pipeline.infer.backends.tensorrt import TensorRt
from pipeline.infer.backends.tensorrt.backend import CLOSE_S
from pipeline.infer.backends.tensorrt.slots import PAUSE_S_MAX, Patience
from pipeline.infer.cuda import CudaFault, error_of
from pipeline.models import Model
from tests.contract.backend_suite import BackendSuite
from tests.unit.infer.makers import model_of
from tests.unit.infer.tensorrt.fake_cuda import (
    CAPTURE_UNSUPPORTED,
    INVALID_VALUE,
    LAUNCH_FAILURE,
    OUT_OF_MEMORY,
    FakeCuda,
)
from tests.unit.infer.tensorrt.fake_engine import Columns, doubling, of_function, of_onnx

LIMIT_S = 120.0


class TestTensorRt(BackendSuite):
    """The model runs in ONNX Runtime; all around it is the backend's own."""

    def make(self) -> Backend:
        cuda = FakeCuda()
        return TensorRt(cuda=cuda, opened=of_onnx(cuda))


class Bench:
    """A loaded backend of ``x -> 2x``, and a clock that moves only while it waits."""

    def __init__(self, *, memory: int = 1 << 30, slots: int = 2, warm: bool = True, timed: bool = False) -> None:
        self.now_s = 0.0
        self.pauses: list[float] = []
        self.cuda = FakeCuda(memory=memory)
        patience = Patience(LIMIT_S, pause=self._pause, now_s=lambda: self.now_s)
        self.backend = TensorRt(cuda=self.cuda, opened=of_function(self.cuda), patience=patience, timed=timed)
        made = model_of()
        self.backend.load(Model(replace(made.manifest, buckets=(2, 8)), made.path))
        self.slots = self.backend.slots(slots)
        if warm:
            self.backend.warm()

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds

    def answer(self, slot: Slot, rows: int = 2) -> list[float]:
        slot.inputs["x"][:rows] = np.arange(rows, dtype=np.float32)[:, None]
        self.backend.run(slot, rows)
        self.backend.wait(slot)
        return [float(y) for y in slot.outputs["y"][:rows, 0]]


def test_it_is_found_by_name_and_says_it_is_asynchronous() -> None:
    backend = backend_for("tensorrt")
    assert backend.name == "tensorrt" and backend.asynchronous


def test_every_bucket_of_every_slot_has_a_graph_once_it_is_warm() -> None:
    bench = Bench()
    assert [gpu_slot.graphs for gpu_slot in bench.backend.gpu_slots] == [(2, 8), (2, 8)]
    before = bench.cuda.calls.count("enqueue")
    assert bench.answer(bench.slots[1], 5) == [0, 2, 4, 6, 8]
    assert bench.cuda.calls.count("enqueue") == before
    assert bench.cuda.calls[-1] == "event_done"


def test_only_the_rows_of_the_bucket_are_copied_in_and_those_of_the_batch_out() -> None:
    bench = Bench()
    copied: list[tuple[str, int]] = []
    for name in ("copy_in", "copy_out"):
        real = getattr(bench.cuda, name)

        def copy(to: int, of: int, size: int, stream: int, name: str = name, real: Any = real) -> None:
            copied.append((name, size))
            real(to, of, size, stream)

        setattr(bench.cuda, name, copy)
    bench.answer(bench.slots[0], 3)
    assert copied == [("copy_in", 8 * 8), ("copy_out", 3 * 8), ("copy_out", 3 * 4)]


def test_a_model_that_cannot_be_captured_is_run_without_a_graph() -> None:
    bench = Bench(warm=False)
    bench.cuda.trouble["end_capture"] = CAPTURE_UNSUPPORTED
    bench.backend.warm()
    assert [gpu_slot.graphs for gpu_slot in bench.backend.gpu_slots] == [(8,), (2, 8)]
    assert bench.answer(bench.slots[0], 2) == [0, 2]
    bench.backend.close()
    assert bench.cuda.left() == []


@pytest.mark.parametrize("call", ["copy_in", "launch", "copy_out", "record"])
@pytest.mark.parametrize(("code", "kind"), [(INVALID_VALUE, BackendError), (OUT_OF_MEMORY, BackendBusyError)])
def test_a_batch_that_fails_is_told_and_the_slot_works_again(call: str, code: int, kind: type[BackendError]) -> None:
    bench = Bench()
    bench.cuda.trouble[call] = code
    with pytest.raises(BackendError, match=r"m/1: .*cudaError") as told:
        bench.backend.run(bench.slots[0], 2)
    assert type(told.value) is kind
    assert told.value.retryable is (kind is BackendBusyError)
    assert bench.answer(bench.slots[0]) == [0, 2]


@pytest.mark.parametrize("call", ["copy_in", "launch", "event_done"])
def test_a_sticky_error_loses_the_device_for_every_model_and_slot(call: str) -> None:
    bench = Bench()
    other = TensorRt(cuda=bench.cuda, opened=of_function(bench.cuda))
    other.load(model_of("other"))
    (theirs,) = other.slots(1)
    bench.cuda.trouble[call] = LAUNCH_FAILURE
    with pytest.raises(DeviceLostError, match=r"m/1: the device is lost: .*719"):
        bench.answer(bench.slots[0])
    calls = len(bench.cuda.calls)
    for backend, slot in ((bench.backend, bench.slots[1]), (other, theirs)):
        with pytest.raises(DeviceLostError):
            backend.run(slot, 1)
        with pytest.raises(DeviceLostError):
            backend.wait(slot)
        backend.close()
        backend.close()
    assert len(bench.cuda.calls) == calls  # nothing is asked of a lost device, which may not return


def test_a_batch_that_never_ends_loses_the_device_at_the_limit() -> None:
    bench = Bench()
    bench.cuda._rng = Random(0)
    bench.cuda.stuck = True
    bench.backend.run(bench.slots[0], 2)
    with pytest.raises(DeviceLostError, match="has not ended within 120 s"):
        bench.backend.wait(bench.slots[0])
    assert LIMIT_S < bench.now_s < LIMIT_S + 1
    assert max(bench.pauses) == PAUSE_S_MAX
    bench.backend.close()


def test_a_failed_batch_whose_copies_never_end_loses_the_device_too() -> None:
    bench = Bench()
    bench.cuda._rng = Random(0)
    bench.cuda.stuck = True
    bench.cuda.trouble["launch"] = INVALID_VALUE
    with pytest.raises(DeviceLostError, match="has not ended"):
        bench.backend.run(bench.slots[0], 2)


def test_an_engine_or_slots_that_do_not_fit_are_refused_before_they_are_there() -> None:
    cuda = FakeCuda(memory=4 << 20)
    loaded: list[Model] = []

    def opened(model: Model, device: int, claim: Callable[[int], None]) -> Any:
        claim(64 << 20)
        loaded.append(model)

    with pytest.raises(BackendBusyError, match=r"its engine of 64 MiB .* of whose 4 MiB 4 are free"):
        TensorRt(cuda=cuda, opened=opened).load(model_of())
    assert loaded == []
    backend = TensorRt(cuda=cuda, opened=of_function(cuda))
    backend.load(model_of())
    with pytest.raises(BackendBusyError, match="100000 slots take"):
        backend.slots(100_000)
    assert "allocate" not in cuda.calls


@pytest.mark.parametrize("call", ["stream", "event", "allocate", "pin"])
def test_what_was_made_of_the_slots_before_memory_ran_out_is_freed(call: str) -> None:
    bench = Bench(slots=1)
    bench.cuda.trouble[call] = OUT_OF_MEMORY
    with pytest.raises(BackendBusyError):
        bench.backend.slots(1)
    assert bench.answer(bench.slots[0]) == [0, 2]
    bench.backend.close()
    assert bench.cuda.left() == []


def test_all_is_freed_in_the_order_in_which_one_needs_the_other() -> None:
    bench = Bench(slots=1)
    bench.cuda.calls.clear()
    bench.backend.close()
    ended = [call for call in dict.fromkeys(bench.cuda.calls) if call not in ("use", "stream_done")]
    assert ended == ["end_graph", "end_context", "end_stream", "end_event", "unpin", "free", "end_engine"]
    assert bench.cuda.left() == []
    bench.backend.close()


def test_what_still_runs_at_the_end_is_waited_for_shortly_and_then_left_behind() -> None:
    bench = Bench()
    bench.cuda._rng = Random(0)
    bench.cuda.stuck = True
    bench.backend.run(bench.slots[0], 2)
    bench.cuda.calls.clear()
    bench.backend.close()
    assert CLOSE_S < bench.now_s < CLOSE_S + 1
    assert set(bench.cuda.calls) == {"use", "stream_done"}
    assert bench.slots[0].outputs["y"].shape == (8, 2)  # its memory is still there, which the device may write to


def test_any_thread_may_run_wait_and_close() -> None:
    bench = Bench()
    for call in (
        lambda: bench.backend.run(bench.slots[0], 2),
        lambda: bench.backend.wait(bench.slots[0]),
        bench.backend.close,
    ):
        raised: list[BaseException] = []
        thread = threading.Thread(target=lambda call=call, raised=raised: _kept(call, raised))
        thread.start()
        thread.join()
        assert raised == []


def _kept(call: Callable[[], None], raised: list[BaseException]) -> None:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - of another thread, for the test
        raised.append(error)


def test_a_timed_slot_marks_when_each_step_ended() -> None:
    bench = Bench(timed=True)
    bench.answer(bench.slots[0])
    marks = bench.backend.gpu_slots[0].marks()
    assert len(set(marks)) == 5
    assert all(bench.cuda.event_done(mark) for mark in marks)


def test_runs_take_turns_in_the_order_they_were_started() -> None:
    cuda = FakeCuda(Random(3), steps_max=0)
    ran: list[int] = []

    def compute(columns: Columns) -> Columns:
        ran.append(int(columns["x"][0, 0]))
        return doubling(columns)

    backend = TensorRt(cuda=cuda, opened=of_function(cuda, compute))
    backend.load(model_of())
    slots = backend.slots(3)
    for number in range(30):
        slot = slots[number % 3]
        if number >= 3:
            while not cuda.event_done(backend.gpu_slots[slot.index].marks()[-1]):
                cuda.advance()
            backend.wait(slot)
        slot.inputs["x"][:] = number
        backend.run(slot, 8)
    cuda.advance(100)
    backend.close()
    assert ran == list(range(30))


@pytest.mark.parametrize(
    ("code", "kind"), [(2, BackendBusyError), (1, BackendError), (700, DeviceLostError), (46, DeviceLostError)]
)
def test_what_an_error_of_cuda_is(code: int, kind: type[BackendError]) -> None:
    error = error_of(CudaFault(code, "cudaErrorThis", "cudaThat"), "m/1")
    assert type(error) is kind
    assert str(error).endswith(f"cudaThat: cudaErrorThis ({code})")
