"""How many bytes a second come in: large Arrow requests for a model that does nothing, beside consuming alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.load.lane import open_lane
from pipeline.load.process import Process, run_module
from pipeline.load.rounds import Contestant, Figures, Rounds, interleave
from pipeline.load.throughput import WARMUP, answer
from pipeline.models import Model
from topics.records import ARROW

__all__ = ["VolumeWork", "volume"]

DISTINCT = 16  # requests of about 1 MB each, in turn


@dataclass(frozen=True, slots=True)
class VolumeWork:
    """Arrow requests of ``rows`` rows of a model with one float32 input."""

    model: Model
    broker: str
    folder: Path
    requests: int = 4000
    rows: int = 10
    partitions: int = 4
    repeats: int = 3


def volume(work: VolumeWork, tell: Callable[[str], None]) -> Rounds:
    """``consume``, ``consume-copy`` and ``sluice``; figures ``bytes_per_s``, ``cpu_us_per_message``.

    ``consume`` is librdkafka alone with the worker's settings. ``consume-copy`` also checks and copies what it read, as
    any worker must: the limit of this machine, since each pass over the bytes costs its memory.

    Raises `BenchError` where a request is not answered or wrongly.
    """
    (tensor,) = work.model.signature.inputs
    row_bytes = tensor.dtype.itemsize * tensor.shape[0]

    def consume(name: str, *options: str) -> Contestant:
        def run(number: int) -> Figures:
            return _consume(work, f"{name}-{number}", options)

        return run

    def sluice(number: int) -> Figures:
        with open_lane(work.broker, work.folder, work.model, f"sluice-{number}", work.partitions) as lane:
            process = Process("pipeline.cli", lane.serve_arguments(), lane.folder / "log")
            answers, cpu_s = answer(lane, process, lane.published(), work.requests, ARROW, work.rows, DISTINCT)
        # What a request holds beyond its rows (1 kB of Arrow's schema) is left out: that is to our loss.
        bytes_per_s = answers.rate(WARMUP) * work.rows * row_bytes
        return {"bytes_per_s": bytes_per_s, "cpu_us_per_message": cpu_s * 1e6}

    return interleave(
        {"consume": consume("consume"), "consume-copy": consume("copy", "--copy"), "sluice": sluice}, work.repeats, tell
    )


def _consume(work: VolumeWork, name: str, options: tuple[str, ...]) -> Figures:
    with open_lane(work.broker, work.folder, work.model, name, work.partitions) as lane:
        lane.preload(work.requests, ARROW, rows=work.rows, distinct=DISTINCT)
        arguments = [
            *("--broker", lane.broker, "--topic", lane.model.topics.requests, "--partitions", str(lane.partitions)),
            *("--count", str(work.requests), "--warmup", str(WARMUP), *options),
        ]
        figures: Figures = json.loads(run_module("pipeline.load.peers.consume", arguments))
        return figures
