"""The device thread: runs filled slots one after the other, and tells the event loop what is free."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue

from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.core.errors import BackendBusyError, BackendError, SluiceError
from pipeline.infer.backend import Backend, Slot
from pipeline.infer.batch import Batch
from pipeline.models import Model

__all__ = ["Device", "DeviceState", "Lane"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What a planner may know of the device."""

    idle: bool  # nothing runs and nothing filled is waiting to run
    free_slots: int  # of the model that is planned


@dataclass(slots=True, eq=False)
class Lane:
    """One version's slots on the device; ``free``, ``changed`` and ``retry`` belong to the event loop."""

    model: Model
    backend: Backend
    done: Callable[[Lane, Batch], None]  # called on the device thread when the batch was started
    free: list[Slot]
    changed: Callable[[], None] = field(default=lambda: None)
    retry: Callable[[Batch], None] = field(default=lambda batch: None)


class Device:
    """Owns one device, its thread and every model's slots on it.

    `submit` and the state are the event loop's; the thread only runs batches in the order they were submitted.
    A batch whose ``run`` raises carries the error to ``done``, one that runs out of memory as an error that may pass;
    any other exception ends the worker (``fail``).
    """

    def __init__(self, *, fail: Callable[[BaseException], None], clock: Clock = SYSTEM_CLOCK) -> None:
        self._fail = fail
        self._clock = clock
        self._lanes: list[Lane] = []
        self._queue: SimpleQueue[tuple[Lane, Batch] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sluice-device", daemon=True)
        self._submitted = 0
        self._running_since_ns: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, model: Model, backend: Backend, slots: int, done: Callable[[Lane, Batch], None]) -> Lane:
        """Allocate and warm a version's slots, also beside those that run: any thread, as long as warming takes."""
        lane = Lane(model, backend, done, backend.slots(slots))
        backend.warm()
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
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.error("the device thread has not ended within %.1f s and is left behind", timeout_s)
            return
        for lane in self._lanes if close else ():
            lane.backend.close()

    def state(self, lane: Lane) -> DeviceState:
        """The device as this model's planner sees it; event loop only."""
        return DeviceState(idle=self._submitted == 0, free_slots=len(lane.free))

    def submit(self, lane: Lane, batch: Batch) -> None:
        """Fill a free slot with the batch's rows and queue it; event loop only."""
        batch.fill(lane.free.pop())
        batch.copied_ns = self._clock.now_ns()
        self._submitted += 1
        self._queue.put((lane, batch))

    def give_back(self, lane: Lane, batch: Batch, *, retry: bool = False) -> None:
        """A batch's outputs have been read, or it failed and something of it runs again; any thread."""
        self._wake(self._freed, lane, batch, retry)

    def _run(self) -> None:
        try:
            while (work := self._queue.get()) is not None:
                lane, batch = work
                assert batch.slot is not None
                batch.started_ns = self._running_since_ns = self._clock.now_ns()
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
                self._wake(self._ran)
        except BaseException as error:
            self._fail(error)
            raise

    def _wake(self, call: Callable[..., None], *args: object) -> None:
        loop = self._loop
        assert loop is not None
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, *args)

    def _ran(self) -> None:
        self._submitted -= 1
        # The model that was asked first is asked last next time, so that none starves the others.
        self._lanes.append(self._lanes.pop(0))
        for lane in tuple(self._lanes):
            lane.changed()

    def _freed(self, lane: Lane, batch: Batch, retry: bool) -> None:  # noqa: FBT001 - call_soon takes no keywords
        assert batch.slot is not None
        lane.free.append(batch.slot)
        if retry:
            lane.retry(batch)
        else:
            lane.changed()
