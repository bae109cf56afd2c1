"""When the requests of an open loop are due: constant, Poisson and burst schedules, seeded, and recorded ones."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

__all__ = ["Arrivals", "Schedule", "burst", "constant", "mean_rate", "poisson", "read_trace", "replayed", "schedule"]

Schedule = np.ndarray[Any, np.dtype[np.int64]]
"""Due times in nanoseconds after the start, ascending, all below the duration."""

SECOND_NS = 1_000_000_000


class Arrivals(StrEnum):
    """The kinds of schedule a user can name."""

    CONSTANT = "constant"
    POISSON = "poisson"
    BURST = "burst"


def constant(rate: float, duration_s: float) -> Schedule:
    """Evenly spaced, ``rate`` a second, the first at 0: ``round(rate * duration_s)`` due times."""
    _check(rate, duration_s)
    return (np.arange(round(rate * duration_s)) * (SECOND_NS / rate)).astype(np.int64)


def poisson(rate: float, duration_s: float, seed: int) -> Schedule:
    """A Poisson process of mean ``rate`` a second: independent exponential gaps, a random number of requests."""
    _check(rate, duration_s)
    # Given how many arrive, where they arrive is uniform: the same process as summed exponential gaps.
    random = np.random.default_rng(seed)
    due_s = np.sort(random.uniform(0, duration_s, random.poisson(rate * duration_s)))
    return (due_s * SECOND_NS).astype(np.int64)


def burst(rate: float, duration_s: float, seed: int, *, period_s: float = 1.0, busy_share: float = 0.2) -> Schedule:
    """Poisson arrivals of mean ``rate`` a second, all in the first ``busy_share`` of every period, none in the rest."""
    _check(rate, duration_s)
    if not 0 < busy_share <= 1 or period_s <= 0:
        raise ValueError(f"a burst takes a share in (0, 1] of a positive period, not {busy_share} of {period_s} s")
    # Poisson over all the time, then each period is squeezed into its beginning.
    period_ns = int(period_s * SECOND_NS)
    period, within_ns = np.divmod(poisson(rate, duration_s, seed), period_ns)
    squeezed: Schedule = period * period_ns + (within_ns * busy_share).astype(np.int64)
    return squeezed


def schedule(arrivals: Arrivals, rate: float, duration_s: float, seed: int) -> Schedule:
    """The schedule of that kind. Raises ``ValueError`` unless rate and duration are positive."""
    if arrivals is Arrivals.CONSTANT:
        return constant(rate, duration_s)
    if arrivals is Arrivals.POISSON:
        return poisson(rate, duration_s, seed)
    return burst(rate, duration_s, seed)


def read_trace(path: Path) -> Schedule:
    """Recorded arrivals, the first at 0: a ``.npy`` array of seconds, or lines with a number of seconds each.

    Seconds since whenever; a line of JSON may also be an object that has them as ``at_s``. Raises ``ValueError`` where
    there are fewer than two, or one is no number or earlier than the one before it, and ``OSError``.
    """
    try:
        if path.suffix == ".npy":
            at_s = np.asarray(open_memmap(path, mode="r"), np.float64)
        else:
            lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
            at_s = np.array([line["at_s"] if isinstance(line, dict) else line for line in lines], np.float64)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no trace of arrival times in seconds: {error}") from error
    if (
        at_s.ndim != 1
        or len(at_s) < 2
        or not np.isfinite(at_s).all()
        or (np.diff(at_s) < 0).any()
        or at_s[0] == at_s[-1]
    ):
        raise ValueError(f"{path}: a trace is at least two finite times in seconds, ascending")
    due: Schedule = ((at_s - at_s[0]) * SECOND_NS).astype(np.int64)
    return due


def replayed(trace: Schedule, rate: float | None, duration_s: float | None) -> tuple[Schedule, float]:
    """``trace`` as it was, or sped up to a mean of ``rate`` a second; the first ``duration_s`` of that.

    Also the seconds it takes: those, or up to its last request where that is sooner. Raises ``ValueError`` where rate
    or duration is not positive.
    """
    _check(rate or 1, 1 if duration_s is None else duration_s)
    due = trace if rate is None else (trace * (mean_rate(trace) / rate)).astype(np.int64)
    whole_s = int(due[-1]) / SECOND_NS
    if duration_s is None or duration_s > whole_s:
        return due, whole_s
    return due[due < duration_s * SECOND_NS], duration_s


def mean_rate(trace: Schedule) -> float:
    """Requests a second of a schedule of at least two, not all at once."""
    return (len(trace) - 1) / (int(trace[-1] - trace[0]) / SECOND_NS)


def _check(rate: float, duration_s: float) -> None:
    if rate <= 0 or duration_s <= 0:
        raise ValueError(f"rate and duration must be positive, not {rate} a second for {duration_s} s")
