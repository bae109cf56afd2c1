"""What padding costs: texts of skewed lengths, each padded to its batch's length or to the longest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.load.lane import open_lane
from pipeline.load.process import Process
from pipeline.load.rounds import Contestant, Figures, Rounds, interleave
from pipeline.load.throughput import WARMUP, answer
from pipeline.models import Model
from topics.records import RAW

__all__ = ["SequenceWork", "sequence_throughput"]


@dataclass(frozen=True, slots=True)
class SequenceWork:
    """One-row raw requests for a model with ``sequences`` and ``lengths``."""

    model: Model
    broker: str
    folder: Path
    messages: int = 30_000
    partitions: int = 4
    repeats: int = 3


def sequence_throughput(work: SequenceWork, tell: Callable[[str], None]) -> Rounds:
    """``padded`` (the longest length alone) and ``packed``; figures ``messages_per_s``, ``cpu_us_per_message``.

    The same requests, and every answer is counted and a sample checked. Raises `BenchError` otherwise.
    """
    longest = replace(work.model.manifest, lengths=work.model.manifest.lengths[-1:])

    def contestant(name: str, model: Model) -> Contestant:
        def run(number: int) -> Figures:
            with open_lane(work.broker, work.folder, model, f"{name}-{number}", work.partitions) as lane:
                process = Process("pipeline.cli", lane.serve_arguments(), lane.folder / "log")
                answers, cpu_s = answer(lane, process, lane.published(), work.messages, RAW, rows=1, distinct=4096)
            return {"messages_per_s": answers.rate(WARMUP), "cpu_us_per_message": cpu_s * 1e6}

        return run

    contestants = {
        "padded": contestant("padded", replace(work.model, manifest=longest)),
        "packed": contestant("packed", work.model),
    }
    return interleave(contestants, work.repeats, tell)
