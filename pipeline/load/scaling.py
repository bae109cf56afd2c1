"""What more workers bring: one group of them on one topic, each with a device of its own that takes a fixed time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.load.lane import Lane, open_lane
from pipeline.load.process import BenchError, Process
from pipeline.load.readback import read_back, wait_for_answers
from pipeline.load.rounds import Contestant, Figures, Rounds, interleave
from pipeline.load.throughput import checker
from pipeline.models import Model
from topics.records import RAW

__all__ = ["ScalingWork", "scaling", "workers_name"]

DISTINCT = 4096
WARMUP = 0.3  # the share of answers before the clock starts: the requests are still being sent then
SHARED_S_MAX = 60.0  # until every worker has its partitions: a rebalance for each of them


@dataclass(frozen=True, slots=True)
class ScalingWork:
    """One-row raw requests for so many ``workers`` at a time, each of which runs ``rows_max`` rows in ``batch_ms``.

    ``seconds`` is how long each run lasts where one more worker brings as much as the first.
    """

    model: Model
    broker: str
    folder: Path
    workers: Sequence[int] = (1, 2, 4)
    rows_max: int = 64
    batch_ms: float = 20.0
    seconds: float = 10.0
    repeats: int = 3

    @property
    def partitions(self) -> int:
        """As many as give each worker the same share, however many there are."""
        return math.lcm(*self.workers)

    def served(self) -> Model:
        """The model with batches of ``rows_max``."""
        manifest = self.model.manifest
        buckets = tuple(bucket for bucket in manifest.buckets if bucket < self.rows_max)
        return replace(
            self.model, manifest=replace(manifest, rows_max=self.rows_max, buckets=(*buckets, self.rows_max))
        )


def workers_name(count: int) -> str:
    """What so many workers are called in the rounds."""
    return "1 worker" if count == 1 else f"{count} workers"


def scaling(work: ScalingWork, tell: Callable[[str], None]) -> Rounds:
    """Each number of ``work.workers``; figures ``rows_per_s``, ``of_device``: the share of what the devices can do.

    All workers have their partitions before the first request is sent, and every answer is counted and a sample
    checked. Raises `BenchError` otherwise, and where a request was answered twice.
    """
    device_rows_per_s = work.rows_max / work.batch_ms * 1e3

    def contestant(count: int) -> Contestant:
        def run(number: int) -> Figures:
            requests = round(device_rows_per_s * work.seconds * count)
            with open_lane(work.broker, work.folder, work.served(), f"{count}-{number}", work.partitions) as lane:
                _serve(lane, work.batch_ms, count, requests)
                right = checker(lane.model, RAW, 1, DISTINCT)
                answers = read_back(lane.broker, lane.model.topics.predictions, lane.partitions, requests, right)
            if answers.repeats:
                raise BenchError(f"{answers.repeats} requests were answered twice: a worker lost its partitions")
            rate = answers.rate(WARMUP)
            return {"rows_per_s": rate, "of_device": rate / (device_rows_per_s * count)}

        return run

    return interleave({workers_name(count): contestant(count) for count in work.workers}, work.repeats, tell)


def _serve(lane: Lane, batch_ms: float, count: int, requests: int) -> None:
    """Start so many workers, send the requests, and stop the workers when all are answered."""
    arguments = [str(batch_ms), *lane.serve_arguments()]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Process("pipeline.load.peers.elsewhere", arguments, lane.folder / f"log-{worker}"))
            for worker in range(count)
        ]
        for worker in workers:
            worker.wait_ready()
        _wait_shared(lane, count)
        lane.preload(requests, RAW, distinct=DISTINCT)
        wait_for_answers(lane.published(), requests, workers[0], WARMUP)


def _wait_shared(lane: Lane, count: int) -> None:
    """Until so many members of the group have the same number of partitions each."""
    admin, group, deadline_s = lane.admin, lane.model.name, time.monotonic() + SHARED_S_MAX
    while time.monotonic() < deadline_s:
        members = admin.describe_consumer_groups([group])[group].result().members
        if [len(member.assignment.topic_partitions) for member in members] == [lane.partitions // count] * count:
            return
        time.sleep(0.2)
    raise BenchError(f"the partitions were not shared by {count} workers after {SHARED_S_MAX:.0f} s")
