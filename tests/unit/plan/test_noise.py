"""Pauses of a virtual machine: work rests in them, and all is drawn by the moment."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.plan.noise import Noise

MS = 1_000_000
# Pauses from 10 to 15 and from 20 to 40 ms, batches run half as long again, answers take 2 ms.
NOISE = Noise(np.array([10, 20]) * MS, np.array([15, 40]) * MS, np.array([1.5]), np.array([2.0 * MS]))


@pytest.mark.parametrize(
    ("now_ms", "run_ms", "end_ms"),
    [
        pytest.param(0, 4, 6, id="before"),
        pytest.param(8, 4, 19, id="through one"),
        pytest.param(8, 6, 42, id="through both"),
        pytest.param(12, 2, 18, id="begun in one"),
        pytest.param(50, 2, 53, id="after the last"),
    ],
)
def test_a_batch_rests_in_every_pause(now_ms: int, run_ms: int, end_ms: int) -> None:
    assert NOISE.ends_ns(now_ms * MS, run_ms * MS) == end_ms * MS


def test_so_do_answers_and_whoever_decides() -> None:
    assert NOISE.answered_ns(9 * MS) == 16 * MS
    assert [NOISE.awake_ns(at * MS) // MS for at in (9, 10, 14, 15)] == [9, 15, 15, 15]


def test_what_is_drawn_is_as_asked_for_and_the_same_again() -> None:
    noise, again = (Noise.drawn(100, every_ms=200, pause_ms=(5, 30), tail_ms=(2, 3)) for _ in range(2))
    long_ns = noise.end_ns - noise.begin_ns
    assert len(long_ns) == 500 and long_ns.min() >= 5 * MS and long_ns.max() <= 30 * MS
    assert (noise.begin_ns[1:] >= noise.end_ns[:-1]).all()
    assert np.diff(noise.begin_ns).mean() == pytest.approx(217.5 * MS, rel=0.1)
    assert noise.stretch.mean() == pytest.approx(1, rel=0.01)
    assert noise.tail_ns.min() >= 2 * MS and noise.tail_ns.mean() == pytest.approx(5 * MS, rel=0.02)
    assert (noise.begin_ns == again.begin_ns).all() and (noise.stretch == again.stretch).all()
