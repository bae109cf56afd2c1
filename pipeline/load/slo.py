"""What a service level objective leaves of the capacity: the highest Poisson rate at which 99% of requests are in time.

For each contestant rates are tried by halving, on one running worker; a rate holds where the 99th percentile of all
requests, the unanswered and expired ones infinitely late, is within the SLO, in one of two tries. Beside it the model
alone in a loop (the offline rate), also while the broker and a loop without a model carry the same load on the same
machine, and the ceiling that a simulation has for what batches took in the worker; for the worker with an SLO also what
twice its peak comes to, with the model alone beside that load.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.load.drive import Load, drive
from pipeline.load.lane import Lane, open_lane
from pipeline.load.process import BenchError, Process, run_module
from pipeline.load.rounds import Figures, Rounds, interleave
from pipeline.models import Model
from pipeline.window import Cost
from topics.records import RAW

__all__ = ["SloWork", "overload", "peak", "slo_peaks"]

# Shares of the offline rate, which is of another moment: a worker may last a little more. The peak is found within 1%.
LOW, HIGH, STEPS = 0.1, 1.2, 7
TRIES = 2  # of a rate: where the machine stops for 60 ms in 6 s, one in a hundred is late whoever serves
QUIET_LOAD = 0.3  # where deferring must pay
TAKE_SHARE = 4  # stock Faust's `take` waits up to a quarter of the SLO


@dataclass(frozen=True, slots=True)
class SloWork:
    """One-row raw requests of ``model``, each to be answered within ``slo_ms``; each rate lasts ``duration_s``."""

    model: Model
    broker: str
    folder: Path
    slo_ms: float = 100.0
    duration_s: float = 6.0
    warmup_s: float = 2.0
    partitions: int = 4
    repeats: int = 3

    def load(self, lane: Lane, rate: float, seed: int) -> dict[str, Any]:
        """Offer so many a second to who serves the lane; the report of what came of them."""
        return drive(
            Load(
                broker=self.broker,
                model=str(lane.model.path),
                content_type=RAW,
                rate=rate,
                duration_s=self.duration_s,
                warmup_s=self.warmup_s,
                seed=seed,
                slo_ms=self.slo_ms,
                answer_s_max=60.0,  # what waits must be gone before the next rate is tried
            )
        )

    def holds(self, lane: Lane, seed: int) -> Callable[[float], bool]:
        """Says of a rate whether who serves the lane answers it in time, one of `TRIES` times."""
        return lambda rate: any(self.load(lane, rate, TRIES * seed + each)["valid"] for each in range(TRIES))

    def promised(self) -> Model:
        """The model whose manifest says the SLO."""
        return replace(self.model, manifest=replace(self.model.manifest, slo_ms=self.slo_ms))


Ceiling = Callable[[Cost, SloWork], float]
"""The highest rate that a simulation serves in time where batches cost so much."""


def slo_peaks(work: SloWork, ceiling: Ceiling, tell: Callable[[str], None]) -> Rounds:
    """``offline``, ``take``, ``eager`` and ``sluice``; figures ``peak_per_s``, and ``busy``: CPU seconds a second.

    ``take`` is stock Faust, ``eager`` a Sluice that is told no SLO. Busy is at `QUIET_LOAD` of the offline rate.
    Limits: ``beside`` is the model in a loop while an echo answers as many requests as Sluice could last; ``ceiling``
    what a simulation makes of what batches take in the worker.
    """
    within_s = work.slo_ms / 1000 / TAKE_SHARE
    field = _Field(work, ceiling)

    def take(lane: Lane) -> list[str]:
        return [*lane.peer_arguments(), "--within-s", str(within_s)]

    return interleave(
        {
            "offline": field.model,
            "take": partial(field.served, "take", work.model, "pipeline.load.peers.faust_take", take),
            "eager": partial(field.served, "eager", work.model, "pipeline.cli", Lane.serve_arguments),
            "sluice": field.sluice,
            "beside": field.beside,
            "ceiling": field.ceiling,
        },
        work.repeats,
        tell,
    )


class _Field:
    """Who is measured, and what is known so far."""

    def __init__(self, work: SloWork, ceiling: Ceiling) -> None:
        self.work = work
        self._ceiling = ceiling
        self._offline = 0.0  # rows a second, the best yet
        self._lasted = 0.0  # by Sluice, the latest

    def model(self, number: int) -> Figures:
        """The model alone in a loop."""
        rate = offline_rate(self.work.model)
        self._offline = max(rate, self._offline)
        return {"peak_per_s": rate}

    def served(
        self, name: str, model: Model, module: str, arguments: Callable[[Lane], list[str]], number: int
    ) -> Figures:
        """A process that serves ``model``: how busy it is at a quiet load, and its peak."""
        work, capacity = self.work, self._offline or offline_rate(self.work.model)
        with (
            open_lane(work.broker, work.folder, model, f"{name}-{number}", work.partitions) as lane,
            Process(module, arguments(lane), lane.folder / "log") as process,
        ):
            process.wait_ready()
            work.load(lane, QUIET_LOAD * capacity, seed=number)  # warm
            before_s = process.cpu_s()
            quiet = work.load(lane, QUIET_LOAD * capacity, seed=number)
            busy = (process.cpu_s() - before_s) / (work.warmup_s + work.duration_s)
            found = peak(work.holds(lane, number), capacity)
        return {"peak_per_s": found, "busy": busy, "in_time": quiet["good"] / quiet["requests"]}

    def sluice(self, number: int) -> Figures:
        """Told the SLO."""
        figures = self.served("sluice", self.work.promised(), "pipeline.cli", Lane.serve_arguments, number)
        self._lasted = figures["peak_per_s"]
        return figures

    def ceiling(self, number: int) -> Figures:
        """Of a device that takes what batches took in a worker at the rate it could last."""
        return {"peak_per_s": self._ceiling(_costs(self.work, self._rate(), number), self.work)}

    def beside(self, number: int) -> Figures:
        """The model in a loop while the machine carries the load without it."""
        return {"peak_per_s": _beside(self.work, self._rate(), number)}

    def _rate(self) -> float:
        return self._lasted or LOW * offline_rate(self.work.model)


def overload(work: SloWork, tell: Callable[[str], None]) -> Rounds:
    """``peak`` and ``twice``: the highest rate in time and its double; figures ``goodput_per_s``, ``unanswered``.

    Both of one worker with an SLO, in turn. Then the limit: ``beside`` is the model in a loop while an echo answers
    twice the peak. Raises `BenchError` where a request stays without an answer.
    """
    runs: dict[str, list[Figures]] = {"peak": [], "twice": [], "beside": []}
    for number in range(work.repeats):
        tell(f"round {number + 1} of {work.repeats}")
        with (
            open_lane(work.broker, work.folder, work.promised(), f"overload-{number}", work.partitions) as lane,
            Process("pipeline.cli", lane.serve_arguments(), lane.folder / "log") as process,
        ):
            process.wait_ready()
            found = peak(work.holds(lane, number), offline_rate(work.model))
            for name, rate in (("peak", found), ("twice", 2 * found)):
                report = work.load(lane, rate, seed=number + 1)
                if report["unanswered"]:
                    raise BenchError(f"{report['unanswered']} requests were not answered")
                keys = ("offered_per_s", "goodput_per_s", "expired", "unanswered")
                runs[name].append({key: float(report[key]) for key in keys})
        runs["beside"].append({"goodput_per_s": _beside(work, 2 * found, number)})
    return Rounds({name: tuple(figures) for name, figures in runs.items()})


def _beside(work: SloWork, rate: float, number: int) -> float:
    """Rows a second of the model in a loop while the machine carries a load without it: an echo answers."""
    with (
        open_lane(work.broker, work.folder, work.model, f"beside-{number}", work.partitions) as lane,
        Process("pipeline.load.peers.echo", lane.peer_arguments(), lane.folder / "log") as process,
        ThreadPoolExecutor(1) as pool,
    ):
        process.wait_ready()
        load = pool.submit(work.load, lane, rate, number)
        found = offline_rate(work.model, seconds=work.duration_s)
        load.result()
    return found


def _costs(work: SloWork, rate: float, seed: int) -> Cost:
    """What batches take in a worker at that rate."""
    with open_lane(work.broker, work.folder, work.promised(), f"costs-{seed}", work.partitions) as lane:
        decisions = lane.folder / "decisions"
        arguments = lane.serve_arguments("--record-decisions", str(decisions))
        with Process("pipeline.cli", arguments, lane.folder / "log") as process:
            process.wait_ready()
            work.load(lane, rate, seed)
            process.stop()
        lines = map(json.loads, decisions.read_bytes().splitlines())
        ran = [(line["rows"], line["run_ns"]) for line in lines if line["what"] == "ran"]
    return Cost(work.model.manifest.buckets, ran)


def offline_rate(model: Model, seconds: float = 2.0) -> float:
    """Rows a second of the model alone in a loop at its best batch size."""
    arguments = ["--model", str(model.path), "--rows", str(4 * model.manifest.rows_max), "--seconds", str(seconds)]
    rate: float = json.loads(run_module("pipeline.load.peers.bare", arguments))["rows_per_s"]
    return rate


def peak(holds: Callable[[float], bool], capacity: float) -> float:
    """The highest rate that holds, halving between `LOW` and `HIGH` of ``capacity``; `LOW` of it is taken to hold."""
    low, high = LOW * capacity, HIGH * capacity
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
