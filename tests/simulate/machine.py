"""A machine of virtual time: its threads, locks, queues and event loops switch only where they wait.

The real code of the flow runs on it unchanged: `Machine.installed` replaces what its modules call ``time``,
``threading`` and ``SimpleQueue``. A thread is a greenlet; the hub runs one event after the other from a heap, and every
choice comes from one `random.Random`, so that a seed says all that happens.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from random import Random
from types import SimpleNamespace, TracebackType
from typing import Any, Generic, TypeVar, cast

from greenlet import GreenletExit, getcurrent, greenlet

from tests.simulate.loop import Loop

__all__ = ["Machine", "Process", "Queue", "Thread"]

T = TypeVar("T")

START_NS = 5_000_000_000
START_UNIX_MS = 1_790_000_000_000
WAKE_NS_MAX = 300_000  # from what a thread waits for to its going on
REPLACED = (time, threading, SimpleQueue)
ROOMS = tuple(f"pipeline.{room}" for room in ("app", "admit", "commit", "infer", "intake", "publish", "window"))


class Machine:
    """Virtual time, and whose turn it is. ``switch_chance`` is how often a thread is held up where it takes a lock."""

    def __init__(self, random: Random, switch_chance: float, log: Callable[[str], None] | None = None) -> None:
        self.random = random
        self._log = log
        self.now_ns = START_NS
        self.steps = 0
        self.current: Thread | None = None
        self.ran: Process | None = None  # in this step
        self.hub = getcurrent()
        self._switch_chance = switch_chance
        self._heap: list[tuple[int, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._events = 0

    def tell(self, what: str, *values: object) -> None:
        """A line of the log, ``what`` formatted with the values, where somebody wants one."""
        if self._log is not None:
            self._log(f"{(self.now_ns - START_NS) / 1e6:10.3f} ms  {what.format(*values)}")

    # --- time --------------------------------------------------------------------------------------------------------

    def unix_ms(self) -> float:
        return START_UNIX_MS + (self.now_ns - START_NS) / 1e6

    def at(self, ns: int, call: Callable[..., Any], *args: Any) -> None:
        """Call it at that moment, on the hub; calls of one moment come in the order they were asked for."""
        self._events += 1
        heappush(self._heap, (ns, self._events, call, args))

    def after(self, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        self.at(self.now_ns + round(seconds * 1e9), call, *args)

    def step(self) -> bool:
        """The next event; False where there is none."""
        if not self._heap:
            return False
        ns, _, call, args = heappop(self._heap)
        self.now_ns = max(self.now_ns, ns)
        self.steps += 1
        self.ran = None
        call(*args)
        return True

    # --- what a thread calls -----------------------------------------------------------------------------------------

    def park(self, timeout_s: float | None = None) -> None:
        """Until woken or the time is over; may be woken for nothing, as a condition's wait may."""
        thread = self.current
        assert thread is not None, "only threads wait"
        if thread.process.dead:
            raise GreenletExit
        thread.turn += 1
        if timeout_s is not None:
            self.after(timeout_s, self._resume, thread, thread.turn)
        self.hub.switch()
        if thread.process.dead:
            raise GreenletExit

    def sleep(self, seconds: float) -> None:
        end_ns = self.now_ns + round(seconds * 1e9)
        while self.now_ns < end_ns:
            self.park((end_ns - self.now_ns) / 1e9)

    def falter(self) -> None:
        """A place where another thread may come in between."""
        if self._switch_chance and self.current is not None and self.random.random() < self._switch_chance:
            self.sleep(self.random.random() * (0.05 if self.random.random() < 0.1 else 0.001))

    def wake(self, thread: Thread) -> None:
        """What it waits for has happened."""
        if thread.woken != thread.turn:
            thread.woken = thread.turn
            self.at(self.now_ns + int(self.random.random() * WAKE_NS_MAX), self._resume, thread, thread.turn)

    def _resume(self, thread: Thread, turn: int) -> None:
        if thread.turn != turn or thread.let.dead or thread.process.dead:
            return
        if (stopped_ns := thread.process.stopped_until_ns) > self.now_ns:
            self.at(stopped_ns, self._resume, thread, turn)
            return
        thread.turn += 1
        self.run(thread, thread.let.switch)

    def run(self, thread: Thread, switch: Callable[[], Any]) -> None:
        """Let a thread go on until it waits or ends."""
        self.current, self.ran = thread, thread.process
        asyncio._set_running_loop(cast(Any, thread.loop))
        try:
            switch()
        finally:
            self.current = None
            asyncio._set_running_loop(None)

    # --- what the flow's modules see ---------------------------------------------------------------------------------

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The flow's rooms have this machine's time and threads."""
        real: dict[object, object] = {
            time: SimpleNamespace(monotonic=lambda: self.now_ns / 1e9, sleep=self.sleep),
            threading: SimpleNamespace(
                Thread=partial(Thread, self),
                Lock=partial(Lock, self),
                Condition=partial(Condition, self),
                Event=threading.Event,  # set and looked at only
            ),
            SimpleQueue: partial(Queue, self),
        }
        places = _places()
        for module, name in places:
            setattr(module, name, real[getattr(module, name)])
        try:
            yield
        finally:
            for (module, name), value in places.items():
                setattr(module, name, value)


def _places(found: dict[tuple[Any, str], object] = {}) -> dict[tuple[Any, str], object]:  # noqa: B006 - found once
    """Where the flow's modules name what the machine replaces, and what is there."""
    if not found:
        for name, module in sorted(sys.modules.items()):
            if name.startswith(ROOMS):
                found.update({(module, k): v for k, v in vars(module).items() if any(v is each for each in REPLACED)})
        assert found, "the flow is imported before it is simulated"
    return found


