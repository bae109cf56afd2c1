"""What a batch costs, learnt from the batches that ran, and how much is asked for."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Cost", "Rate"]

Floats = np.ndarray[Any, np.dtype[np.float64]]

FORGET = 0.995  # of a bucket's weight with every batch: what was 200 batches ago counts a third
WEIGHT_MIN = 1e-3  # a bucket that has not run for long still says which way the line goes
STEP_MIN = 1 / 16  # of a bucket's mean towards the next sample, once it is known
OUTLIER = 4.0  # a batch counts as at most so many times what was expected: a paused machine teaches nothing
AFFINE_MAX = 0.25  # furthest that a bucket's mean may be from the line, as a share of the line
KNOWN = 8.0  # weight from which a bucket's mean is judged by
KEPT = 512  # latest residuals and tails: 1% of them is 5
AGAIN = 32  # residuals after which percentiles are taken anew
SURE = 100  # residuals from which what happens once in a hundred is known
TAIL_PRIOR_NS = 2_000_000  # as long as nothing is known of acknowledgements: twice a broker's best on loopback
TAIL_PRIORS = 16  # until so many have come they count as no more: a producer's first take 150 ms, and refused everyone
FRESH_NS = 1_000_000_000
BACK_OFF = 0.9  # of the rows found by trying, after a late batch; with half, lateness in a row ends in batches of one
SPARE_MIN, SPARE_MAX = 0.05, 0.5  # of the SLO is left when a batch was put off: timers stall, too
SPARE_MORE, SPARE_LESS = 2.0, 0.995  # after requests that could not be served in time any more; after a batch's answers
AT_ONCE = 8  # samples after which the line is drawn anew: that costs 30 us
PENDING_MAX = 64  # samples kept while nobody asks
FIGURES = ("tau0_ns", "alpha_ns", "tail_ns", "slack_ns", "stall_ns")


class Cost:
    """l(b) = tau0 + alpha * b of one version, b the bucket that is paid for; and the time from its end to the answer.

    A mean per bucket, exponentially forgotten, and the line through them by weighted least squares. Where it misses a
    bucket's mean by more than `AFFINE_MAX` the model is not affine: then buckets cost what they were measured to, and
    how many rows a batch takes is found by trying (``rows_limit``): one more after each batch in time, a tenth less
    after one that was late by its size (AIMD, with Clipper's factor). Durations in ns. Event loop only.
    """

    def __init__(self, buckets: Sequence[int], samples: Sequence[tuple[int, int]] = ()) -> None:
        self._sizes = list(buckets)
        self._buckets: Floats = np.array(buckets, np.float64)
        self._mean: Floats = np.zeros(len(buckets))
        self._weight: Floats = np.zeros(len(buckets))
        self._line: Floats = np.zeros(len(buckets))  # l of each bucket
        self._lengths: list[float] = self._line.tolist()  # the same
        self._pending: deque[tuple[int, int]] = deque(maxlen=PENDING_MAX)
        self._tails: Floats = np.zeros(KEPT)
        self._over: Floats = np.zeros(KEPT)  # from the start to the acknowledgement, over l
        self._acks = 0
        self._acked_ns: int | None = None
        self._limit = 1.0
        self.spare = SPARE_MIN
        self._learnt = 0
        self._drawn = False  # the line, since a bucket's mean was first known
        self.tau0_ns = self.alpha_ns = 0.0
        self.affine = True
        self.tail_ns = float(TAIL_PRIOR_NS)  # computed -> acknowledged, median
        # How much longer than l and the tail one in ten batches take, from their start to the acknowledgement, and one
        # in a hundred: on a machine that others use too the first is a batch's noise, the second what it stalls.
        self.slack_ns = self.stall_ns = 0.0
        for rows, run_ns in samples:
            self.ran(rows, run_ns)
            if len(self._pending) == PENDING_MAX:
                self._learn()

    def ran(self, rows: int, run_ns: int) -> None:
        """A batch of so many rows has run."""
        self._pending.append((rows, run_ns))  # that is all while nobody asks: the latest are learnt from when one does

    def acked(self, rows: int, run_ns: int, tail_ns: int, now_ns: int, *, late: bool) -> None:
        """All of a batch is acknowledged; ``late`` where that was after a deadline, and a smaller one might not be."""
        if not self.is_fresh(now_ns):
            self._acks = 0  # what tails were before says nothing any more
            self._tails[:TAIL_PRIORS] = TAIL_PRIOR_NS
        self._acked_ns = now_ns
        self._limit = max(1.0, self._limit * BACK_OFF) if late else min(self._limit + 1, self._sizes[-1])
        self.spare = max(SPARE_MIN, SPARE_LESS * self.spare)
        at = self._acks % KEPT
        self._tails[at] = tail_ns
        self._over[at] = run_ns + tail_ns - self.run_ns(rows)
        self._acks += 1
        if self._acks % AGAIN == 0 or self._acks <= AGAIN:
            known = min(self._acks, KEPT)
            self.tail_ns = min(float(np.median(self._tails[:count])) for count in (known, max(known, TAIL_PRIORS)))
            slack_ns, stall_ns = np.quantile(self._over[:known], (0.9, 0.99)) - self.tail_ns
            self.slack_ns, self.stall_ns = max(0.0, float(slack_ns)), max(0.0, float(stall_ns))

    def missed(self) -> None:
        """Requests had to be expired: the next batches are put off less."""
        self.spare = min(SPARE_MAX, SPARE_MORE * self.spare)

    def is_fresh(self, now_ns: int) -> bool:
        """Whether something was answered of late. Where not, nobody may be refused for what was true before.

        A broker or machine that was slow for a while would have all requests expire, and nothing would tell that it is
        over.
        """
        longest_ns = self._lengths[-1] if self._drawn else 0.0
        return self._acked_ns is not None and now_ns - self._acked_ns < max(FRESH_NS, 4 * longest_ns)

    @property
    def is_sure(self) -> bool:
        """Whether enough was answered of late to know what the machine stalls once in a hundred batches."""
        return self._acks >= SURE

    @property
    def known(self) -> bool:
        """Whether anything has run yet."""
        return bool(self._pending) or self._learnt > 0

    @property
    def least_ns(self) -> float:
        """What any batch costs, however small; with ``row_ns`` a row never more than it will take."""
        self._fit()
        return self.tau0_ns if self.affine else self._lengths[0]

    @property
    def row_ns(self) -> float:
        self._fit()
        return self.alpha_ns if self.affine else 0.0

    @property
    def rows_limit(self) -> int:
        """Rows of a batch found by trying; only where the model is not affine it says anything."""
        return int(self._limit)

    def run_ns(self, rows: int) -> float:
        """The l of a batch of so many rows (at most the largest bucket)."""
        self._fit()
        return self._lengths[bisect_left(self._sizes, min(rows, self._sizes[-1]))]

    def rows_within(self, budget_ns: Floats) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The largest batch that ends within each budget; 0 where none does."""
        self._fit()
        fits = np.searchsorted(self._line, budget_ns, side="right")
        return np.where(fits > 0, self._buckets[fits - 1], 0).astype(np.int64)

    def capacity(self, slo_ns: float) -> float:
        """Rows per ns that can be served within an SLO, if no batch takes longer than usual.

        Of the largest batch that two of fit into it, one running and one gathering: l(b) <= (SLO - tail) / 2.
        """
        self._fit()
        fits = bisect_right(self._lengths, (slo_ns - self.tail_ns) / 2)
        rows = self._sizes[max(fits, 1) - 1]
        return rows / max(self.run_ns(rows), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """For people and recordings."""
        self._fit()
        figures = {name: round(getattr(self, name)) for name in FIGURES}
        return {**figures, "affine": self.affine}

    def _learn(self) -> None:
        """Samples go into their buckets' means."""
        mean, weight = self._mean, self._weight
        weight[weight > 0] = np.maximum(weight[weight > 0] * FORGET ** len(self._pending), WEIGHT_MIN)
        for rows, run_ns in self._pending:
            at = bisect_left(self._sizes, rows)
            taken_ns = float(run_ns) if weight[at] < KNOWN else min(run_ns, OUTLIER * mean[at])
            weight[at] += 1
            mean[at] += (taken_ns - mean[at]) * max(STEP_MIN, 1 / weight[at])
        self._learnt += len(self._pending)
        self._pending.clear()

    def _fit(self) -> None:
        enough = AT_ONCE if self._learnt >= PENDING_MAX else 1
        if len(self._pending) < enough and (self._drawn or not self.known):
            return
        self._drawn = True
        self._learn()
        seen = self._weight > 0
        buckets, mean, weight = self._buckets[seen], self._mean[seen], self._weight[seen]
        centre, height = np.average(buckets, weights=weight), np.average(mean, weights=weight)
        spread = float(np.sum(weight * (buckets - centre) ** 2))
        if spread:
            alpha = float(np.sum(weight * (buckets - centre) * (mean - height))) / spread
            alpha = min(max(alpha, 0.0), height / centre)  # neither part of a batch's time is negative
        else:
            alpha = height / centre
        self.alpha_ns, self.tau0_ns = float(alpha), float(height - alpha * centre)
        line = self.tau0_ns + self.alpha_ns * self._buckets
        judged = self._weight >= KNOWN
        self.affine = not bool((np.abs(self._mean - line)[judged] > AFFINE_MAX * line[judged]).any())
        self._line = line if self.affine else np.maximum.accumulate(np.interp(self._buckets, buckets, mean))
        self._lengths = self._line.tolist()


class Rate:
    """Rows that arrive per ns: of late, what came before fades with a time constant of ``over_ns``."""

    def __init__(self, over_ns: float = 500e6) -> None:
        self._over_ns = over_ns
        self._rows = 0.0
        self._at_ns = 0

    def add(self, rows: int, now_ns: int) -> None:
        """Rows arrive; moments never go back."""
        self._rows = self._faded(now_ns) + rows
        self._at_ns = now_ns

    def per_ns(self, now_ns: int) -> float:
        return self._faded(now_ns) / self._over_ns

    def _faded(self, now_ns: int) -> float:
        return self._rows * math.exp(min(0.0, (self._at_ns - now_ns) / self._over_ns))
