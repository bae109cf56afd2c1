"""Schedules of the open loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.load.arrivals import Arrivals, burst, constant, poisson, read_trace, replayed, schedule

SECOND_NS = 1_000_000_000


@given(st.sampled_from(Arrivals), st.floats(0.5, 5_000), st.floats(0.1, 5), st.integers(0, 1000))
def test_due_times_ascend_within_the_duration(arrivals: Arrivals, rate: float, duration_s: float, seed: int) -> None:
    due = schedule(arrivals, rate, duration_s, seed)
    assert due.dtype == np.int64
    assert (np.diff(due) >= 0).all()
    assert not len(due) or (due[0] >= 0 and due[-1] < duration_s * SECOND_NS + 1)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert constant(4, 1).tolist() == [0, 250_000_000, 500_000_000, 750_000_000]


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() -> None:
    gaps_s = np.diff(poisson(1_000, 100, seed=3)) / SECOND_NS
    assert gaps_s.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps_s.std() == pytest.approx(1e-3, rel=0.03)  # of an exponential: equal to its mean


def test_bursts_keep_the_mean_rate_and_the_pauses() -> None:
    due = burst(1_000, 20, seed=3, period_s=2.0, busy_share=0.25)
    assert len(due) == pytest.approx(20_000, rel=0.03)
    assert ((due % (2 * SECOND_NS)) < 0.5 * SECOND_NS).all()


@pytest.mark.parametrize(("duration_s", "last"), [(5.5, 500), (1.2, 200), (0.1, 100)])
def test_a_burst_that_is_cut_holds_what_comes_in_the_time_that_is_left(duration_s: float, last: int) -> None:
    *whole, cut = np.bincount(burst(1_000, duration_s, seed=3) // SECOND_NS)
    assert whole == pytest.approx([1_000] * len(whole), abs=150)
    assert cut == pytest.approx(last, abs=75)


@pytest.mark.parametrize("arrivals", [Arrivals.POISSON, Arrivals.BURST])
def test_a_seed_fixes_the_schedule(arrivals: Arrivals) -> None:
    assert schedule(arrivals, 100, 2, seed=1).tolist() == schedule(arrivals, 100, 2, seed=1).tolist()
    assert schedule(arrivals, 100, 2, seed=1).tolist() != schedule(arrivals, 100, 2, seed=2).tolist()


@pytest.mark.parametrize(("rate", "duration_s"), [(0, 1), (-1, 1), (1, 0)])
def test_a_rate_or_duration_that_is_not_positive_is_refused(rate: float, duration_s: float) -> None:
    for arrivals in Arrivals:
        with pytest.raises(ValueError, match="positive"):
            schedule(arrivals, rate, duration_s, seed=0)


@pytest.mark.parametrize(("period_s", "busy_share"), [(0.0, 0.5), (1.0, 0.0), (1.0, 1.5)])
def test_a_burst_that_cannot_be_is_refused(period_s: float, busy_share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        burst(10, 1, 0, period_s=period_s, busy_share=busy_share)


@pytest.mark.parametrize(
    "lines", ["100\n100.5\n\n102\n", '{"at_s": 100}\n{"at_s": 100.5, "key": "a"}\n{"at_s": 102}\n']
)
def test_a_trace_is_read_from_lines_and_begins_at_0(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(lines)
    assert read_trace(path).tolist() == [0, 500_000_000, 2_000_000_000]


def test_a_trace_is_read_from_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "trace.npy", np.array([3.0, 3.25, 4.0], np.float32))
    assert read_trace(tmp_path / "trace.npy").tolist() == [0, 250_000_000, 1_000_000_000]


@pytest.mark.parametrize("lines", ["", "1\n", "2\n1\n", "1\n1\n", "a\n", "1\nNaN\n", '{"at": 1}\n2\n', "[1]\n[2]\n"])
def test_what_is_no_trace_is_refused(lines: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match="trace"):
        read_trace(path)


def test_a_trace_is_replayed_as_it_was_or_at_another_rate_and_cut() -> None:
    trace = np.array([0, 1, 4, 8], np.int64) * SECOND_NS
    for rate, asked_s, seconds, takes_s in (
        (None, None, [0, 1, 4, 8], 8),
        (0.75, None, [0, 0.5, 2, 4], 4),  # 3 gaps in 4 s
        (0.75, 2.0, [0, 0.5], 2),  # the duration of the replay, its end left out
        (0.75, 3.0, [0, 0.5, 2], 3),
        (0.75, 9.0, [0, 0.5, 2, 4], 4),
    ):
        due, duration_s = replayed(trace, rate, asked_s)
        assert ((due / SECOND_NS).tolist(), duration_s) == (seconds, takes_s)
    for rate, duration_s in ((-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="positive"):
            replayed(trace, rate, duration_s)
