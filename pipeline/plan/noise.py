"""What a machine shared with others does to batches, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

__all__ = ["Noise"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Moments = np.ndarray[Any, np.dtype[np.int64]]

STEP_NS = 1_000_000  # what is drawn for a moment holds so long


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """Pauses of the whole machine, (pauses,) ascending, and what is drawn for each moment, (moments,) and then again.

    All depends on the moment alone: whatever a policy does, it meets the same.
    """

    begin_ns: Moments
    end_ns: Moments
    stretch: Floats  # how many times as long a batch runs that begins then
    tail_ns: Floats  # of a batch that ends then, until its answers are with the broker

    @classmethod
    def drawn(
        cls,
        duration_s: float,
        *,
        every_ms: float = 400.0,
        pause_ms: tuple[float, float] = (5.0, 30.0),
        spread: float = 0.15,
        tail_ms: tuple[float, float] = (2.0, 2.0),
        seed: int = 1,
    ) -> Self:
        """Pauses of uniform length, exponentially far apart.

        Run times are log-normal with that ``spread``, their mean as without noise; tails are at least the first of
        ``tail_ms``, and exponentially more with the second as mean.
        """
        random = np.random.default_rng(seed)
        count, moments = int(duration_s * 1000 / every_ms), int(duration_s * 1000)
        rest_ns, long_ns = random.exponential(every_ms, count) * 1e6, random.uniform(*pause_ms, count) * 1e6
        end_ns = np.cumsum(rest_ns + long_ns).astype(np.int64)
        stretch = random.lognormal(-(spread**2) / 2, spread, moments)
        tail_ns = (tail_ms[0] + random.exponential(tail_ms[1], moments)) * 1e6
        return cls(end_ns - long_ns.astype(np.int64), end_ns, stretch, tail_ns)

    def awake_ns(self, now_ns: int) -> int:
        """Now, or when the pause of now is over."""
        return self._done_ns(now_ns, 0)

    def ends_ns(self, now_ns: int, run_ns: int) -> int:
        """When a batch ends that begins now and takes so long by itself."""
        return self._done_ns(now_ns, run_ns * _at(self.stretch, now_ns))

    def answered_ns(self, ended_ns: int) -> int:
        """When the answers of a batch that has ended are with the broker."""
        return self._done_ns(ended_ns, _at(self.tail_ns, ended_ns))

    def _done_ns(self, now_ns: int, work_ns: float) -> int:
        """When work that begins now is done: it rests in every pause."""
        at, done_ns = int(np.searchsorted(self.end_ns, now_ns, side="right")), int(now_ns + work_ns)
        while at < len(self.begin_ns) and self.begin_ns[at] <= done_ns:
            done_ns += int(self.end_ns[at]) - max(now_ns, int(self.begin_ns[at]))
            at += 1
        return done_ns


def _at(drawn: Floats, now_ns: int) -> float:
    return float(drawn[now_ns // STEP_NS % len(drawn)])
