"""The scaling bench on the real broker: a group of workers shares a topic, and a batch takes its device's time."""

from __future__ import annotations

from pathlib import Path

from pipeline import load
from pipeline.load.scaling import ScalingWork, scaling
from pipeline.local import EmbeddedKafka
from pipeline.models import load_repository


def test_workers_share_the_requests_and_none_is_faster_than_its_device(broker: EmbeddedKafka, tmp_path: Path) -> None:
    (linear,) = [m for m in load_repository(Path(load.__file__).with_name("models")) if m.name == "linear"]
    work = ScalingWork(linear, broker.bootstrap, tmp_path, (1, 2), rows_max=16, batch_ms=40, seconds=2, repeats=1)
    told: list[str] = []
    rounds = scaling(work, told.append)
    assert told == ["round 1 of 1: 1 worker", "round 1 of 1: 2 workers"]
    for runs in rounds.runs.values():
        (figures,) = runs
        assert 0 < figures["of_device"] < 1.05
