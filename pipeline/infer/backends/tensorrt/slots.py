"""A slot on the GPU: a stream, pinned and device memory, contexts and graphs, of one batch at a time."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from pipeline.core.errors import BackendError
from pipeline.infer.backend import Slot
from pipeline.infer.backends.tensorrt.engine import Context, Engine
from pipeline.infer.cuda import CudaFault, CudaRuntime
from pipeline.infer.cuda.faults import is_lost
from pipeline.models import Model
from topics.signature import Tensor

__all__ = ["GpuSlot", "Patience", "bytes_of"]

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_S = 20e-6  # of the first look again: what the kernel's timer adds is three times that
PAUSE_S_MAX = 1e-3


class Patience:
    """Waits for the device by looking, without the GIL in between, and for no longer than ``limit_s``.

    A wait of CUDA's own has no limit: it would hang with a device that does. Each pause is a sixteenth of the time
    waited so far, so that a batch is found done at most 6% (or 0.1 ms) late, and a long one costs no CPU.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        pause: Callable[[float], object] = time.sleep,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_s = limit_s
        self._pause = pause
        self._now_s = now_s

    def until(self, done: Callable[[], bool], limit_s: float | None = None) -> bool:
        """Whether ``done`` said so in time, by default the longest."""
        limit_s = self.limit_s if limit_s is None else limit_s
        began_s = self._now_s()
        while not done():
            waited_s = self._now_s() - began_s
            if waited_s > limit_s:
                return False
            self._pause(min(max(PAUSE_S, waited_s / 16), PAUSE_S_MAX))
        return True


def bytes_of(tensor: Tensor, rows: int) -> int:
    """How much memory so many rows take."""
    return rows * tensor.dtype.itemsize * int(np.prod(tensor.shape, dtype=np.int64))


