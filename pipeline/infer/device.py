"""The device thread: runs filled slots one after the other, and tells the event loop what is free."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue

from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.core.errors import BackendBusyError, BackendError, SluiceError
from pipeline.infer.backend import Backend, Slot
from pipeline.infer.batch import Batch
from pipeline.models import Model

__all__ = ["Device", "DeviceState", "Lane"]

log = logging.getLogger(__name__)

AHEAD_NS = 3_000_000  # from the decision to the start of a batch: others want the processor, too


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a planner may know of the device."""

    idle: bool  # nothing runs and nothing filled is waiting to run, or that ends in a moment
    free_slots: int  # of the model that is planned
    free_ns: int = 0  # when it is expected to be done with what runs and with what this model has filled; monotonic
    load: float = 0.0  # what is offered of the other models, as a share of what can be served
    idle_ns: int | None = None  # when it will be idle, where that can be foreseen and it is not


Samples = tuple[tuple[int, int], ...]
"""Of each bucket once it was warm: rows, ns."""


@dataclass(slots=True, eq=False)
class Lane:
    """One version's slots on the device, and the batches that fill them; all but ``done`` belong to the event loop."""

    model: Model
    backend: Backend
    done: Callable[[Lane, Batch], None]  # called on the device thread when the batch was started
    free: list[Slot]
    changed: Callable[[], None] = field(default=lambda: None)
    retry: Callable[[Batch], None] = field(default=lambda batch: None)
    ran: Callable[[Batch], None] = field(default=lambda batch: None)  # and was read
    due_ns: Callable[[], int] = field(default=lambda: 0)  # of what waits: whose is the smallest is asked first
    load: float = 0.0  # what is offered, as a share of what can be served
    samples: Samples = ()
    below: tuple[Samples, ...] = ()  # of the models of its ladder
    row_ns: float = 0.0  # of the device's time, in the largest bucket once it was warm
    filled: deque[tuple[int, int, Batch]] = field(
        default_factory=deque
    )  # due, number; the device thread takes them out
    submitted: int = 0  # filled or running
    expected_ns: int = 0  # how long those will run
    after: Lane | None = None  # a version that this one takes the place of: all that is filled there runs first