class Process:
    """Threads that are killed or stopped together, and their event loop."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.dead = False
        self.stopped_until_ns = 0
        self.threads: list[Thread] = []
        self.loop = Loop(machine, self)
        self._main = Thread(machine, self.loop.run, "loop", process=self)
        self._main.loop = self.loop
        self._main.start()

    def kill(self) -> None:
        """SIGKILL; on the hub."""
        assert self.machine.current is None
        self.dead = True
        for thread in self.threads:
            if not thread.let.dead:
                self.machine.run(thread, partial(thread.let.throw, GreenletExit))
        self.loop.kill()


class Thread:
    """`threading.Thread` of the process whose thread makes it."""

    def __init__(
        self,
        machine: Machine,
        target: Callable[[], Any],
        name: str,
        *,
        daemon: bool = True,
        process: Process | None = None,
    ) -> None:
        if process is None:
            assert machine.current is not None
            process = machine.current.process
        self.process: Process = process
        self.name = name
        self.turn = self.woken = 0
        self.work_began = 0  # the step at which it last took something from a queue
        self.loop: Loop | None = None
        self.let = greenlet(self._run, machine.hub)
        self._machine = machine
        self._target = target
        self._ended: list[Thread] = []  # who waits for the end

    def start(self) -> None:
        self.process.threads.append(self)
        self.turn = 1
        self._machine.wake(self)

    def join(self, timeout: float | None = None) -> None:
        """No call into a backend hangs here, so that no time-out is needed."""
        while not self.let.dead:
            assert self._machine.current is not None
            self._ended.append(self._machine.current)
            self._machine.park()

    def is_alive(self) -> bool:
        return self.turn > 0 and not self.let.dead

    def _run(self) -> None:
        try:
            self._target()
        except AssertionError:
            raise  # found something: up to whoever runs the schedule
        except Exception:  # noqa: BLE001 - a thread's death harms nobody else; the flow has told of it
            pass
        finally:
            for thread in self._ended:
                self._machine.wake(thread)


class Lock:
    """Nobody waits while holding one, so it is always free; taking it is where threads come in between."""

    def __init__(self, machine: Machine) -> None:
        self._falter = machine.falter

    def __enter__(self) -> None:
        self._falter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Condition(Lock):
    """`threading.Condition`."""

    def __init__(self, machine: Machine, lock: Lock | None = None) -> None:
        super().__init__(machine)
        self._machine = machine
        self._waiting: list[Thread] = []

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        end_ns = self._machine.now_ns + round(timeout * 1e9)
        while not (true := predicate()) and self._machine.now_ns < end_ns:
            assert self._machine.current is not None
            self._waiting.append(self._machine.current)
            self._machine.park((end_ns - self._machine.now_ns) / 1e9)
        return true

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            self._machine.wake(thread)

    notify = notify_all  # more than asked for, which is allowed


class Queue(Generic[T]):
    """`queue.SimpleQueue` that one thread takes from."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._items: deque[T] = deque()
        self._taker: Thread | None = None

    def put(self, item: T) -> None:
        self._items.append(item)
        if self._taker is not None:
            self._machine.wake(self._taker)

    def get(self, timeout: float | None = None) -> T:
        taker = self._taker = self._machine.current
        assert taker is not None
        end_ns = None if timeout is None else self._machine.now_ns + round(timeout * 1e9)
        while not self._items:
            if end_ns is not None and self._machine.now_ns >= end_ns:
                raise Empty
            self._machine.park(None if end_ns is None else (end_ns - self._machine.now_ns) / 1e9)
        taker.work_began = self._machine.steps
        return self._items.popleft()

    def empty(self) -> bool:
        return not self._items
