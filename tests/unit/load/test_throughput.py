"""What each contestant of the throughput bench is given, and that all must do the same work."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from pipeline import load
from pipeline.load import BenchError, throughput
from pipeline.load.lane import Lane
from pipeline.load.process import Process
from pipeline.load.readback import Readback
from pipeline.load.throughput import RawWork, raw_throughput
from pipeline.models import load_repository
from topics.records import JSON, RAW


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RawWork:
    """The loop and MLServer beside Sluice; nothing is run."""
    (linear,) = [m for m in load_repository(Path(load.__file__).with_name("models")) if m.name == "linear"]
    monkeypatch.setattr(throughput, "open_lane", lambda *of: nullcontext(Lane("kafka:1", 4, tmp_path, linear)))
    return RawWork(linear, "kafka:1", tmp_path, {"loop": ["python"], "mlserver": ["python"]}, repeats=1)


def answers_of(monkeypatch: pytest.MonkeyPatch, names: dict[str, tuple[str, ...]]) -> dict[str, tuple[int, str]]:
    """Let each module answer with its header ``names``; the count and the form of the requests it was given."""
    given = {}

    def answered(lane: Lane, process: Process, answers: object, count: int, form: str, **_: object) -> object:
        given[process._name] = (count, form)
        return Readback(count, 0, np.arange(count), names.get(process._name, ("status",)), 4 * count), 5e-6

    monkeypatch.setattr(throughput, "answer", answered)
    return given


def test_each_is_given_its_share_in_the_form_it_reads(monkeypatch: pytest.MonkeyPatch, work: RawWork) -> None:
    given = answers_of(monkeypatch, {})
    rounds = raw_throughput(work, lambda what: None)
    assert given == {
        "pipeline.load.peers.loop": (400_000, RAW),
        "pipeline.load.peers.ml_server": (20_000, JSON),
        "pipeline.cli": (400_000, RAW),
    }
    assert rounds.spread("sluice", "cpu_us_per_message").median == 5


def test_who_writes_other_headers_does_not_do_the_same_work(monkeypatch: pytest.MonkeyPatch, work: RawWork) -> None:
    answers_of(monkeypatch, {"pipeline.cli": ("source", "status")})
    with pytest.raises(BenchError, match="not the same work, the headers differ"):
        raw_throughput(work, lambda what: None)
