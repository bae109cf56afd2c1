"""What the generator makes of a load before it sends anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.load import Arrivals, Load, constant
from pipeline.load.generator import LINGER_MS, due_times, linger_ms

SECOND_NS = 1_000_000_000


def load_of(**about: Any) -> Load:
    return Load(**{"broker": "kafka:1", "model": "models/linear/1", "content_type": "raw", **about})


def test_the_warm_up_is_of_the_same_kind_before_what_counts() -> None:
    due, duration_s = due_times(load_of(rate=10, duration_s=2, warmup_s=1, arrivals=Arrivals.CONSTANT))
    assert due.tolist() == (np.arange(30) * SECOND_NS // 10).tolist()
    assert duration_s == 2


def test_a_trace_is_warmed_up_for_at_its_mean_rate(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("0\n0.1\n1\n")  # two gaps in a second
    due, _ = due_times(load_of(trace=str(tmp_path / "trace"), warmup_s=1))
    assert (due / SECOND_NS).tolist() == [0, 0.5, 1, 1.1, 2]
    at_once, _ = due_times(load_of(trace=str(tmp_path / "trace"), rate=4, warmup_s=0))
    assert (at_once / SECOND_NS).tolist() == [0, 0.05, 0.5]


@pytest.mark.parametrize(("rate", "gathered_ms"), [(100, 0.0), (1000, 0.0), (5000, LINGER_MS)])
def test_the_producer_gathers_at_a_high_rate_unless_told_otherwise(rate: float, gathered_ms: float) -> None:
    due = constant(rate, 1)
    assert linger_ms(load_of(), due) == gathered_ms
    assert linger_ms(load_of(linger_ms=2.0), due) == 2.0
    assert linger_ms(load_of(), due[:1]) == 0.0
    assert linger_ms(load_of(), due[[1, 1, 1]]) == 0.0
    assert linger_ms(load_of(linger_ms=2.0, kafka={"linger.ms": "50"}), due) == 50.0  # what the producer does


@pytest.mark.parametrize(("times", "rate", "warms_up_for"), [([0, 0, 5], None, [0, 2.5]), ([0, 5], 1, [0, 1, 2, 3, 4])])
def test_a_trace_cut_in_its_first_pause_is_warmed_up_for_and_counted_all_the_same(
    tmp_path: Path, times: list[int], rate: float | None, warms_up_for: list[float]
) -> None:
    (tmp_path / "trace").write_text("\n".join(map(str, times)))
    due, duration_s = due_times(load_of(trace=str(tmp_path / "trace"), rate=rate, duration_s=0.5, warmup_s=5))
    assert (due / SECOND_NS).tolist() == [*warms_up_for, *[5.0] * times.count(0)]
    assert duration_s == 0.5