class GpuSlot:
    """Memory, stream, contexts and graphs of one slot. What it does may raise `CudaFault`.

    Everything that is made is on record the moment it is, so that `close` frees what there is, also after half of
    it failed. Copies in, run and copies out are queued on the slot's own stream: they follow each other, while those
    of another slot go on beside them. Runs take turns: two that share the device would both end late, and the time of
    a batch would tell nothing of the next one's.
    """

    def __init__(self, index: int, model: Model, cuda: CudaRuntime, patience: Patience, *, timed: bool = False) -> None:
        self._model = model
        self._cuda = cuda
        self._patience = patience
        self._pinned: dict[str, int] = {}
        self._device: dict[str, int] = {}
        self._contexts: dict[int, Context] = {}
        self._graphs: dict[int, int] = {}
        self._events: list[int] = []
        self.ran = 0  # the event of the end of its last run
        self.stream = 0
        self._timed = timed
        self.in_flight = False
        self.slot = Slot(index, {}, {})

    def allocate(self, engine: Engine) -> None:
        """All memory, zero on the host, and a context per bucket."""
        cuda, model = self._cuda, self._model
        self.stream = cuda.stream()
        # When all of it began and ended, if anybody asks; else just the ends of the run and of the copies out.
        for _ in range(5 if self._timed else 2):
            self._events.append(cuda.event(timed=self._timed))
        self.ran = self._events[-2]
        rows_max = model.manifest.rows_max
        for tensors, arrays in (
            (model.signature.inputs, self.slot.inputs),
            (model.signature.outputs, self.slot.outputs),
        ):
            for tensor in tensors:
                size = bytes_of(tensor, rows_max)
                self._device[tensor.name] = cuda.allocate(size)
                self._pinned[tensor.name] = address = cuda.pin(size)
                arrays[tensor.name] = _array(address, size, rows_max, tensor)
        scratch = 0
        if engine.scratch_bytes:
            scratch = self._device[""] = cuda.allocate(engine.scratch_bytes)
        addresses = {name: address for name, address in self._device.items() if name}
        for bucket in model.manifest.buckets:
            self._contexts[bucket] = engine.context(bucket, addresses, scratch, self.stream)

    def start(self, rows: int, bucket: int, after: int = 0) -> None:
        """Queue a batch, whose run begins after the event ``after``, if there is one: the end of another slot's run.

        Whatever it raises, some of it may be queued: `drain` before the slot is touched.
        """
        assert not self.in_flight, "the slot's last batch was not waited for"
        self.in_flight = True
        cuda, stream = self._cuda, self.stream
        if rows < bucket:
            for array in self.slot.inputs.values():
                array[rows:bucket] = 0
        self._mark(0)
        for tensor in self._model.signature.inputs:
            name = tensor.name
            cuda.copy_in(self._device[name], self._pinned[name], bytes_of(tensor, bucket), stream)
        self._mark(1)
        if after:
            cuda.wait_event(stream, after)
        self._mark(2)
        if bucket in self._graphs:
            cuda.launch(self._graphs[bucket], stream)
        else:
            self._contexts[bucket].enqueue(stream)
        cuda.record(self.ran, stream)
        for tensor in self._model.signature.outputs:
            name = tensor.name
            cuda.copy_out(self._pinned[name], self._device[name], bytes_of(tensor, rows), stream)
        cuda.record(self._events[-1], stream)

    def wait(self) -> bool:
        """Until the batch is done; False where the device does not get there."""
        if self.in_flight:
            self.in_flight = not self._patience.until(lambda: self._cuda.event_done(self._events[-1]))
        return not self.in_flight

    def drain(self, limit_s: float | None = None) -> bool:
        """Until nothing of the slot is in flight, after whatever error; False where the device does not get there."""
        if self.stream:
            self.in_flight = not self._patience.until(lambda: self._cuda.stream_done(self.stream), limit_s)
        return not self.in_flight

    def capture(self, bucket: int) -> None:
        """Make a graph of the bucket's run, which has run once before; without one it is enqueued, as before."""
        cuda, stream = self._cuda, self.stream
        graph = None
        try:
            cuda.begin_capture(stream)
            try:
                self._contexts[bucket].enqueue(stream)
            finally:
                graph = cuda.end_capture(stream)
        except (CudaFault, BackendError) as error:
            if isinstance(error, CudaFault) and is_lost(error):
                raise
            log.info("%s: batches of %d rows run without a CUDA graph: %s", self._model.label, bucket, error)
            if graph is not None:
                cuda.end_graph(graph)
            return
        self._graphs[bucket] = graph

    def marks(self) -> tuple[int, ...]:
        """The events of a timed slot: begin, copied in, its turn, computed, copied out."""
        return tuple(self._events)

    @property
    def graphs(self) -> tuple[int, ...]:
        """The buckets that have a graph."""
        return tuple(self._graphs)

    def close(self) -> None:
        """Free all of it, in the order in which one thing needs the next; what cannot be freed is passed over.

        Nothing of the slot may be in flight.
        """
        cuda = self._cuda
        for graph in _emptied(self._graphs):
            _freed(cuda.end_graph, graph)
        for context in _emptied(self._contexts):
            context.close()
        if self.stream:
            _freed(cuda.end_stream, self.stream)
            self.stream = 0
        while self._events:
            _freed(cuda.end_event, self._events.pop())
        self.slot.inputs.clear()
        self.slot.outputs.clear()
        for address in _emptied(self._pinned):
            _freed(cuda.unpin, address)
        for address in _emptied(self._device):
            _freed(cuda.free, address)

    def _mark(self, number: int) -> None:
        if self._timed:
            self._cuda.record(self._events[number], self.stream)


def _array(address: int, size: int, rows: int, tensor: Tensor) -> np.ndarray[Any, Any]:
    ctypes.memset(address, 0, size)
    memory = (ctypes.c_ubyte * size).from_address(address)
    return np.ndarray((rows, *tensor.shape), tensor.dtype, memoryview(memory))


def _emptied(things: dict[Any, T]) -> list[T]:
    values = [*things.values()]
    things.clear()
    return values


def _freed(free: Callable[[int], None], handle: int) -> None:
    with suppress(CudaFault):  # of the device, which an earlier call has told
        free(handle)
