"""An event loop of virtual time: what asyncio's tasks, futures and events need of one, as a thread of a machine."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tests.simulate.machine import Machine, Process

__all__ = ["Loop"]


class Loop:
    """Runs callbacks in the order they came; an error in one ends the schedule."""

    def __init__(self, machine: Machine, process: Process) -> None:
        self._machine = machine
        self._process = process
        self._ready: deque[asyncio.Handle] = deque()
        self._coroutines: list[Coroutine[Any, Any, Any]] = []

    def run(self) -> None:
        """The loop thread."""
        while True:
            while self._ready and not self._process.dead:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
            self._machine.park()

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        return self._due(asyncio.Handle(callback, args, cast(Any, self), context))

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.time() + delay, callback, args, cast(Any, self), context)
        self._machine.after(delay, self._due, handle)
        return handle

    def _due(self, handle: asyncio.Handle) -> asyncio.Handle:
        if not self._process.dead:
            self._ready.append(handle)
            self._machine.wake(self._process.threads[0])
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def time(self) -> float:
        return self._machine.now_ns / 1e9

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._process.dead

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=cast(Any, self))

    def create_task(self, coro: Coroutine[Any, Any, Any], **_options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=cast(Any, self))
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a killed process leaves its tasks as they are
        self._coroutines.append(coro)
        return task

    def kill(self) -> None:
        """Its tasks are no more; left to the collector they would be closed at any moment, in any order."""
        for coro in self._coroutines:
            coro.close()

    def run_in_executor(self, executor: None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        from tests.simulate.machine import Thread

        future = self.create_future()

        def call() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - it is whoever awaits it who has the error
                self.call_soon(future.set_exception, error)
            else:
                self.call_soon(future.set_result, result)

        Thread(self._machine, call, "executor").start()
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._process.dead:
            raise AssertionError(context["message"]) from context.get("exception")
