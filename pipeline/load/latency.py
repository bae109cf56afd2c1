"""Latency beside the broker's own: an open loop at a low rate through Sluice, through an echo, and the model alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.load.arrivals import Arrivals
from pipeline.load.drive import Load, drive
from pipeline.load.lane import Lane, open_lane
from pipeline.load.process import BenchError, Process, run_module
from pipeline.load.rounds import Contestant, Figures, Rounds, interleave
from pipeline.models import Model
from topics.records import RAW

__all__ = ["LatencyWork", "latency", "open_loop"]


@dataclass(frozen=True, slots=True)
class LatencyWork:
    """One-row raw requests at ``rate`` a second for ``duration_s`` seconds, after a warm-up."""

    model: Model
    broker: str
    folder: Path
    rate: float = 100.0
    duration_s: float = 10.0
    arrivals: Arrivals = Arrivals.POISSON
    partitions: int = 4
    repeats: int = 3


def latency(work: LatencyWork, tell: Callable[[str], None]) -> Rounds:
    """``echo``, ``model`` (batch of 1, called in a loop) and ``sluice``; figures ``p50_ms``, ``p99_ms``.

    The echo sends at once, so that it takes as little as the broker lets it.
    Raises `BenchError` where a request stays unanswered or its answer is not ok.
    """

    def served(name: str, module: str, arguments: Callable[[Lane], list[str]]) -> Contestant:
        def run(number: int) -> Figures:
            with (
                open_lane(work.broker, work.folder, work.model, f"{name}-{number}", work.partitions) as lane,
                Process(module, arguments(lane), lane.folder / "log") as process,
            ):
                process.wait_ready()
                return open_loop(work, lane, seed=number)

        return run

    def model(number: int) -> Figures:
        arguments = ["--model", str(work.model.path), "--rows", "1", "--batches", "1"]
        figures: Figures = json.loads(run_module("pipeline.load.peers.bare", arguments))
        return figures

    return interleave(
        {
            "echo": served("echo", "pipeline.load.peers.echo", lambda lane: lane.peer_arguments(linger_ms=0)),
            "model": model,
            "sluice": served("sluice", "pipeline.cli", Lane.serve_arguments),
        },
        work.repeats,
        tell,
    )


def open_loop(work: LatencyWork, lane: Lane, seed: int) -> Figures:
    """Generate the load for who serves the lane; raises `BenchError` unless all is answered ``ok``."""
    found = drive(
        Load(
            broker=work.broker,
            model=str(lane.model.path),
            content_type=RAW,
            rate=work.rate,
            duration_s=work.duration_s,
            arrivals=work.arrivals,
            seed=seed,
        )
    )
    if found["ok"] < found["requests"]:
        raise BenchError(f"{lane.model.name}: not every request was answered ok: {found}")
    return found
