"""One core for the threads that take turns at Python's lock."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

__all__ = ["OneCore"]

STAY_S = 1.0
LOOSE_S = 0.05  # some tens of a busy worker's wake-ups: at each the kernel may choose anew


class OneCore:
    """Keeps threads of this process on one core, whichever the kernel chooses; it is asked anew every second.

    Only the one that has the interpreter's lock runs. On cores of their own each hand-over, of the lock or of a chunk,
    waits until another core has woken up or is done with something else, and finds the requests in the first one's
    cache. Does nothing where the system has no affinities (only Linux has), or the process a single core.
    """

    def __init__(self) -> None:
        self._allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()

    def executor(self) -> ThreadPoolExecutor:
        """For what computes: its threads may run anywhere, where one would begin where its parent is kept."""
        return ThreadPoolExecutor(initializer=self._free)

    async def keep(self, threads: Sequence[threading.Thread]) -> None:
        """Keep these, which have started and among which is the caller's, on one core until cancelled."""
        if len(self._allowed) < 2:
            return
        try:
            while True:
                await asyncio.sleep(LOOSE_S)
                _let(threads, {ctypes.CDLL(None).sched_getcpu()})
                await asyncio.sleep(STAY_S)
                _let(threads, self._allowed)
        finally:
            _let(threads, self._allowed)

    def _free(self) -> None:
        if self._allowed:
            _let([threading.current_thread()], self._allowed)


def _let(threads: Sequence[threading.Thread], cores: set[int]) -> None:
    """Let threads run on these cores alone; those that have ended, and cores that were taken away, are passed over."""
    for thread in threads:
        if thread.is_alive() and thread.native_id is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread.native_id, cores)
