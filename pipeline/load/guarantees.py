"""What exactly-once costs: Sluice with it beside Sluice without, at full speed and at a low rate."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.load.lane import open_lane
from pipeline.load.latency import LatencyWork, open_loop
from pipeline.load.process import BenchError, Process
from pipeline.load.rounds import Contestant, Figures, Rounds, interleave
from pipeline.load.throughput import WARMUP, RawWork, answer
from topics.records import RAW

__all__ = ["guarantees"]


def guarantees(full: RawWork, paced: LatencyWork, tell: Callable[[str], None]) -> Rounds:
    """``at-least-once``, ``exactly-once``; figures ``messages_per_s``, ``cpu_us_per_message``, ``p50_ms``, ``p99_ms``.

    Both are read committed. Rates count from the moments records were appended, though those of a transaction become
    visible together at its commit, at most `transaction_ms` later: the last of a run as the first. Latencies count
    until a record was visible and read.

    Raises `BenchError` where a request is answered wrongly or not at all, and exactly-once where one is repeated.
    """

    def contestant(guarantee: str) -> Contestant:
        options = ("--guarantee", guarantee)

        def run(number: int) -> Figures:
            return {**_full_speed(full, options, number), **_low_rate(paced, options, number)}

        return run

    return interleave({name: contestant(name) for name in ("at-least-once", "exactly-once")}, full.repeats, tell)


def _full_speed(work: RawWork, options: tuple[str, str], number: int) -> Figures:
    guarantee = options[-1]
    with open_lane(work.broker, work.folder, work.model, f"{guarantee}-{number}", work.partitions) as lane:
        process = Process("pipeline.cli", lane.serve_arguments(*options), lane.folder / "log")
        answers, cpu_s = answer(lane, process, lane.committed(), work.messages, RAW, rows=1, distinct=4096)
    if guarantee == "exactly-once" and answers.repeats:
        raise BenchError(f"{answers.repeats} answers were repeated, exactly once")
    return {"messages_per_s": answers.rate(WARMUP), "cpu_us_per_message": cpu_s * 1e6}


def _low_rate(work: LatencyWork, options: tuple[str, str], number: int) -> Figures:
    with (
        open_lane(work.broker, work.folder, work.model, f"{options[-1]}-{number}", work.partitions) as lane,
        Process("pipeline.cli", lane.serve_arguments(*options), lane.folder / "log") as process,
    ):
        process.wait_ready()
        return open_loop(work, lane, seed=number)
