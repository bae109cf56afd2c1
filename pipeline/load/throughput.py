"""Throughput beside peers: preloaded requests, each contestant in its own process, timed by the broker's clock.

The predictions topic stamps each record when it is appended, so the rate is read afterwards from the records
themselves; the measuring process sleeps meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.load.contestants import PEERS, Peer
from pipeline.load.lane import Lane, open_lane
from pipeline.load.process import BenchError, Process, run_module
from pipeline.load.readback import Readback, read_back, wait_for_answers
from pipeline.load.requests import random_columns
from pipeline.load.rounds import Contestant, Figures, Rounds, interleave
from pipeline.models import Model, read_content
from pipeline.models.onnx import open_bare
from topics.codecs import codec_for
from topics.records import ARROW

__all__ = ["WARMUP", "RawWork", "RowWork", "answer", "checker", "raw_throughput", "row_throughput"]

SLUICE = Peer("pipeline.cli")
MESSAGES_MIN = 1000
WARMUP = 0.1  # the share of answers that came out before the clock starts: start-up and first fetch are not the rate
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # runtimes sum in different orders for different batch sizes


@dataclass(frozen=True, slots=True)
class RawWork:
    """One-row messages of raw tensors; ``commands`` begin the command lines of the `PEERS` that run."""

    model: Model
    broker: str
    folder: Path
    commands: Mapping[str, list[str]] = field(default_factory=dict)
    messages: int = 400_000
    partitions: int = 4
    repeats: int = 3


@dataclass(frozen=True, slots=True)
class RowWork:
    """Requests of ``rows`` rows each, one where they are raw, beside the model alone."""

    model: Model
    broker: str
    folder: Path
    requests: int = 600
    rows: int = 1024
    content_type: str = ARROW
    partitions: int = 4
    repeats: int = 3


def raw_throughput(work: RawWork, tell: Callable[[str], None]) -> Rounds:
    """Each peer of ``work.commands`` and ``sluice``; figures ``messages_per_s``, ``cpu_us_per_message``.

    All on the same rows, most as raw tensors (`Peer`); the quiet loop has Python's cycle collector out of its way, as
    Sluice's worker has.

    Raises `BenchError` where a contestant misses a request, answers wrongly or writes other headers than the others.
    """
    header_names: dict[str, tuple[str, ...]] = {}

    def contestant(name: str) -> Contestant:
        peer = PEERS.get(name, SLUICE)
        count = max(round(work.messages * peer.share), MESSAGES_MIN)

        def run(number: int) -> Figures:
            with open_lane(work.broker, work.folder, work.model, f"{name}-{number}", work.partitions) as lane:
                own = lane.serve_arguments() if peer is SLUICE else [*lane.peer_arguments(), *peer.options]
                process = Process(peer.module, own, lane.folder / "log", work.commands.get(name))
                answers, cpu_s = answer(
                    lane, process, lane.published(), count, peer.content_type, rows=1, distinct=4096
                )
            header_names[name] = answers.header_names
            if len(set(header_names.values())) > 1:
                raise BenchError(f"not the same work, the headers differ: {header_names}")
            return {"messages_per_s": answers.rate(WARMUP), "cpu_us_per_message": cpu_s * 1e6}

        return run

    return interleave({name: contestant(name) for name in (*work.commands, "sluice")}, work.repeats, tell)


def row_throughput(work: RowWork, tell: Callable[[str], None]) -> Rounds:
    """``model`` (a bare loop on rows in memory) and ``sluice``; figures ``rows_per_s``, ``cpu_us_per_row``."""
    distinct = 16

    def model(number: int) -> Figures:
        rows = ["--rows", str(work.rows * distinct)]
        figures: Figures = json.loads(run_module("pipeline.load.peers.bare", ["--model", str(work.model.path), *rows]))
        return figures

    def sluice(number: int) -> Figures:
        with open_lane(work.broker, work.folder, work.model, f"sluice-rows-{number}", work.partitions) as lane:
            process = Process("pipeline.cli", lane.serve_arguments(), lane.folder / "log")
            answers, cpu_s = answer(
                lane, process, lane.published(), work.requests, work.content_type, work.rows, distinct
            )
        return {"rows_per_s": answers.rate(WARMUP) * work.rows, "cpu_us_per_row": cpu_s / work.rows * 1e6}

    return interleave({"model": model, "sluice": sluice}, work.repeats, tell)


def answer(
    lane: Lane,
    process: Process,
    answers: Callable[[], int],
    count: int,
    content_type: str,
    rows: int,
    distinct: int,
    sampled: float | None = None,
) -> tuple[Readback, float]:
    """Preload, run the process until all is answered, stop it, check every answer; also the CPU seconds of one.

    ``answers`` asks how many there are.
    """
    lane.preload(count, content_type, rows=rows, distinct=distinct, sampled=sampled)
    predictions = lane.model.topics.predictions
    with process:
        cpu_s = wait_for_answers(answers, count, process, WARMUP)
        process.stop()
    right = checker(lane.model, content_type, rows, distinct)
    return read_back(lane.broker, predictions, lane.partitions, count, right), cpu_s


def checker(model: Model, content_type: str, rows: int, distinct: int) -> Callable[[int, bytes], bool]:
    """Says whether a value is what the model, called here, answers to that request."""
    codec, signature, session = codec_for(content_type), model.signature, open_bare(model.file, *read_content(model))
    columns = random_columns(signature.inputs, rows * distinct, sequences=model.manifest.sequences)
    names = [tensor.name for tensor in signature.outputs]

    def right(index: int, value: bytes) -> bool:
        at = index % distinct * rows
        wanted = session.run(names, {name: column[at : at + rows] for name, column in columns.items()})
        expected = dict(zip(names, wanted, strict=True))
        answer: Mapping[str, np.ndarray[Any, Any]] = codec.decode_response(value, signature.outputs)
        # Floats only: a label may differ where two classes are equally likely.
        floats = {name: got for name, got in answer.items() if got.dtype.kind == "f"}
        return bool(floats) and all(
            np.allclose(got, expected[name], RELATIVE, ABSOLUTE) for name, got in floats.items()
        )

    return right
