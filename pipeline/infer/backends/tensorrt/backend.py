"""TensorRT as a `Backend`: one engine, a few slots, and what becomes of the device's errors."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import ClassVar, Protocol
from weakref import WeakKeyDictionary

from pipeline.core.errors import BackendBusyError, BackendError, DeviceLostError
from pipeline.core.limits import Limits
from pipeline.infer.backend import Slot, bucket_of
from pipeline.infer.backends.tensorrt.engine import Engine, TensorRtEngine
from pipeline.infer.backends.tensorrt.engines import Engines
from pipeline.infer.backends.tensorrt.module import load_tensorrt
from pipeline.infer.backends.tensorrt.slots import GpuSlot, Patience, bytes_of
from pipeline.infer.cuda import CudaBindings, CudaFault, CudaRuntime, error_of, look_for_gpus
from pipeline.models import Model

__all__ = ["OpenEngine", "TensorRt", "open_engine"]

log = logging.getLogger(__name__)

MIB = 1024 * 1024
CLOSE_S = 5.0  # as long as a stop waits for the device thread and for acknowledgements

_CUDA = CudaBindings()
_LOST: WeakKeyDictionary[CudaRuntime, dict[int, str]] = WeakKeyDictionary()
"""Devices that are lost to this process, and why: of one model's batch, and so to all models there."""


class OpenEngine(Protocol):
    """Makes the engine of a model on the device; ``claim`` is told its bytes before it is loaded, and may refuse."""

    def __call__(self, model: Model, device: int, claim: Callable[[int], None]) -> Engine: ...


def open_engine(model: Model, device: int, claim: Callable[[int], None]) -> Engine:
    """Probe the GPU, take the model's plan from the cache or build it, and load it. Raises `BackendError`."""
    gpus = look_for_gpus()
    if device >= len(gpus.found):
        raise BackendError(f"{model.label}: no cuda:{device}: {gpus.reason or f'{len(gpus.found)} there'}")
    trt = load_tensorrt()
    built = Engines(trt).plan(model, gpus.found[device])
    claim(len(built.plan))
    return TensorRtEngine(trt, model, built.plan)


