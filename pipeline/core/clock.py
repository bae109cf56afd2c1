"""Time, injected: monotonic nanoseconds for durations, Unix milliseconds for what Kafka and clients say."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    """Two readings of one moment; only `SystemClock` reads the machine's."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds, for durations."""
        ...

    def unix_ms(self) -> float:
        """Unix time in milliseconds, for Kafka timestamps and deadlines."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def unix_ms(self) -> float:
        return time.time_ns() / 1e6


SYSTEM_CLOCK = SystemClock()
