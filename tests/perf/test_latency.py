"""The latency bench's own parts on the real broker: the generator through the echo; no time is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipeline import load
from pipeline.load.lane import open_lane
from pipeline.load.process import Process, run_module
from pipeline.local import EmbeddedKafka
from pipeline.models import load_repository
from topics.records import RAW


def test_every_request_of_the_generator_comes_back_through_the_echo(
    broker: EmbeddedKafka, topic: Callable[..., str], tmp_path: Path
) -> None:
    (linear,) = load_repository(Path(load.__file__).with_name("models"))
    with open_lane(broker.bootstrap, tmp_path, linear, topic("echo"), partitions=4) as lane:
        generator = [
            *("--broker", lane.broker, "--repository", str(lane.repository), "--model", lane.model.name),
            *("--content-type", RAW, "--rate", "200", "--duration-s", "1", "--warmup-s", "0.5"),
        ]
        with Process("pipeline.load.peers.echo", lane.peer_arguments(0.5), lane.folder / "log") as echo:
            echo.wait_ready()
            found = json.loads(run_module("pipeline.load.generator", [*generator, "--arrivals", "constant"]))
            burst = json.loads(run_module("pipeline.load.generator", [*generator, "--arrivals", "burst"]))
    assert (found["requests"], found["answered"], found["statuses"]) == (200, 200, {"ok": 300})
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert burst["answered"] == burst["requests"]


def test_the_bare_model_tells_its_best_batch_and_rate() -> None:
    (linear,) = load_repository(Path(load.__file__).with_name("models"))
    arguments = ["--model", str(linear.path), "--rows", "1000", "--batches", "1,64", "--seconds", "0.2"]
    found = json.loads(run_module("pipeline.load.peers.bare", arguments))
    assert found["batch_rows"] == 64  # a run of 64 rows costs about as much as a run of one
    assert found["rows_per_s"] > 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]
