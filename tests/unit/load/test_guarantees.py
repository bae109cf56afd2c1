"""The guarantees bench has no figure for a broken guarantee."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from pipeline import load
from pipeline.load import BenchError, guarantees
from pipeline.load.lane import Lane
from pipeline.load.latency import LatencyWork
from pipeline.load.process import Process
from pipeline.load.readback import Readback
from pipeline.load.throughput import RawWork
from pipeline.models import load_repository


@pytest.mark.parametrize(("guarantee", "repeats"), [("exactly-once", 1), ("exactly-once", 0), ("at-least-once", 1)])
def test_an_answer_repeated_under_exactly_once_fails_the_bench(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, guarantee: str, repeats: int
) -> None:
    (linear,) = [m for m in load_repository(Path(load.__file__).with_name("models")) if m.name == "linear"]
    lane, served = Lane("kafka:1", 4, tmp_path, linear), []

    def answered(lane: Lane, process: Process, *rest: object, **others: object) -> object:
        served.append(process._command[-1])
        again = repeats if served[-1] == guarantee else 0
        return Readback(1000, again, np.arange(1000), ("status",), 4000), 5e-6

    monkeypatch.setattr(guarantees, "open_lane", lambda *arguments: nullcontext(lane))
    monkeypatch.setattr(guarantees, "answer", answered)
    monkeypatch.setattr(guarantees, "_low_rate", lambda *arguments: {"p50_ms": 1.0})
    full, paced = RawWork(linear, "kafka:1", tmp_path, repeats=2), LatencyWork(linear, "kafka:1", tmp_path)
    if guarantee == "exactly-once" and repeats:
        with pytest.raises(BenchError, match="1 answers were repeated"):
            guarantees.guarantees(full, paced, lambda what: None)
        return
    rounds = guarantees.guarantees(full, paced, lambda what: None)
    assert served == ["at-least-once", "exactly-once", "exactly-once", "at-least-once"]
    assert rounds.ratio("exactly-once", "at-least-once", "messages_per_s").median == 1
