"""What became of the requests of an open loop, and the figures and the verdict that come of it: pure arithmetic.

A latency runs from the moment a request was *due*, so that a stall counts for every request it delayed. What has no
good answer is infinitely late wherever a bound is judged: a system cannot pass by dropping what it is slow at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from pipeline.load.arrivals import SECOND_NS, Schedule

__all__ = ["MISSING", "PERCENTS", "Outcome", "Sent", "bound_ms", "report"]

MISSING = -1
PERCENTS = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
BOUND_PERCENT = 99.0  # of MLPerf Inference's Server scenario, unless a model says otherwise


class Outcome(IntEnum):
    """What became of one request: the first terminal record read of it, or none within the time."""

    UNANSWERED = 0
    OK = 1
    EXPIRED = 2
    REJECTED = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """Every request in order of the schedule; times in ns after the start of the schedule, `MISSING` for no answer."""

    due_ns: Schedule
    sent_ns: Schedule
    answered_ns: Schedule
    outcomes: np.ndarray[Any, np.dtype[np.int8]]
    repeats: int = 0
    undelivered: int = 0


def report(
    sent: Sent, warmup_s: float, duration_s: float, *, deadline_ms: float | None = None, slo_ms: float | None = None
) -> dict[str, Any]:
    """Counts, rates a second, latencies of ok answers in ms, and with an SLO whether its bound held.

    What was due in the first ``warmup_s`` is left out; rates are over the ``duration_s`` after it. Goodput is what was
    answered ok within the deadline and the SLO, where they are given. ``valid`` says whether the `BOUND_PERCENT`
    percentile of *all* requests is within the SLO; `bound_ms` is that percentile, None where it is infinite.
    """
    counted = sent.due_ns >= warmup_s * SECOND_NS
    outcomes = sent.outcomes[counted]
    ok = outcomes == Outcome.OK
    all_ms = np.where(ok, (sent.answered_ns - sent.due_ns)[counted] / 1e6, math.inf)
    late_ms = (sent.sent_ns - sent.due_ns)[counted] / 1e6
    within_ms = min(math.inf if limit is None else limit for limit in (deadline_ms, slo_ms))
    good = int((ok & (all_ms <= within_ms)).sum())
    requests, answered = len(outcomes), int((outcomes != Outcome.UNANSWERED).sum())
    result: dict[str, Any] = {
        "requests": requests,
        "answered": answered,
        **{outcome.name.lower(): int((outcomes == outcome).sum()) for outcome in Outcome},
        "good": good,
        "good_within_ms": within_ms if math.isfinite(within_ms) else None,
        "repeats": sent.repeats,
        "undelivered": sent.undelivered,
        "duration_s": duration_s,
        "offered_per_s": requests / duration_s,
        "answered_per_s": answered / duration_s,
        "ok_per_s": int(ok.sum()) / duration_s,
        "goodput_per_s": good / duration_s,
        "sent_late_ms_p50": float(np.percentile(late_ms, 50)),
        "sent_late_ms_p99": float(np.percentile(late_ms, 99)),
        "sent_late_ms_max": float(late_ms.max()),
    }
    if ok.any():
        latency_ms = all_ms[ok]
        result |= {f"p{percent:g}_ms": float(np.percentile(latency_ms, percent)) for percent in PERCENTS}
        result |= {"mean_ms": float(latency_ms.mean()), "max_ms": float(latency_ms.max())}
    if slo_ms is not None:
        bound = bound_ms(all_ms)
        result |= {"slo_ms": slo_ms, "bound_ms": bound if math.isfinite(bound) else None, "valid": bound <= slo_ms}
    return result


def bound_ms(latency_ms: np.ndarray[Any, Any], percent: float = BOUND_PERCENT) -> float:
    """The ``percent`` percentile by nearest rank: the latency that so many of all requests had at most.

    Never between two of them, so that it is infinite as soon as more than the rest are.
    """
    return float(np.percentile(latency_ms, percent, method="inverted_cdf"))
