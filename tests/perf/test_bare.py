"""The bare model of the latency bench; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import load
from pipeline.load.process import run_module
from pipeline.models import load_repository


def test_the_bare_model_tells_its_best_batch_and_rate() -> None:
    (linear,) = [m for m in load_repository(Path(load.__file__).with_name("models")) if m.name == "linear"]
    arguments = ["--model", str(linear.path), "--rows", "1000", "--batches", "1,64", "--seconds", "0.2"]
    found = json.loads(run_module("pipeline.load.peers.bare", arguments))
    assert found["batch_rows"] == 64  # a run of 64 rows costs about as much as a run of one
    assert found["rows_per_s"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]
