"""What the generator makes of its send and answer times."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.load.generator import MISSING, Sent, report

MS = 1_000_000


def sent(due_ms: list[int], sent_ms: list[int], answered_ms: list[int]) -> Sent:
    times = [np.array(ms, np.int64) * MS for ms in (due_ms, sent_ms, answered_ms)]
    times[2][np.array(answered_ms) == MISSING] = MISSING
    return Sent(times[0], times[1], times[2], {"ok": len(due_ms)})


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    found = report(sent([0, 10, 20], [0, 100, 101], [5, 105, 106]), warmup_s=0)
    assert found["max_ms"] == pytest.approx(95)  # due at 10, sent late at 100, answered at 105
    assert found["p50_ms"] == pytest.approx(86)
    assert found["sent_late_ms_p99"] == pytest.approx(90, abs=1)


def test_the_warm_up_is_left_out() -> None:
    found = report(sent([0, 500, 1000, 1500], [0, 500, 1000, 1500], [400, 900, 1003, 1503]), warmup_s=1)
    assert (found["requests"], found["answered"], found["max_ms"]) == (2, 2, pytest.approx(3))


def test_what_was_not_answered_is_counted_and_has_no_latency() -> None:
    found = report(sent([0, 10], [0, 10], [4, MISSING]), warmup_s=0)
    assert (found["requests"], found["answered"], found["max_ms"]) == (2, 1, pytest.approx(4))
    assert "p50_ms" not in report(sent([0], [0], [MISSING]), warmup_s=0)
