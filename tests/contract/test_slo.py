"""A model with an SLO on a real broker: the late are told so at once, the rest in time; a recording says why."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from pipeline.local import EmbeddedKafka
from pipeline.models import BUNDLED, held_out, load_repository
from tests.contract.test_flow import renamed
from tests.contract.worker import Worker, committed, read_all
from topics.codecs import codec_for
from topics.names import topics_of
from topics.records import RAW, Status

SLO_MS = 30_000  # so long that nothing of the test is late by itself


@pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
def test_the_old_expire_the_urgent_are_answered_and_a_recording_decides_the_same(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str], guarantee: str
) -> None:
    models, name = renamed(BUNDLED / "digits" / "1", tmp_path, topic("digits"))
    manifest = models / name / "1" / "manifest.toml"
    gathers = manifest.read_text().replace("gather_ms_max = 0.0", "gather_ms_max = 50.0")
    manifest.write_text(f"slo_ms = {SLO_MS}\n{gathers}")
    topics, group, decisions, report = topics_of(name), topic("group"), tmp_path / "decisions", tmp_path / "report"
    signature = load_repository(models)[0].signature
    images, _ = held_out()
    options = ["--record-decisions", str(decisions), "--report", str(report), "--guarantee", guarantee]
    with Worker(broker.bootstrap, models, group, *options, "--log-level", "debug", log=tmp_path / "log") as worker:
        producer = Producer({"bootstrap.servers": broker.bootstrap})
        now_ms = int(time.time() * 1000)
        for number in range(600):
            headers = {"content-type": RAW, "request-id": f"r{number}", "priority": str(number % 10)}
            stamp_ms = now_ms - 60_000 if number % 4 == 1 else now_ms
            if number % 4 == 2:
                headers["deadline-ms"] = str(now_ms + 20_000)
            elif number % 4 == 3:
                headers["deadline-ms"] = str(now_ms - 1)
            value = codec_for(RAW).encode_request({"image": images[number % len(images)][None]}, signature.inputs)
            key = b"k%d" % (number // 8 % 11)
            producer.produce(topics.requests, value, key, headers=list(headers.items()), timestamp=stamp_ms)
        assert producer.flush(60) == 0
        outcomes = read_all(broker.bootstrap, topics, 600)
        assert worker.stop() == 0
    assert set(outcomes.answered.values()) == {1} and len(outcomes.answers) == 600
    status = {int(answer.request_id[1:]): answer.status for _, answer in outcomes.answers}
    assert {number for number, each in status.items() if each == Status.EXPIRED} == {n for n in status if n % 4 % 2}
    order: dict[bytes | None, list[int]] = {}
    for message, answer in outcomes.answers:
        if answer.status == Status.OK:
            order.setdefault(message.key(), []).append(int(answer.request_id[1:]))
    assert all(numbers == sorted(numbers) for numbers in order.values()), "a key's answers are in its order"
    assert committed(broker.bootstrap, group, topics.requests) >= 600
    reasons = json.loads(report.read_text())["batches"][name]
    assert sum(reasons.values()) > 0 and np.isin(list(reasons), ["idle", "full", "deadline"]).all()
    assert "rows leave (" in (tmp_path / "log").read_text()
    explain = [sys.executable, "-m", "pipeline.cli", "explain", str(decisions), "--json"]
    told = json.loads(subprocess.run(explain, check=True, capture_output=True, timeout=60).stdout)
    assert (told["differ"], told["batches"]) == (0, sum(reasons.values()))
    assert sum(each["rows"] for each in told["departures"]) == sum(n % 4 % 2 == 0 for n in status)
    assert sum(each["expired"] for each in told["departures"]) == sum(n % 4 % 2 for n in status)
