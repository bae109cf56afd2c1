"""`sluice serve --answer-once-within` on a real broker, under both guarantees."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Producer

from pipeline.local import EmbeddedKafka
from tests.contract.test_flow import LINEAR, in_small_batches, renamed
from tests.contract.worker import Worker, committed, end_offset, read_all
from topics.admin import apply_topics
from topics.names import Topics, topics_of
from topics.records import RAW, Status

PARTITIONS = 3
ROWS = np.random.default_rng(1).random((1000, 50), np.float32)

pytestmark = pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])


def send(broker: str, topics: Topics, requests: Iterable[tuple[str, int, int]]) -> int:
    """Requests as (id, which row, partition), each acknowledged by the broker."""
    settings = {"enable.idempotence": True, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
    producer, count = Producer({"bootstrap.servers": broker, **settings}), 0
    for name, row, partition in requests:
        headers: list[tuple[str, str | bytes | None]] = [("content-type", RAW), ("request-id", name)]
        producer.produce(topics.requests, ROWS[row % 1000].tobytes(), partition=partition, headers=headers)
        count += 1
    assert producer.flush(60) == 0
    return count


def thrice(count: int) -> list[tuple[str, int, int]]:
    """Each three times: at once, in another partition, and after all the others."""
    once = [(f"r{number}", number, number % PARTITIONS) for number in range(count)]
    beside = [(name, row, (partition + 1) % PARTITIONS) for name, row, partition in once]
    return [each for pair in zip(once, beside, strict=True) for each in pair] + once


@pytest.fixture
def model(broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]) -> tuple[Path, Topics, str]:
    """A repository, its model's topics, and a group."""
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    in_small_batches(models, name)
    topics = topics_of(name)
    apply_topics(broker.bootstrap, [topics], partitions=PARTITIONS)
    return models, topics, topic("group")


def test_requests_sent_three_times_are_answered_once_and_all_are_committed(
    broker: EmbeddedKafka, model: tuple[Path, Topics, str], tmp_path: Path, guarantee: str
) -> None:
    models, topics, group = model
    options = ["--guarantee", guarantee, "--answer-once-within", "3600", "--report", str(tmp_path / "report")]
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
        sent = send(broker.bootstrap, topics, thrice(2_000))
        sent += send(broker.bootstrap, topics, [(f"r{number}", number + 1, 0) for number in range(100)])
        read_all(broker.bootstrap, topics, 2_000)
        sent += send(broker.bootstrap, topics, thrice(50)[:100])
        while committed(broker.bootstrap, group, topics.requests) < sent:
            time.sleep(0.05)
        assert worker.stop() == 0
    outcomes = read_all(broker.bootstrap, topics, 2_000)
    assert {answer.status for _, answer in outcomes.answers} == {Status.OK} and not outcomes.dead
    answered = outcomes.answered
    assert len(answered) == 2_000
    for number in range(2_000):
        assert answered[f"r{number}"] == 1 + (number < 100), "another body under the same id is answered too"
    assert committed(broker.bootstrap, group, topics.requests) == sent
    counts = json.loads((tmp_path / "report").read_text())["total"]["requests"]
    assert (counts["answered"], counts["duplicate"], counts["in_flight"]) == (2_100, sent - 2_100, 0), "I6"


def test_it_is_answered_again_outside_of_the_window(
    broker: EmbeddedKafka, model: tuple[Path, Topics, str], tmp_path: Path, guarantee: str
) -> None:
    models, topics, group = model
    options = ["--guarantee", guarantee, "--answer-once-within", "0.001"]
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
        for round_ in range(1, 4):
            send(broker.bootstrap, topics, [("again", 7, 0)])
            while committed(broker.bootstrap, group, topics.requests) < round_:
                time.sleep(0.02)
        assert worker.stop() == 0
    assert read_all(broker.bootstrap, topics, 1).answered == {"again": 3}


def test_kill_9_three_times_loses_none_of_those_sent_three_times(
    broker: EmbeddedKafka, model: tuple[Path, Topics, str], tmp_path: Path, guarantee: str
) -> None:
    """What one worker has passed over another may have to answer: each id is, whatever was remembered."""
    models, topics, group = model
    count = 100_000  # on a fast machine 15,000 are answered before each kill
    options = ["--guarantee", guarantee, "--answer-once-within", "3600", "--instance-id", "only"]
    sent = send(broker.bootstrap, topics, thrice(count))
    for _ in range(3):
        with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
            before = end_offset(broker.bootstrap, topics.predictions)
            while end_offset(broker.bootstrap, topics.predictions) < before + 1_000:
                time.sleep(0.005)
            worker.kill()
            assert end_offset(broker.bootstrap, topics.predictions) < count, "killed too late"
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
        outcomes = read_all(broker.bootstrap, topics, count, timeout_s=120)
        while committed(broker.bootstrap, group, topics.requests) < sent:
            time.sleep(0.05)
        assert worker.stop() == 0
    assert len(outcomes.answered) == count, "lost"
    sources = [answer.source for _, answer in outcomes.answers]
    assert guarantee == "at-least-once" or len(set(sources)) == len(sources), "repeated"