class Device:
    """Owns one device, its thread and every model's slots on it.

    `submit` and the state are the event loop's; the thread runs the batches of a lane in the order they were submitted,
    and of several lanes the one that is due first. A batch whose ``run`` raises carries the error to ``done``, one that
    runs out of memory as an error that may pass; any other exception ends the worker (``fail``).
    """

    def __init__(self, *, fail: Callable[[BaseException], None], clock: Clock = SYSTEM_CLOCK) -> None:
        self._fail = fail
        self._clock = clock
        self._lanes: list[Lane] = []
        self._queue: SimpleQueue[bool] = SimpleQueue()  # a batch is filled in one of the lanes; False: no more are
        self._numbers = count()
        self._thread = threading.Thread(target=self._run, name="sluice-device", daemon=True)
        self._submitted = 0
        self._asked = 0
        self._turn: Lane | None = None  # is asked as if the device were idle
        self._running: tuple[Lane, Batch] | None = None  # the latest
        self._running_since_ns: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, model: Model, backend: Backend, slots: int, done: Callable[[Lane, Batch], None]) -> Lane:
        """Allocate and warm a version's slots, also beside those that run: any thread, as long as warming takes."""
        lane = Lane(model, backend, done, backend.slots(slots))
        backend.warm()
        buckets = model.manifest.buckets
        if model.manifest.slo_ms is not None:
            models = 1 + sum(rung.model is not None for rung in model.manifest.ladder)
            lane.samples, *below = (self._time(lane, rung, buckets) for rung in range(models))
            lane.below = tuple(below)
        rows, run_ns = (lane.samples or self._time(lane, 0, buckets[-1:]))[-1]
        lane.row_ns = run_ns / rows
        self._lanes.append(lane)
        return lane

    def remove(self, lane: Lane) -> None:
        """Forget a lane all of whose slots are free; its backend is the caller's to close. Event loop only."""
        self._lanes.remove(lane)
        lane.free.clear()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the device thread; it wakes ``loop`` when something became free."""
        self._loop = loop
        self._thread.start()

    def busy_s(self) -> float:
        """For how long the batch that runs has been running; any thread."""
        since_ns = self._running_since_ns
        return 0.0 if since_ns is None else (self._clock.now_ns() - since_ns) / 1e9

    def stop(self, timeout_s: float | None = None, *, close: bool = True) -> None:
        """End the thread once all that was submitted has run, and ``close`` the backends.

        With ``timeout_s`` a thread that hangs in a backend is left behind, and the backends as they are.
        """
        self._queue.put(False)  # noqa: FBT003 - a queue takes no keywords
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("the device thread has not ended within %.1f s and is left behind", timeout_s)
            return
        for lane in self._lanes if close else ():
            lane.backend.close()

    def state(self, lane: Lane, now_ns: int) -> DeviceState:
        """The device as this model's planner sees it; event loop only."""
        free_ns = self._free_ns(lane, now_ns) if self._submitted else 0
        foreseen = lane.expected_ns > 0 and len(self._lanes) == 1
        idle_ns = free_ns - AHEAD_NS if foreseen else None
        idle = self._submitted == 0 or lane is self._turn or (idle_ns is not None and idle_ns <= now_ns)
        return DeviceState(
            idle=idle,
            free_slots=len(lane.free),
            free_ns=free_ns,
            load=sum(other.load for other in self._lanes if other is not lane) if len(self._lanes) > 1 else 0.0,
            idle_ns=None if idle else idle_ns,
        )

    def _free_ns(self, lane: Lane, now_ns: int) -> int:
        left_ns = lane.expected_ns
        if self._running is not None:
            of, batch = self._running
            if not batch.computed_ns:
                left_ns += max(0, batch.started_ns + batch.expected_ns - now_ns)
            if of is lane:
                left_ns -= batch.expected_ns
        return now_ns + max(0, left_ns)

    def submit(self, lane: Lane, batch: Batch) -> None:
        """Fill a free slot with the batch's rows and queue it; event loop only."""
        batch.fill(lane.free.pop())
        batch.copied_ns = self._clock.now_ns()
        self._submitted += 1
        lane.submitted += 1
        lane.expected_ns += batch.expected_ns
        lane.filled.append((batch.due_ns, next(self._numbers), batch))
        self._queue.put(True)  # noqa: FBT003 - a queue takes no keywords

    def give_back(self, lane: Lane, batch: Batch, *, retry: bool = False) -> None:
        """A batch's outputs have been read, or it failed and something of it runs again; any thread."""
        self._wake(self._freed, lane, batch, retry)

    def _run(self) -> None:
        try:
            while self._queue.get():
                lane = min(filter(_ready, tuple(self._lanes)), key=_first)
                batch = lane.filled.popleft()[-1]
                assert batch.slot is not None
                batch.started_ns = self._running_since_ns = self._clock.now_ns()
                self._running = lane, batch
                try:
                    lane.backend.run(batch.slot, batch.rows)
                except SluiceError as error:
                    batch.error = error
                except MemoryError as error:
                    batch.error = BackendBusyError(f"out of memory: {error}")
                except Exception as error:
                    log.debug("the backend of %s raised", lane.model.label, exc_info=True)
                    batch.error = BackendError(f"{type(error).__name__}: {error}")
                self._running_since_ns = None
                batch.computed_ns = self._clock.now_ns()  # where run() is asynchronous, wait() says when
                lane.done(lane, batch)
                self._wake(self._ran, lane, batch)
        except BaseException as error:
            self._fail(error)
            raise

    def _wake(self, call: Callable[..., None], *args: object) -> None:
        loop = self._loop
        assert loop is not None
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, *args)

    def _ran(self, ran: Lane, batch: Batch) -> None:
        self._submitted -= 1
        ran.submitted -= 1
        ran.expected_ns -= batch.expected_ns
        if self._running is not None and self._running[1] is batch:
            self._running = None
        if self._lanes == [ran]:
            ran.changed()
            return
        # The lane that was asked first is asked last among those that are due at the same time.
        self._asked = (self._asked + 1) % len(self._lanes)
        turns = self._lanes[self._asked :] + self._lanes[: self._asked]
        first, *others = sorted(turns, key=lambda lane: lane.due_ns())
        # Others may keep the device busy for ever: whoever is due before them need not wait for a full batch.
        self._turn = None if first.submitted else first
        first.changed()
        self._turn = None
        for lane in others:
            lane.changed()

    def _freed(self, lane: Lane, batch: Batch, retry: bool) -> None:  # noqa: FBT001 - call_soon takes no keywords
        assert batch.slot is not None
        lane.free.append(batch.slot)
        if retry:
            lane.retry(batch)
        else:
            lane.ran(batch)
            lane.changed()

    def _time(self, lane: Lane, rung: int, buckets: Sequence[int]) -> Samples:
        """How long each bucket takes, of zeros: where no batch has run yet, the only figures there are."""
        slot, samples = lane.free[0], []
        slot.step_to(rung)
        slot.length = max(lane.model.manifest.lengths, default=None)
        for bucket in buckets:
            began_ns = self._clock.now_ns()
            lane.backend.run(slot, bucket)
            lane.backend.wait(slot)
            samples.append((bucket, self._clock.now_ns() - began_ns))
        return tuple(samples)


def _ready(lane: Lane) -> bool:
    return bool(lane.filled) and not (lane.after is not None and lane.after.filled)


def _first(lane: Lane) -> tuple[int, int]:
    due_ns, number, _ = lane.filled[0]
    return due_ns, number
