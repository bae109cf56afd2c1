"""The open loop on the real broker: what it sends, what it makes of the answers, the command; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition

from pipeline import load
from pipeline.load import Arrivals, BenchError, Load, drive
from pipeline.load.lane import Lane, open_lane
from pipeline.load.process import Process
from pipeline.local import EmbeddedKafka
from pipeline.models import load_repository
from topics.connect import Connection
from topics.records import RAW


@pytest.fixture
def lane(broker: EmbeddedKafka, topic: Callable[..., str], tmp_path: Path) -> Iterator[Lane]:
    """Topics of the linear model, nobody serving them."""
    (linear,) = [m for m in load_repository(Path(load.__file__).with_name("models")) if m.name == "linear"]
    with open_lane(broker.bootstrap, tmp_path, linear, topic("load"), partitions=2) as lane:
        yield lane


def load_of(lane: Lane, **about: Any) -> Load:
    return Load(**{"broker": lane.broker, "model": str(lane.model.path), "content_type": RAW, **about})


def requests_of(lane: Lane) -> list[tuple[bytes | None, dict[str, Any], int]]:
    """Key, headers and timestamp of everything in the request topic."""
    consumer = Connection(lane.broker).consumer(enable_partition_eof=True)
    consumer.assign([TopicPartition(lane.model.topics.requests, p, 0) for p in range(lane.partitions)])
    found, ended = [], 0
    while ended < lane.partitions:
        for message in consumer.consume(1000, 1):
            if message.error() is not None:
                ended += 1
            else:
                found.append((message.key(), dict(message.headers() or ()), message.timestamp()[1]))
    consumer.close()
    return found


def test_every_request_is_sent_once_as_described_and_its_answer_found(lane: Lane) -> None:
    about = load_of(
        lane, rate=400, duration_s=1, warmup_s=0.5, arrivals=Arrivals.CONSTANT, deadline_ms=60_000, priority=7, keys=5
    )
    with Process("pipeline.load.peers.echo", lane.peer_arguments(0.5), lane.folder / "log") as echo:
        echo.wait_ready()
        before_ms = time.time() * 1e3
        found = drive(about)
    sent = requests_of(lane)
    assert [found[name] for name in ("requests", "ok", "good", "unanswered", "repeats")] == [400, 400, 400, 0, 0]
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert len({headers["request-id"] for _, headers, _ in sent}) == len(sent) == 600
    assert {key for key, _, _ in sent} == {b"key-%d" % i for i in range(5)}
    assert {(headers["priority"], headers["content-type"]) for _, headers, _ in sent} == {(b"7", RAW.encode())}
    deadlines = sorted(int(headers["deadline-ms"]) for _, headers, _ in sent)
    assert before_ms + 60_000 < deadlines[0]
    assert deadlines[-1] - deadlines[0] == pytest.approx(1497.5, abs=2)  # one each 2.5 ms, however late it was sent


def test_a_trace_is_replayed_at_the_rate_asked_for(lane: Lane, tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("".join(f"{i / 10}\n" for i in range(101)))  # 10 a second for 10 s
    about = load_of(lane, trace=str(tmp_path / "trace"), rate=200, warmup_s=0.2, keys=0)
    with Process("pipeline.load.peers.echo", lane.peer_arguments(0.5), lane.folder / "log") as echo:
        echo.wait_ready()
        found = drive(about)
    assert (found["requests"], found["ok"], found["duration_s"]) == (101, 101, pytest.approx(0.5))
    assert {key for key, _, _ in requests_of(lane)} == {None}


def test_answers_to_others_notices_repeats_and_silence_are_told_apart(lane: Lane) -> None:
    """Answered by hand: the first request twice, the second expired, the third not at all, and somebody else's."""
    about = load_of(lane, rate=3, duration_s=1, warmup_s=0, arrivals=Arrivals.CONSTANT, answer_s_max=2)
    with ThreadPoolExecutor(1) as pool:
        driven = pool.submit(drive, about)
        while len(sent := requests_of(lane)) < 3:
            time.sleep(0.05)
        ids = sorted(headers["request-id"] for _, headers, _ in sent)
        producer = Producer({"bootstrap.servers": lane.broker})
        answers = [(b"other", "ok"), (ids[0], "ok"), (ids[0], "ok"), (ids[1], "expired")]
        for request_id, status in answers:
            headers: list[tuple[str, str | bytes | None]] = [("request-id", request_id), ("status", status)]
            producer.produce(lane.model.topics.predictions, b"", partition=0, headers=headers)
        assert producer.flush(10) == 0
        found = driven.result()
    wanted = {"ok": 1, "expired": 1, "rejected": 0, "unanswered": 1, "answered": 2, "repeats": 1}
    assert {name: found[name] for name in wanted} == wanted


def test_nothing_due_and_no_topic_are_told_in_a_line(lane: Lane) -> None:
    with pytest.raises(BenchError, match="no request is due"):
        drive(load_of(lane, rate=0.01, duration_s=0.1, arrivals=Arrivals.POISSON, warmup_s=0))
    with pytest.raises(BenchError, match="generator exited with 1"):
        drive(load_of(lane, rate=10, duration_s=0.1, kafka={"no.such.setting": "1"}))


def sluice(lane: Lane, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of ``sluice load``."""
    named = [lane.model.name, "--models", str(lane.repository), "--broker", lane.broker, *arguments, "--json"]
    command = [sys.executable, "-m", "pipeline.cli", "load", *named]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_command_on_a_worker(lane: Lane) -> None:
    """A generous SLO passes; a deadline that nobody can make gets each its notice, and the verdict fails."""
    asked = ("--rate", "100", "--duration", "1", "--warmup", "0.1", "--slo-ms", "60000")
    with Process("pipeline.cli", lane.serve_arguments(), lane.folder / "log") as worker:
        worker.wait_ready()
        passed, found = sluice(lane, *asked)
        failed, notices = sluice(lane, *asked, "--deadline-ms", "1", "--arrivals", "burst")
    assert (passed, found["valid"], found["ok"]) == (0, True, found["requests"])
    assert found["verdict"].startswith("valid")
    assert notices["answered"] == notices["requests"]
    assert (failed, notices["valid"]) == (1, False)
    assert notices["expired"] > 0


def test_the_command_says_when_nobody_answers(lane: Lane) -> None:
    code, found = sluice(lane, "--rate", "20", "--duration", "0.5", "--wait", "0.5")
    assert code == 1
    assert "is a worker serving" in found["verdict"]
