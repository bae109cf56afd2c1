"""What telemetry costs: Sluice that exports all metrics and the sampled spans, beside itself without an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.load.lane import open_lane
from pipeline.load.process import BenchError, Process
from pipeline.load.rounds import Contestant, Figures, Rounds, interleave
from pipeline.load.throughput import WARMUP, answer
from pipeline.models import Model
from topics.records import RAW

__all__ = ["TracingWork", "tracing"]

POSTED = ("/v1/metrics", "/v1/traces")  # what a traced run must have sent


@dataclass(frozen=True, slots=True)
class TracingWork:
    """One-row raw requests, each with a ``traceparent`` of which the share ``sampled`` asks to be recorded."""

    model: Model
    broker: str
    folder: Path
    messages: int = 800_000
    sampled: float = 0.01
    partitions: int = 4
    repeats: int = 6


def tracing(work: TracingWork, tell: Callable[[str], None]) -> Rounds:
    """``bare``, ``untraced``, ``traced`` and ``again``; figures ``messages_per_s``, ``cpu_us_per_message``.

    ``traced`` exports to a process that takes and drops; ``untraced`` has no endpoint and the same requests, and
    ``again`` is the same once more: what becomes of no difference at all on this machine. ``bare`` requests carry no
    ``traceparent``, so that it alone continues no traces. Raises `BenchError` where a request is not answered, or the
    traced worker exported no metrics or no spans.
    """

    def contestant(name: str, sampled: float | None, *, traced: bool) -> Contestant:
        def run(number: int) -> Figures:
            with (
                open_lane(work.broker, work.folder, work.model, f"{name}-{number}", work.partitions) as lane,
                Process("pipeline.load.peers.sink", [], lane.folder / "sink") as sink,
            ):
                port = sink.wait_ready().split()[1]
                options = ["--otlp-endpoint", f"http://127.0.0.1:{port}"] if traced else []
                process = Process("pipeline.cli", [*lane.serve_arguments(), *options], lane.folder / "log")
                answers, cpu_s = answer(
                    lane, process, lane.published(), work.messages, RAW, rows=1, distinct=4096, sampled=sampled
                )
                sink.stop()
                posted = (lane.folder / "sink").read_text()
            if traced and not all(path in posted for path in POSTED):
                raise BenchError(f"the traced worker did not export all it should: {posted}")
            return {"messages_per_s": answers.rate(WARMUP), "cpu_us_per_message": cpu_s * 1e6}

        return run

    return interleave(
        {
            "bare": contestant("bare", None, traced=False),
            "untraced": contestant("untraced", work.sampled, traced=False),
            "traced": contestant("traced", work.sampled, traced=True),
            "again": contestant("again", work.sampled, traced=False),
        },
        work.repeats,
        tell,
    )
