"""A CUDA runtime without a GPU: streams that run what is queued when it suits them, and a watch over all memory.

What a real device would silently spoil is an error here (`Misuse`): memory that is written or freed while something
that uses it is in flight, on whichever stream; a handle that is ended too early or never made; a thread that has not
said which device it means.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np

from pipeline.infer.cuda import CudaFault

__all__ = ["FakeCuda", "Misuse", "Work", "array_at"]

INVALID_VALUE, OUT_OF_MEMORY, LAUNCH_FAILURE, CAPTURE_UNSUPPORTED = 1, 2, 719, 900
NAMES = {INVALID_VALUE: "cudaErrorInvalidValue", OUT_OF_MEMORY: "cudaErrorMemoryAllocation"}
GARBAGE = 0xEE

Range = tuple[int, int]  # address, bytes


class Misuse(AssertionError):
    """What a program must not do to a device."""


@dataclass(frozen=True)
class Work:
    """One thing on a stream: what it reads, writes and does."""

    what: str
    run: Callable[[], None] = lambda: None
    reads: tuple[Range, ...] = ()
    writes: tuple[Range, ...] = ()
    host: Range | None = None  # pinned memory it reads, which must not change before it runs
    seen: bytes = b""
    uses: tuple[Any, ...] = field(default=(), hash=False)  # events, graphs, contexts
    ready: Callable[[], bool] = lambda: True


class FakeCuda:
    """A `CudaRuntime` of one device. Without ``rng`` everything runs as it is queued, with it some time later."""

    def __init__(
        self, rng: Random | None = None, *, device: int = 0, memory: int = 1 << 30, steps_max: int = 2
    ) -> None:
        self._rng = rng
        self._steps_max = steps_max  # that happen meanwhile, in each call
        self._device = device
        self._threads = threading.local()
        self._free = self._total = memory
        self._memory: dict[int, tuple[str, Any]] = {}
        self._streams: dict[int, deque[Work]] = {}
        self._capturing: dict[int, list[Work]] = {}
        self._graphs: dict[int, tuple[int, list[Work]]] = {}
        self._events: dict[int, int | None] = {}  # when it happened, 0 for not yet; None: never recorded
        self._records: dict[int, list[int]] = {}  # how often it was recorded, and has happened
        self._next = 100
        self._now = 0  # how much work was done
        self.calls: list[str] = []
        self.trouble: dict[str, int] = {}  # call -> the error it answers once
        self.lost: int | None = None  # every call answers it
        self.stuck = False  # nothing runs any more
        self.failures = 0

    # --- what only tests call ------------------------------------------------------------------------------------

    def advance(self, steps: int = 1) -> None:
        """Some stream runs what is next on it, so many times."""
        for _ in range(0 if self.stuck or self.lost else steps):
            ready = [stream for stream, queue in self._streams.items() if queue and queue[0].ready()]
            if not ready:
                return
            stream = ready[0] if self._rng is None else self._rng.choice(ready)
            work = self._streams[stream][0]
            if work.host is not None and ctypes.string_at(*work.host) != work.seen:
                raise Misuse(f"{work.what}: what it reads was written while it was in flight")
            self._now += 1
            work.run()
            self._streams[stream].popleft()

    def host(self, array: np.ndarray[Any, Any], *, write: bool) -> None:
        """The program is about to read or write pinned memory: fine unless something in flight is at odds with it."""
        where = (array.ctypes.data, array.nbytes)
        for work in self._in_flight():
            if _meet(work.writes, [where]) or (write and _meet(work.reads, [where])):
                raise Misuse(f"{'written' if write else 'read'} by the host while in flight: {work.what}")

    def queue(self, stream: int, work: Work) -> None:
        """Put work on a stream, or into the graph that is captured there."""
        if stream in self._capturing:
            self._capturing[stream].append(work)
            return
        for other, queue in self._streams.items():
            for busy in queue if other != stream else ():
                if _meet(work.writes, busy.reads + busy.writes) or _meet(work.reads, busy.writes):
                    raise Misuse(f"{work.what}: shares memory with {busy.what}, in flight on another stream")
        if work.host is not None:
            work = replace(work, seen=ctypes.string_at(*work.host))
        self._streams[stream].append(work)
        if self._rng is None:
            try:
                self.advance()
            except Exception:
                self._streams[stream].pop()
                raise

    def is_capturing(self, stream: int) -> bool:
        return stream in self._capturing

    def busy(self, thing: Any) -> bool:
        """Whether something in flight uses it."""
        return any(thing in work.uses for work in self._in_flight())

    def left(self) -> list[Any]:
        """All that was made and not ended."""
        return [*self._memory, *self._streams, *self._graphs, *self._events]

    def entered(self, call: str) -> None:
        """A call begins: the thread's device must be known, the device there, and no trouble ahead."""
        if getattr(self._threads, "device", None) != self._device:
            raise Misuse(f"{call}: the thread has not said which device")
        if self._rng is not None:
            self.advance(self._rng.randint(0, self._steps_max))
        if self.lost is not None:
            raise CudaFault(self.lost, "cudaErrorLaunchFailure", call)
        if (code := self.trouble.pop(call, None)) is not None:
            self.failures += 1
            if code == LAUNCH_FAILURE:
                self.lost = code
            raise CudaFault(code, NAMES.get(code, "cudaErrorSomething"), call)
        self.calls.append(call)

    # --- the CUDA runtime ----------------------------------------------------------------------------------------

    def use(self, device: int) -> None:
        self._threads.device = device
        self.entered("use")

    def memory(self) -> tuple[int, int]:
        self.entered("memory")
        return self._free, self._total

    def pin(self, size: int) -> int:
        self.entered("pin")
        return self._get("pinned", size)

    def unpin(self, address: int) -> None:
        self.entered("unpin")
        self._put("pinned", address)

    def allocate(self, size: int) -> int:
        self.entered("allocate")
        if size > self._free:
            raise CudaFault(OUT_OF_MEMORY, NAMES[OUT_OF_MEMORY], "allocate")
        self._free -= size
        return self._get("device", size)

    def free(self, address: int) -> None:
        self.entered("free")
        self._free += ctypes.sizeof(self._memory[address][1])
        self._put("device", address)

    def stream(self) -> int:
        self.entered("stream")
        handle = self._handle()
        self._streams[handle] = deque()
        return handle

    def stream_done(self, stream: int) -> bool:
        self.entered("stream_done")
        return not self._streams[stream]

    def end_stream(self, stream: int) -> None:
        self.entered("end_stream")
        if self._streams.pop(stream):
            raise Misuse("a stream is ended with work on it")

    def event(self, *, timed: bool = False) -> int:
        self.entered("event")
        handle = self._handle()
        self._events[handle] = None
        self._records[handle] = [0, 0]
        return handle

    def record(self, event: int, stream: int) -> None:
        self.entered("record")
        self._events[event] = 0
        self._records[event][0] += 1

        def happen() -> None:
            self._events[event] = self._now
            self._records[event][1] += 1

        self.queue(stream, Work("an event", happen, uses=(event,)))

    def wait_event(self, stream: int, event: int) -> None:
        self.entered("wait_event")
        counts = self._records[event]
        wanted = counts[0]
        self.queue(stream, Work("a wait", uses=(event,), ready=lambda: counts[1] >= wanted))

    def event_done(self, event: int) -> bool:
        self.entered("event_done")
        happened = self._events[event]
        if happened is None:
            raise Misuse("an event is waited for that was never recorded")
        return happened > 0

    def elapsed_ms(self, begin: int, end: int) -> float:
        self.entered("elapsed_ms")
        began, ended = self._events[begin], self._events[end]
        if not began or not ended:
            raise Misuse("the time is asked between events that have not happened")
        return float(ended - began)

    def end_event(self, event: int) -> None:
        self.entered("end_event")
        if self.busy(event):
            raise Misuse("an event is ended that is still to happen")
        del self._events[event]

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        self.entered("copy_in")
        self._check("device", device, size)
        self._check("pinned", host, size)
        work = Work("a copy in", lambda: _move(device, host, size), ((host, size),), ((device, size),), (host, size))
        self.queue(stream, work)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        self.entered("copy_out")
        self._check("device", device, size)
        self._check("pinned", host, size)
        ctypes.memset(host, GARBAGE, size)  # whoever reads it too early gets this
        self.queue(stream, Work("a copy out", lambda: _move(host, device, size), ((device, size),), ((host, size),)))

    def begin_capture(self, stream: int) -> None:
        self.entered("begin_capture")
        self._capturing[stream] = []

    def end_capture(self, stream: int) -> int:
        works = self._capturing.pop(stream)
        self.entered("end_capture")
        handle = self._handle()
        self._graphs[handle] = stream, works
        return handle

    def launch(self, graph: int, stream: int) -> None:
        self.entered("launch")
        captured_on, works = self._graphs[graph]
        if captured_on != stream:
            raise Misuse("a graph is launched in another slot than the one it was captured in")
        try:
            for work in works:
                self.queue(stream, replace(work, uses=(*work.uses, graph)))
        except (Misuse, CudaFault):
            raise
        except Exception as error:
            raise CudaFault(INVALID_VALUE, str(error), "launch") from error

    def end_graph(self, graph: int) -> None:
        self.entered("end_graph")
        if self.busy(graph):
            raise Misuse("a graph is ended while it runs")
        del self._graphs[graph]

    def _handle(self) -> int:
        self._next += 1
        return self._next

    def _get(self, kind: str, size: int) -> int:
        memory = (ctypes.c_ubyte * size)()
        address = ctypes.addressof(memory)
        ctypes.memset(address, GARBAGE, size)
        self._memory[address] = kind, memory
        return address

    def _put(self, kind: str, address: int) -> None:
        found, memory = self._memory.pop(address)
        if found != kind:
            raise Misuse(f"{found} memory is freed as {kind}")
        where = [(address, ctypes.sizeof(memory))]
        for work in self._in_flight():
            if _meet(work.reads + work.writes, where):
                raise Misuse(f"{kind} memory is freed while in flight: {work.what}")

    def _check(self, kind: str, address: int, size: int) -> None:
        found, memory = self._memory.get(address, ("no", None))
        if found != kind or size > ctypes.sizeof(memory):
            raise Misuse(f"{size} bytes of {kind} memory are copied that are {found} memory, or too short")

    def _in_flight(self) -> Iterable[Work]:
        for queue in self._streams.values():
            yield from queue


def array_at(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Memory as an array."""
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return np.ndarray(shape, dtype, memoryview((ctypes.c_ubyte * size).from_address(address)))


def _move(to: int, of: int, size: int) -> None:
    ctypes.memmove(to, of, size)


def _meet(some: Iterable[Range], others: Iterable[Range]) -> bool:
    return any(a < b + m and b < a + n for a, n in some for b, m in others)
