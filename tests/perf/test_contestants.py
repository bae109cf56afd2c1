"""Every contestant of the throughput bench on the real broker does the same work; no time is asserted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from pipeline import load
from pipeline.load.contestants import PEERS, field_of
from pipeline.load.lane import Lane, open_lane
from pipeline.load.process import BenchError, Process
from pipeline.load.readback import end_offsets, read_back, wait_for_answers
from pipeline.load.throughput import checker
from pipeline.local import EmbeddedKafka
from pipeline.models import Model, load_repository
from topics.records import RAW

MESSAGES = 2_000
DISTINCT = 400
HEADERS = ("content-type", "model", "request-id", "source", "status")

# Those of the extra `bench` that are installed here, too; and Sluice, as it is asked how far it is.
FIELD = field_of(PEERS, None, Path("never made"))
SLUICE: dict[str, tuple[tuple[str, ...], Callable[[Lane], Callable[[], int]]]] = {
    "sluice": ((), Lane.published),
    "at-least-once": ((), Lane.committed),
    "exactly-once": (("--guarantee", "exactly-once"), Lane.committed),
}


@pytest.fixture(scope="module")
def model() -> Model:
    """The linear model of the bench."""
    (linear,) = [m for m in load_repository(Path(load.__file__).with_name("models")) if m.name == "linear"]
    return linear


@pytest.fixture
def lane(broker: EmbeddedKafka, topic: Callable[..., str], model: Model, tmp_path: Path) -> Iterator[Lane]:
    """A preloaded lane."""
    with open_lane(broker.bootstrap, tmp_path, model, topic("run"), partitions=4) as lane:
        lane.preload(MESSAGES, RAW, distinct=DISTINCT)
        yield lane


@pytest.mark.parametrize("name", [*(name for name in FIELD.commands if name != "quiet-loop"), *SLUICE])
def test_each_request_is_answered_once_with_the_right_value_and_the_same_headers(name: str, lane: Lane) -> None:
    command = FIELD.commands.get(name)
    if name in SLUICE:
        options, ask = SLUICE[name]
        module, arguments = "pipeline.cli", lane.serve_arguments(*options)
    else:
        module, arguments = PEERS[name].module, lane.peer_arguments()
        ask = Lane.published
    predictions = lane.model.topics.predictions
    with Process(module, arguments, lane.folder / "log", command) as process:
        wait_for_answers(ask(lane), MESSAGES, process, warmup=0.1)
        process.stop()
    right = checker(lane.model, RAW, rows=1, distinct=DISTINCT)
    answers = read_back(lane.broker, predictions, lane.partitions, MESSAGES, right)
    assert (answers.requests, answers.repeats, answers.header_names) == (MESSAGES, 0, HEADERS)
    assert answers.content_bytes == MESSAGES * 4


def test_the_stop_of_the_loop_commits_what_it_answered(lane: Lane) -> None:
    for _ in range(2):  # the second finds nothing left to answer
        with Process("pipeline.load.peers.loop", lane.peer_arguments(), lane.folder / "log") as process:
            process.wait_ready()
            wait_for_answers(lane.published(), MESSAGES, process, warmup=0.1)
            process.stop()
    assert sum(end_offsets(lane.admin, lane.model.topics.predictions, lane.partitions)) == MESSAGES


def answer(
    lane: Lane, index: int, *, value: bytes = b"\0\0\0\0", status: str = "ok", producer: Producer | None = None
) -> None:
    """What a contestant would write, by hand."""
    producer = producer or Producer({"bootstrap.servers": lane.broker})
    source = f"{lane.model.topics.requests}/{index % 4}/{index // 4}"
    producer.produce(lane.model.topics.predictions, value, headers=[("status", status), ("source", source)])
    assert producer.flush(10) == 0


def test_a_missing_a_repeated_a_wrong_and_a_refused_answer_are_all_noticed(lane: Lane) -> None:
    predictions = lane.model.topics.predictions

    def found(requests: int) -> int:
        return read_back(lane.broker, predictions, 4, requests, lambda index, value: value == b"\0\0\0\0").repeats

    answer(lane, 0)
    answer(lane, 1)
    answer(lane, 1)
    assert found(requests=2) == 1
    with pytest.raises(BenchError, match="1 of 3 requests have no answer"):
        found(requests=3)
    answer(lane, 0, value=b"\1\0\0\0")
    with pytest.raises(BenchError, match="request 0 has a wrong answer"):
        found(requests=2)


def test_an_answer_that_is_not_ok_is_noticed(lane: Lane) -> None:
    answer(lane, 0, status="rejected")
    with pytest.raises(BenchError, match="was not answered"):
        read_back(lane.broker, lane.model.topics.predictions, 4, 1, lambda index, value: True)


def test_what_is_read_back_is_what_transactions_committed(lane: Lane) -> None:
    """Aborted answers are none, and the markers of transactions are not waited for."""
    producer = Producer({"bootstrap.servers": lane.broker, "transactional.id": lane.model.name})
    producer.init_transactions(30)
    for index, end in (
        (0, producer.abort_transaction),
        (0, producer.commit_transaction),
        (1, producer.commit_transaction),
    ):
        producer.begin_transaction()
        answer(lane, index, producer=producer)
        end()
    answers = read_back(lane.broker, lane.model.topics.predictions, 4, 2, lambda index, value: True)
    assert (answers.requests, answers.repeats) == (2, 0)
