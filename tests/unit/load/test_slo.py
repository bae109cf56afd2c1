"""The search for the highest rate that holds, and what `sluice bench slo` and `overload` print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.cli.bench import app
from pipeline.load import Rounds, slo
from pipeline.load.slo import HIGH, LOW, STEPS, peak
from tests.unit.infer.makers import model_of

PEAKS = {"offline": 1000.0, "take": 300.0, "eager": 500.0, "sluice": 800.0, "beside": 900.0, "ceiling": 1000.0}


@given(st.floats(LOW, HIGH))
def test_the_peak_is_found_to_a_sixtieth_of_the_capacity_and_always_held(limit: float) -> None:
    tried: list[float] = []

    def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit * 1000

    found = peak(holds, 1000)
    assert len(tried) == STEPS
    assert found <= limit * 1000 <= found + 1000 * (HIGH - LOW) / 2**STEPS + 1e-6


def test_a_rate_holds_where_one_of_two_tries_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the machine's stalls do not spoil: tries arrive differently."""
    valid, seeds = iter([False, True, True, False, False, True]), list[int]()

    def load(work: slo.SloWork, lane: object, rate: float, seed: int) -> dict[str, bool]:
        seeds.append(seed)
        return {"valid": next(valid)}

    monkeypatch.setattr(slo.SloWork, "load", load)
    lane: Any = None
    holds = slo.SloWork(model_of(), "kafka:1", Path("nowhere")).holds(lane, 3)
    assert [holds(100), holds(90), holds(80)] == [True, True, False]
    assert seeds == [6, 7, 6, 6, 7]


def test_what_holds_at_no_rate_has_the_lowest() -> None:
    assert peak(lambda rate: False, 1000) == LOW * 1000


def test_peaks_are_shown_as_shares_of_the_peers_and_of_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = {"take": 0.5, "eager": 0.8, "sluice": 0.4}
    runs = {
        name: ({"peak_per_s": rate} | ({"busy": busy[name], "in_time": 1.0} if name in busy else {}),)
        for name, rate in PEAKS.items()
    }
    monkeypatch.setattr(slo, "slo_peaks", lambda work, ceiling, tell: Rounds(runs))
    shown = CliRunner().invoke(app, ["slo", "--broker", "kafka:1", "--json"])
    assert shown.exit_code == 0, shown.output
    ratios = json.loads(shown.stdout)["ratios"]
    assert {name: ratio["median"] for name, ratio in ratios.items()} == pytest.approx(
        {
            "sluice / take": 8 / 3,
            "sluice / eager": 1.6,
            "sluice / offline": 0.8,
            "sluice / beside": 8 / 9,
            "sluice / ceiling": 0.8,
            "beside / offline": 0.9,
            "beside / ceiling": 0.9,
            "busy: sluice / eager": 0.5,
        }
    )


def test_overload_is_shown_beside_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"offered_per_s": 800.0, "goodput_per_s": 790.0, "expired": 0.0, "unanswered": 0.0}
    twice = {"offered_per_s": 1600.0, "goodput_per_s": 711.0, "expired": 900.0, "unanswered": 0.0}
    runs = {"peak": (figures,), "twice": (twice,), "beside": ({"goodput_per_s": 869.0},)}
    monkeypatch.setattr(slo, "overload", lambda work, tell: Rounds(runs))
    shown = CliRunner().invoke(app, ["overload", "--broker", "kafka:1"])
    assert shown.exit_code == 0, shown.output
    for line in ("goodput: twice / peak  0.90", "goodput: beside / peak  1.10", "goodput: twice / beside  0.82"):
        assert line in shown.stdout
