"""An exponential histogram that takes durations by the array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["BUCKETS", "LOWEST", "SCALE", "Histogram"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

# 2**(1/32) a bucket: a quantile is within 1.1% of a value that was recorded.
SCALE = 5
_PER_DOUBLING = 2**SCALE
# From 2**-24 s (60 ns; what is shorter counts as zero) to 2**32 s (136 years; what is longer counts in the last
# bucket): any clock's nonsense has a place, and a histogram is 1,793 counts, 14 kB, for ever (invariant I4).
_DOUBLINGS = (-24, 32)
LOWEST = _DOUBLINGS[0] * _PER_DOUBLING
BUCKETS = (_DOUBLINGS[1] - _DOUBLINGS[0]) * _PER_DOUBLING
_ZERO_S = 2.0 ** _DOUBLINGS[0]


class Histogram:
    """Counts of seconds in buckets (2**(i/32), 2**((i+1)/32)], with exact count, sum, minimum and maximum.

    The buckets are those of OpenTelemetry's exponential histogram at scale 5. ``counts[0]`` is the zero bucket,
    ``counts[1 + k]`` the bucket of index ``LOWEST + k``. Not thread-safe: the owner locks.
    """

    __slots__ = ("count", "counts", "max_s", "min_s", "sum_s")

    def __init__(self) -> None:
        self.counts: Ints = np.zeros(1 + BUCKETS, np.int64)
        self.count = 0
        self.sum_s = 0.0
        self.min_s = math.inf
        self.max_s = -math.inf

    def record_many(self, values_s: Floats, counts: Ints | None = None) -> None:
        """Record every value, ``counts[i]`` times where counts are given. Both of shape (n,), counts >= 1."""
        if not values_s.size:
            return
        exponent = np.log2(np.maximum(values_s, _ZERO_S)) * _PER_DOUBLING
        slots = np.minimum(np.ceil(exponent).astype(np.int64) - LOWEST, BUCKETS)
        # With weights bincount counts in float64, exact up to 2**53.
        self.counts += np.bincount(slots, counts, minlength=1 + BUCKETS).astype(np.int64, copy=False)
        self.count += values_s.size if counts is None else int(counts.sum())
        self.sum_s += float(values_s.sum() if counts is None else values_s @ counts)
        self.min_s = min(self.min_s, float(values_s.min()))
        self.max_s = max(self.max_s, float(values_s.max()))

    def record(self, value_s: float, count: int = 1) -> None:
        """Record one value ``count`` times."""
        self.record_many(np.array([value_s]), np.array([count]))

    def merge(self, other: Histogram) -> None:
        """Add what another histogram holds."""
        self.counts += other.counts
        self.count += other.count
        self.sum_s += other.sum_s
        self.min_s = min(self.min_s, other.min_s)
        self.max_s = max(self.max_s, other.max_s)

    def copy(self) -> Histogram:
        """A histogram of its own with the same content."""
        twin = Histogram()
        twin.merge(self)
        return twin

    def since(self, earlier: Histogram) -> Histogram:
        """What was recorded after ``earlier`` was copied from this; its min and max are bucket borders."""
        later = Histogram()
        later.counts = self.counts - earlier.counts
        later.count = self.count - earlier.count
        later.sum_s = self.sum_s - earlier.sum_s
        used = np.flatnonzero(later.counts)
        if used.size:
            later.min_s = max(self.min_s, _border_s(int(used[0]) - 1))
            later.max_s = min(self.max_s, _border_s(int(used[-1])))
        return later

    @property
    def mean_s(self) -> float:
        """The exact mean; 0 when empty."""
        return self.sum_s / self.count if self.count else 0.0

    def quantile_s(self, q: float) -> float:
        """The smallest recorded value that at least ``q`` of all do not exceed, within 1.1%; 0 when empty."""
        if not self.count:
            return 0.0
        rank = max(1, math.ceil(q * self.count))
        slot = int(np.searchsorted(np.cumsum(self.counts), rank))
        middle = math.sqrt(_border_s(slot - 1) * _border_s(slot)) if slot else 0.0
        return min(max(middle, self.min_s), self.max_s)

    def buckets(self, buckets_max: int) -> tuple[int, int, list[int]]:
        """``(scale, offset, counts)`` from the first to the last used bucket, the zero bucket left out.

        The scale is lowered, which joins neighbours exactly, until at most ``buckets_max`` (2 or more) are left.
        """
        assert buckets_max >= 2, "values around 1 s lie in two buckets at any scale"
        used = np.flatnonzero(self.counts[1:])
        if not used.size:
            return SCALE, 0, []
        first, last, scale = int(used[0]) + LOWEST, int(used[-1]) + LOWEST, SCALE
        while (last >> SCALE - scale) - (first >> SCALE - scale) >= buckets_max:
            scale -= 1
        offset = first >> SCALE - scale
        joined = ((used + LOWEST) >> SCALE - scale) - offset
        return scale, offset, np.bincount(joined, self.counts[1:][used]).astype(np.int64).tolist()


def _border_s(slot: int) -> float:
    """The upper border of a slot of ``counts``; 0 below the zero bucket."""
    return 2.0 ** ((LOWEST + slot) / _PER_DOUBLING) if slot >= 0 else 0.0
