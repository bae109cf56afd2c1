"""What is made of the send and answer times of an open loop: counts, rates, latencies, goodput and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.load.outcome import MISSING, Outcome, Sent, bound_ms, report

MS = 1_000_000
OK, EXPIRED, REJECTED, UNANSWERED = Outcome.OK, Outcome.EXPIRED, Outcome.REJECTED, Outcome.UNANSWERED


def sent(due_ms: list[int], sent_ms: list[int], answered_ms: list[int], outcomes: list[Outcome] | None = None) -> Sent:
    times = [np.array(ms, np.int64) * MS for ms in (due_ms, sent_ms, answered_ms)]
    times[2][np.array(answered_ms) == MISSING] = MISSING
    outcomes = outcomes or [UNANSWERED if ms == MISSING else OK for ms in answered_ms]
    return Sent(times[0], times[1], times[2], np.array(outcomes, np.int8))


def answered(latencies_ms: Sequence[float], outcomes: list[Outcome] | None = None) -> Sent:
    """One request each 10 ms, sent at once, answered after so many ms; `math.inf` for never."""
    due_ns = np.arange(len(latencies_ms)) * 10 * MS
    answers = [MISSING if ms == math.inf else due + int(ms * MS) for due, ms in zip(due_ns, latencies_ms, strict=True)]
    outcomes = outcomes or [UNANSWERED if ms == math.inf else OK for ms in latencies_ms]
    return Sent(due_ns, due_ns, np.array(answers, np.int64), np.array(outcomes, np.int8))


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    found = report(sent([0, 10, 20], [0, 100, 101], [5, 105, 106]), 0, 1)
    assert found["max_ms"] == pytest.approx(95)  # due at 10, sent late at 100, answered at 105
    assert found["p50_ms"] == pytest.approx(86)
    assert found["sent_late_ms_p99"] == pytest.approx(90, abs=1)
    assert found["sent_late_ms_max"] == pytest.approx(90)


def test_the_warm_up_is_left_out_of_counts_rates_and_latencies() -> None:
    answers = sent([0, 500, 1000, 1500], [0, 500, 1000, 1500], [400, MISSING, 1003, 1503])
    found = report(answers, warmup_s=1, duration_s=0.5)
    assert (found["requests"], found["answered"], found["unanswered"], found["max_ms"]) == (2, 2, 0, pytest.approx(3))
    assert (found["offered_per_s"], found["ok_per_s"], found["goodput_per_s"]) == (4, 4, 4)


def test_what_was_not_answered_is_counted_and_has_no_latency() -> None:
    found = report(sent([0, 10], [0, 10], [4, MISSING]), 0, 1)
    assert (found["requests"], found["answered"], found["unanswered"], found["max_ms"]) == (2, 1, 1, pytest.approx(4))
    assert "p50_ms" not in report(sent([0], [0], [MISSING]), 0, 1)


def test_a_notice_is_an_answer_but_neither_ok_nor_a_latency() -> None:
    found = report(answered([4, 1, 2, math.inf], [OK, EXPIRED, REJECTED, UNANSWERED]), 0, 2)
    assert [found[name] for name in ("ok", "expired", "rejected", "unanswered")] == [1, 1, 1, 1]
    assert (found["answered_per_s"], found["ok_per_s"], found["p50_ms"]) == (1.5, 0.5, pytest.approx(4))


@pytest.mark.parametrize(
    ("limits", "good"), [({}, 4), ({"deadline_ms": 30}, 3), ({"slo_ms": 20}, 2), ({"deadline_ms": 30, "slo_ms": 15}, 1)]
)
def test_goodput_is_what_was_ok_within_the_deadline_and_the_slo(limits: dict[str, float], good: int) -> None:
    found = report(answered([10, 20, 30, 40, 5], [OK, OK, OK, OK, EXPIRED]), 0, 2, **limits)
    assert (found["good"], found["goodput_per_s"]) == (good, good / 2)


def test_the_bound_is_a_latency_that_99_in_100_had_at_most() -> None:
    assert bound_ms(np.arange(1.0, 101)) == 99
    assert bound_ms(np.arange(1.0, 1001)) == 990
    assert bound_ms(np.array([7.0])) == 7


def test_one_missing_answer_in_a_hundred_may_be_two_are_infinitely_late() -> None:
    passed = report(answered([5] * 99 + [math.inf]), 0, 1, slo_ms=5)
    assert (passed["valid"], passed["bound_ms"]) == (True, 5)
    missed = report(answered([5] * 98 + [math.inf] * 2), 0, 1, slo_ms=5)
    assert (missed["valid"], missed["bound_ms"]) == (False, None)
    assert missed["p99_ms"] == pytest.approx(5)  # of those that were answered: no basis for a verdict


@pytest.mark.parametrize("outcome", [EXPIRED, REJECTED])
def test_a_notice_counts_as_infinitely_late_however_early_it_came(outcome: Outcome) -> None:
    assert not report(answered([1] * 100, [OK] * 98 + [outcome] * 2), 0, 1, slo_ms=5)["valid"]


def test_a_bound_that_is_missed_is_told() -> None:
    found = report(answered([5] * 97 + [9, 9, 9]), 0, 1, slo_ms=8)
    assert (found["valid"], found["bound_ms"], found["good"]) == (False, 9, 97)
