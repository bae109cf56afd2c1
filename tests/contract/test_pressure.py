"""How much of a backlog a worker takes on a real broker: what it can drain in time, and the important first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from pipeline.local import EmbeddedKafka
from pipeline.models import BUNDLED, held_out, read_model
from tests.contract.slow_worker import MODULE
from tests.contract.test_flow import renamed
from tests.contract.worker import Worker, committed, end_offset, read_all
from topics.codecs import codec_for
from topics.names import topics_of
from topics.records import RAW

BATCH_MS, ROWS = 80, 8  # 10 ms a request


def slow(models: Path, name: str, priority: int = 5) -> None:
    """Have a model run in batches of `ROWS`."""
    manifest = models / name / "1" / "manifest.toml"
    text = re.sub(r"rows_max = \d+\nbuckets = .*", f"rows_max = {ROWS}\nbuckets = [{ROWS}]", manifest.read_text())
    manifest.write_text(f"priority = {priority}\n{text}")


def backlog(broker: str, models: Path, names: Sequence[str], count: int) -> None:
    """So many requests of each at once, in turn."""
    inputs = read_model(models / names[0] / "1").signature.inputs
    value = codec_for(RAW).encode_request({"image": held_out()[0][:1]}, inputs)
    producer = Producer({"bootstrap.servers": broker})
    for number in range(count):
        headers: list[tuple[str, str | bytes | None]] = [("content-type", RAW), ("request-id", f"r{number}")]
        for name in names:
            producer.produce(topics_of(name).requests, value, b"k%d" % number, headers=headers)
    assert producer.flush(60) == 0


def test_a_worker_takes_no_more_of_a_backlog_than_it_can_finish_when_it_is_stopped(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, name = renamed(BUNDLED / "digits" / "1", tmp_path, topic("digits"))
    topics, group, log = topics_of(name), topic("group"), tmp_path / "log"
    slow(models, name)
    env = {"BATCH_MS": str(BATCH_MS), "DRAIN_MS_MAX": "6000"}  # so 300 requests at most are in flight
    with Worker(broker.bootstrap, models, group, module=MODULE, env=env, log=log) as worker:
        backlog(broker.bootstrap, models, [name], 1500)
        while not end_offset(broker.bootstrap, topics.predictions):
            assert worker.process.poll() is None
        assert worker.stop() == 0
    assert "given back unfinished" not in log.read_text()
    answered = end_offset(broker.bootstrap, topics.predictions)
    assert 0 < answered < 1500
    assert committed(broker.bootstrap, group, topics.requests) == answered


def test_an_important_backlog_is_answered_before_the_rest_of_another(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, important = renamed(BUNDLED / "digits" / "1", tmp_path, topic("important"))
    _, other = renamed(BUNDLED / "digits" / "1", tmp_path, topic("other"))
    slow(models, important, priority=9)
    slow(models, other, priority=1)
    env = {"BATCH_MS": str(BATCH_MS), "DRAIN_MS_MAX": "2000"}  # 100 in flight
    with Worker(broker.bootstrap, models, topic("group"), module=MODULE, env=env, log=tmp_path / "log") as worker:
        backlog(broker.bootstrap, models, [other, important], 600)
        at_ms = {}
        for name in (important, other):
            outcomes = read_all(broker.bootstrap, topics_of(name), 600)
            assert set(outcomes.answered.values()) == {1} and len(outcomes.answers) == 600
            at_ms[name] = [message.timestamp()[1] for message, _ in outcomes.answers]
        assert worker.stop() == 0
    # What was taken before the first important ones were, and beside the last of them, goes first.
    assert np.quantile(at_ms[important], 0.9) < np.quantile(at_ms[other], 0.3)