class TensorRt:
    """A `Backend` whose `run` only queues work: copies of one batch overlap the run of another, and runs take turns.

    A batch that runs out of memory may be tried again (`BackendBusyError`). An error that leaves the device unusable,
    or a batch that does not end within the limit, is a `DeviceLostError`: of that batch and of every one after it.
    """

    name: ClassVar[str] = "tensorrt"
    asynchronous: ClassVar[bool] = True

    def __init__(
        self,
        device: int = 0,
        *,
        cuda: CudaRuntime | None = None,
        opened: OpenEngine = open_engine,
        patience: Patience | None = None,
        timed: bool = False,
    ) -> None:
        self._device = device
        self._cuda = cuda or _CUDA
        self._open = opened
        self._patience = patience or Patience(Limits().compute_ms_max / 1000)
        self._timed = timed
        self._model: Model | None = None
        self._engine: Engine | None = None
        self._slots: list[GpuSlot] = []
        self._last: GpuSlot | None = None  # that was started, after whose run the next one has its turn
        self._lost = _LOST.setdefault(self._cuda, {})

    def load(self, model: Model, *, threads: int | None = None) -> None:
        def claim(plan_bytes: int) -> None:
            needed = plan_bytes + Limits().slots * self._slot_bytes(model)
            self._check_memory(model, needed, f"its engine of {plan_bytes / MIB:,.0f} MiB and the slots")

        try:
            self._cuda.use(self._device)
            self._engine = self._open(model, self._device, claim)
        except CudaFault as fault:
            raise error_of(fault, model.label) from fault
        self._model = model

    def slots(self, count: int) -> list[Slot]:
        model, engine = self._loaded
        needed = count * (self._slot_bytes(model) + engine.scratch_bytes)
        try:
            self._cuda.use(self._device)
            self._check_memory(model, needed, f"{count} slots")
            for index in range(len(self._slots), len(self._slots) + count):
                gpu_slot = GpuSlot(index, model, self._cuda, self._patience, timed=self._timed)
                self._slots.append(gpu_slot)
                gpu_slot.allocate(engine)
        except CudaFault as fault:
            raise self._told(fault) from fault
        return [gpu_slot.slot for gpu_slot in self._slots[-count:]]

    def warm(self) -> None:
        model, _ = self._loaded
        for gpu_slot in self._slots:
            for bucket in model.manifest.buckets:
                self._run(gpu_slot, bucket)
                self.wait(gpu_slot.slot)
                try:
                    gpu_slot.capture(bucket)
                except CudaFault as fault:
                    raise self._told(fault) from fault
                self._run(gpu_slot, bucket)  # a graph's first launch puts it on the device
                self.wait(gpu_slot.slot)

    def run(self, slot: Slot, rows: int) -> None:
        self._run(self._slots[slot.index], rows)

    def _run(self, gpu_slot: GpuSlot, rows: int) -> None:
        model, _ = self._loaded
        self._check_there()
        try:
            self._cuda.use(self._device)
            gpu_slot.start(rows, bucket_of(rows, model.manifest.buckets), self._last.ran if self._last else 0)
        except CudaFault as fault:
            self._settle(gpu_slot)
            raise self._told(fault) from fault
        except BackendError:
            self._settle(gpu_slot)
            raise
        self._last = gpu_slot

    def wait(self, slot: Slot) -> None:
        gpu_slot = self._slots[slot.index]
        self._check_there()
        try:
            self._cuda.use(self._device)
            if not gpu_slot.wait():
                raise self._hangs()
        except CudaFault as fault:
            self._settle(gpu_slot)
            raise self._told(fault) from fault

    def _settle(self, gpu_slot: GpuSlot, limit_s: float | None = None) -> None:
        """A batch failed, and whoever gets the slot next writes into it: nothing of it may still be in flight."""
        try:
            if not gpu_slot.drain(limit_s):
                raise self._hangs(limit_s)
        except CudaFault as fault:
            raise self._told(fault) from fault

    def close(self) -> None:
        if self._engine is None:
            return
        try:
            self._check_there()
            self._cuda.use(self._device)
            for gpu_slot in self._slots:
                self._settle(gpu_slot, CLOSE_S)  # what still runs has been given back
        except (CudaFault, BackendError) as error:
            log.warning("left on the device, until the process ends: %s", error)
            # To free anything of a lost device may never return, and so may a destructor.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object((self._slots, self._engine)))
            self._slots, self._engine = [], None
            return
        for gpu_slot in self._slots:
            gpu_slot.close()
        self._slots.clear()
        self._last = None
        self._engine.close()
        self._engine = None

    @property
    def gpu_slots(self) -> list[GpuSlot]:
        """For who measures: events and graphs."""
        return self._slots

    @property
    def _loaded(self) -> tuple[Model, Engine]:
        assert self._model is not None and self._engine is not None, "load() comes first"
        return self._model, self._engine

    def _slot_bytes(self, model: Model) -> int:
        tensors = (*model.signature.inputs, *model.signature.outputs)
        return sum(bytes_of(tensor, model.manifest.rows_max) for tensor in tensors)

    def _check_memory(self, model: Model, needed: int, what: str) -> None:
        free, total = self._cuda.memory()
        if needed > free:
            raise BackendBusyError(
                f"{model.label}: {what} take {needed / MIB:,.0f} MiB of cuda:{self._device}, "
                f"of whose {total / MIB:,.0f} MiB {free / MIB:,.0f} are free"
            )

    def _check_there(self) -> None:
        if (why := self._lost.get(self._device)) is not None:
            raise DeviceLostError(why)

    def _told(self, fault: CudaFault) -> BackendError:
        error = error_of(fault, self._loaded[0].label)
        if isinstance(error, DeviceLostError):
            self._lost[self._device] = str(error)
        return error

    def _hangs(self, limit_s: float | None = None) -> DeviceLostError:
        label, limit_s = self._loaded[0].label, self._patience.limit_s if limit_s is None else limit_s
        why = f"{label}: a batch has not ended within {limit_s:g} s: cuda:{self._device} is lost"
        self._lost[self._device] = why
        return DeviceLostError(why)
