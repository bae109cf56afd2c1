"""A recording tells why each batch left, and replays to the same decisions; one that does not is found out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from pipeline.admit.admission import NO_DEADLINE_MS
from pipeline.cli.main import app
from pipeline.core.errors import ConfigError
from pipeline.infer import DeviceState
from pipeline.window import Parts, Reason, Recording, Scheduler, replay
from pipeline.window.asked import asked_of
from tests.unit.infer.makers import admitted_of
from tests.unit.intake.messages import POLLED_MS, POLLED_NS, chunk_of, message
from tests.unit.window.windowed import Bench

MS = 1_000_000
SIZES = range(1, 9)
IDLE = DeviceState(idle=True, free_slots=2)


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    """Two models for a while: requests with deadlines, without, one in pieces, some late, one hand-over."""
    written: list[bytes] = []
    for model, slo_ms in (("a/1", 40), ("b/2", None)):
        slo_ns = None if slo_ms is None else slo_ms * MS
        parts = Parts(model, 8, SIZES, 0, slo_ns, [(rows, (2 + rows) * MS) for rows in SIZES])
        scheduler = Scheduler(parts.planner(), 8, Recording(written.append, parts))
        for number in range(30):
            now_ns = POLLED_NS + number * 3 * MS
            deadlines = [POLLED_MS + number * 3 + lead for lead in (9, 60, 2)] if number % 3 else None
            rows = [1, 11 if number == 20 else 2, 1]
            admitted = admitted_of(rows, first=number * 4, deadlines_ms=deadlines, polled_ns=now_ns)
            scheduler.add(admitted, asked_of(admitted, slo_ms, POLLED_NS - POLLED_MS * MS), now_ns)
            last = number == 29
            while scheduler.waiting.rows:
                decision = scheduler.next(IDLE, now_ns, last=last)
                if decision.batch is not None:
                    scheduler.ran(decision.batch.rows, (2 + decision.batch.rows) * MS)
                    scheduler.acked(decision.batch.rows, 4 * MS, MS, now_ns, late=number == 7)
                elif not decision.late:
                    break
    return written


def test_a_replay_decides_the_same_and_tells_why_each_batch_left(lines: list[bytes]) -> None:
    departures = list(replay(lines))
    assert all(each.same for each in departures)
    recorded = [line for line in map(orjson.loads, lines) if line["what"] == "decided"]
    assert sum(each.rows for each in departures) == sum(line["decision"]["rows"] for line in recorded) > 150
    reasons = {each.reason for each in departures}
    assert reasons >= {Reason.LATE, Reason.IDLE, Reason.FULL, Reason.HAND_OVER}
    assert {each.model for each in departures} == {"a/1", "b/2"}
    assert sum(each.expired for each in departures) > 10


@pytest.mark.parametrize(
    ("old", "new"), [(b'"run_ns":', b'"run_ns":3'), (b'"load":0', b'"load":9'), (b'"rows":[1,2,', b'"rows":[1,3,')]
)
def test_what_was_told_otherwise_is_decided_otherwise(lines: list[bytes], old: bytes, new: bytes) -> None:
    changed = [line.replace(old, new) if b'"decided"' not in line or b"load" in old else line for line in lines]
    assert changed != lines
    assert not all(each.same for each in replay(changed))


def test_a_line_that_was_cut_off_is_left_out(lines: list[bytes]) -> None:
    whole = list(replay(lines))
    assert list(replay([*lines, lines[-1][:-20]])) == whole


def test_explain_prints_a_line_for_each_and_exits_1_where_one_differs(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("recordings") / "decisions.jsonl"
    file.write_bytes(b"".join(lines))
    told = CliRunner().invoke(app, ["explain", str(file)])
    assert told.exit_code == 0, told.output
    assert "rows of" in told.output and "requests expired (late: could not make" in told.output
    assert told.output.splitlines()[-1].endswith("0 decisions differ")
    figures = orjson.loads(CliRunner().invoke(app, ["explain", str(file), "--json"]).output)
    assert figures["differ"] == 0 and figures["batches"] > 30
    file.write_bytes(b"".join(line.replace(b'"run_ns":', b'"run_ns":3') for line in lines))
    assert CliRunner().invoke(app, ["explain", str(file)]).exit_code == 1


@pytest.mark.parametrize("line", ["5", '"x"', "[1]", "null", "{}"])
def test_lines_that_are_no_recording_are_misuse(tmp_path: Path, line: str) -> None:
    (tmp_path / "trace").write_text(line + "\n")
    told = CliRunner().invoke(app, ["explain", str(tmp_path / "trace")])
    assert isinstance(told.exception, ConfigError) and told.exception.exit_code == 2


def test_what_asked_for_nothing_but_its_turn_is_replayed_with_its_key() -> None:
    """A later request of its key is due sooner, and so is it: also in the replay."""
    written: list[bytes] = []
    parts = Parts("a/1", 8, SIZES)
    scheduler = Scheduler(parts.planner(), 8, Recording(written.append, parts))
    messages = [message(at, key=key) for at, key in enumerate((b"x", b"y"))]
    for deadlines_ms in (None, [NO_DEADLINE_MS, POLLED_MS + 60]):
        admitted = replace(admitted_of([1, 8], deadlines_ms=deadlines_ms), chunk=chunk_of(messages))
        scheduler.add(admitted, asked_of(admitted, None, POLLED_NS - POLLED_MS * MS), POLLED_NS)
    while scheduler.waiting.rows:
        assert scheduler.next(IDLE, POLLED_NS).batch is not None
    departures = list(replay(written))
    assert sum(each.rows for each in departures) == 18 and all(each.same for each in departures)


def test_a_recording_of_several_lengths_is_replayed_though_one_has_nothing_to_decide() -> None:
    """Two of its batches end one after the other while nothing waits: what they took is learnt as in the replay."""
    written: list[bytes] = []

    async def scenario() -> None:
        bench = Bench.promised()
        parts = [Parts(f"m/1, sequences up to {length}", 8, (8,), 0, 100 * MS, [(8, 10 * MS)]) for length in (2, 4)]
        recorded = [Scheduler(each.planner(), 8, Recording(written.append, each)) for each in parts]
        bench.window._schedulers = dict(zip((2, 4), recorded, strict=True))
        for run_ms in range(10, 16):
            due_ms = POLLED_MS + int(bench.clock.ms) + 500
            admitted = admitted_of([8, 8], deadlines_ms=[due_ms] * 2, polled_ns=bench.clock.now_ns())
            await bench.window.offer([replace(admitted, length=2)])
            for batch in list(bench.device.running):
                batch.started_ns = bench.clock.now_ns()
                bench.clock.ms += run_ms
                batch.computed_ns = bench.clock.now_ns()
                bench.lane.ran(batch)
                bench.device.end()

    asyncio.run(scenario())
    departures = list(replay(written))
    assert len(departures) == 12 and all(each.same for each in departures)
