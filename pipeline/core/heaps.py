"""How much free memory glibc's heaps keep: little when idle, more when large requests would take it anew each time."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

__all__ = ["Heaps"]

# mallopt(3), <malloc.h>
M_MXFAST, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = 1, -1, -3

LARGE_BYTES = 8 * 1024 * 1024  # has pages of its own, which go back at once; a fetch of a few 1 MB messages must not
KEPT_BYTES = 4 * 1024 * 1024  # free at the end of each heap
KEPT_FAST_BYTES = 16 * 1024 * 1024  # while requests come fast
LOOK_S = 0.25
FAST_BYTES = 64 * 1024 * 1024  # of requests between two looks


class Heaps:
    """Sets glibc's allocator for requests that come and go; on another system it does nothing.

    Left to itself it keeps what was freed up to the size of the largest, 32 MiB at most, twice, and in each heap: after
    a few messages of 16 MiB a worker stayed at 110 MiB above idle, with this at 8. Small pieces are joined as they are
    freed: lists of them, as by default, a thread that frees messages by the thousand would go through again and again,
    for 5% of its time.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._set: Callable[[int, int], int] | None = getattr(libc, "mallopt", None)
        self._give_back: Callable[[int], int] = getattr(libc, "malloc_trim", lambda _: 0)
        if self._set is not None:
            self._set(M_MXFAST, 0)
            self._set(M_MMAP_THRESHOLD, LARGE_BYTES)
            self._set(M_TRIM_THRESHOLD, KEPT_BYTES)  # setting the one stops the other from following it

    async def follow(self, polled_bytes: Callable[[], int]) -> None:
        """Keep more while many bytes come in, and give it back afterwards, until cancelled."""
        if self._set is None:
            return
        kept, before = KEPT_BYTES, polled_bytes()
        while True:
            await asyncio.sleep(LOOK_S)
            now = polled_bytes()
            wanted = KEPT_FAST_BYTES if now - before >= FAST_BYTES else KEPT_BYTES
            if wanted != kept:
                self._set(M_TRIM_THRESHOLD, wanted)
            if wanted < kept:
                self._give_back(0)  # what is kept already is given back by no later free
            kept, before = wanted, now
