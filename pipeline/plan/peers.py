"""How others decide when a batch leaves, re-enacted: requests of one row, batches that take tau0 + alpha * b."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipeline.models import default_buckets
from pipeline.plan.noise import Noise

__all__ = ["Adaptive", "DelayedQueue", "Device", "Eager", "EarlyDrop", "Moments", "Policy", "StockTake", "Turn"]

Moments = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Device:
    """What a batch takes. ``buckets`` are the sizes that are paid for: each size is one unless it is ``padded``."""

    tau0_ns: float
    alpha_ns: float
    rows_max: int = 256
    padded: bool = False
    noise: Noise | None = None

    @property
    def buckets(self) -> tuple[int, ...]:
        return default_buckets(self.rows_max) if self.padded else tuple(range(1, self.rows_max + 1))

    def run_ns(self, rows: int) -> int:
        bucket = next(size for size in self.buckets if size >= rows) if self.padded else rows
        return round(self.tau0_ns + self.alpha_ns * bucket)

    def awake_ns(self, now_ns: int) -> int:
        """When somebody who would act now gets to it."""
        return now_ns if self.noise is None else self.noise.awake_ns(now_ns)

    def ends_ns(self, rows: int, started_ns: int) -> int:
        """When a batch that begins then ends."""
        run_ns = self.run_ns(rows)
        return started_ns + run_ns if self.noise is None else self.noise.ends_ns(started_ns, run_ns)

    def answered_ns(self, ended_ns: int) -> int:
        """When the answers of a batch that ends then are with the broker."""
        return ended_ns if self.noise is None else self.noise.answered_ns(ended_ns)

    @property
    def capacity(self) -> float:
        """Rows a second that no rate can exceed: without tau0."""
        return 1e9 / self.alpha_ns


@dataclass(frozen=True, slots=True)
class Turn:
    """What a policy does now that the device is free: drop the first, then run the next; or be asked again."""

    drop: int = 0
    run: int = 0
    wake_at_ns: int | None = None  # with nothing to run; at the next arrival too where ``arrivals``
    arrivals: bool = True


class Policy(Protocol):
    """Decides for requests that wait in the order they came."""

    def turn(self, arrived_ns: Moments, now_ns: int) -> Turn:
        """The device is free; ``arrived_ns`` are the arrivals of what waits, at least one."""
        ...

    def ran(self, arrived_ns: Moments, started_ns: int, ended_ns: int) -> None:
        """A batch has run."""
        ...


class _Forgetful:
    def ran(self, arrived_ns: Moments, started_ns: int, ended_ns: int) -> None:
        """Nothing is learnt."""


@dataclass
class Eager(_Forgetful):
    """All that waits, at once."""

    rows_max: int

    def turn(self, arrived_ns: Moments, now_ns: int) -> Turn:
        return Turn(run=min(len(arrived_ns), self.rows_max))


@dataclass
class StockTake(_Forgetful):
    """Faust's ``take(rows_max, within)``: its time begins when the body of the window before has ended."""

    rows_max: int
    within_ns: int
    _since_ns: int | None = None

    def turn(self, arrived_ns: Moments, now_ns: int) -> Turn:
        if self._since_ns is None:
            self._since_ns = now_ns
        waiting = len(arrived_ns)
        if waiting < self.rows_max and now_ns < self._since_ns + self.within_ns:
            return Turn(wake_at_ns=self._since_ns + self.within_ns)
        self._since_ns = None
        return Turn(run=min(waiting, self.rows_max))


@dataclass
class DelayedQueue(_Forgetful):
    """Triton's dynamic batcher: a preferred size at once, else what there is when the first has waited for so long."""

    rows_max: int
    delay_ns: int
    preferred: Sequence[int] = ()

    def turn(self, arrived_ns: Moments, now_ns: int) -> Turn:
        waiting = min(len(arrived_ns), self.rows_max)
        if waiting == self.rows_max:
            return Turn(run=waiting)
        if good := max((size for size in self.preferred if size <= waiting), default=0):
            return Turn(run=good)
        due_ns = int(arrived_ns[0]) + self.delay_ns
        return Turn(run=waiting) if due_ns <= now_ns else Turn(wake_at_ns=due_ns)


@dataclass
class Adaptive(_Forgetful):
    """BentoML's adaptive batching: a line through the last batches' times, and a wait that pays for itself.

    It waits while what all that wait would lose by one more tick is below the average wait of late; a request that the
    line says would be late is dropped.
    """

    rows_max: int
    latency_ns: int
    tick_ns: int = 1_000_000
    _kept: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=50))
    _line: tuple[float, float] = (1e6, 1e6)  # ns per row, ns per batch
    _wait_ns: float = 1e6

    def turn(self, arrived_ns: Moments, now_ns: int) -> Turn:
        row_ns, batch_ns = self._line
        drop, waiting = 0, len(arrived_ns)
        while drop < waiting - 1:
            size = min(waiting - drop, self.rows_max)
            if now_ns - int(arrived_ns[drop]) + row_ns * size + batch_ns < self.latency_ns:
                break
            drop += 1
        waiting -= drop
        last_ns = now_ns - int(arrived_ns[-1])
        if waiting < self.rows_max and waiting * (last_ns + self.tick_ns + row_ns) <= self._wait_ns * 0.95:
            return Turn(drop=drop, wake_at_ns=now_ns + self.tick_ns, arrivals=False)
        return Turn(drop=drop, run=min(waiting, self.rows_max))

    def ran(self, arrived_ns: Moments, started_ns: int, ended_ns: int) -> None:
        self._kept.append((len(arrived_ns), ended_ns - started_ns, started_ns - int(arrived_ns[-1])))
        rows, took_ns, waited_ns = np.array(self._kept, float).T
        if len(set(rows)) > 1:
            row_ns, batch_ns = np.polyfit(rows, took_ns, 1)
            self._line = max(1e3, float(row_ns)), max(0.0, float(batch_ns))
        self._wait_ns = float(waited_ns.mean())


@dataclass
class EarlyDrop(_Forgetful):
    """Nexus' rule with the device's true l(b): drop until the first can make it in a batch of ``window`` rows.

    With the best window for a rate this is what the others are measured by.
    """

    device: Device
    slo_ns: int
    window: int

    def turn(self, arrived_ns: Moments, now_ns: int) -> Turn:
        device, drop, waiting = self.device, 0, len(arrived_ns)
        while drop < waiting:
            left_ns = int(arrived_ns[drop]) + self.slo_ns - now_ns
            if left_ns >= device.run_ns(min(self.window, waiting - drop)):
                break
            drop += 1
        if drop == waiting:
            return Turn(drop=drop)
        room = max(1, int((left_ns - device.tau0_ns) / device.alpha_ns))
        return Turn(drop=drop, run=min(waiting - drop, room, device.rows_max))
