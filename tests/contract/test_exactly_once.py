"""Exactly once on a real broker: what a read-committed consumer sees after kills, rebalances and bad requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from pipeline.commit import Ledger, Offsets
from pipeline.core.clock import SYSTEM_CLOCK
from pipeline.core.limits import Limits
from pipeline.local import EmbeddedKafka
from pipeline.local.kafka import quiet
from pipeline.models import BUNDLED
from pipeline.publish.producer import kafka_producer, producer_settings
from pipeline.publish.transactions import Outcome, Transactions
from tests.contract.refusing import Refusing, broker_behind_a_proxy
from tests.contract.test_flow import LINEAR, in_small_batches, linear_requests, renamed
from tests.contract.worker import Worker, committed, end_offset, read_all, send
from tests.hostile.cases import good_request, hostile_cases
from tests.unit.intake.messages import chunk_of, message
from topics.admin import apply_topics
from topics.names import topics_of
from topics.records import RAW, Status

EXACTLY = ("--guarantee", "exactly-once")


def test_kill_9_five_times_repeats_and_loses_nothing(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """F1: predictions and offsets are in one transaction, so the killed worker's open one is never seen."""
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    in_small_batches(models, name)
    topics, group, count = topics_of(name), topic("group"), 100_000
    options = (*EXACTLY, "--instance-id", "only")
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log"):
        pass
    send(broker.bootstrap, topics.requests, linear_requests(count))
    for _ in range(5):
        with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
            before = end_offset(broker.bootstrap, topics.predictions)
            while end_offset(broker.bootstrap, topics.predictions) < before + 3_000:
                time.sleep(0.005)
            worker.kill()
            # Not by committed offsets: asking for them waits until the open transaction is fenced or times out.
            assert end_offset(broker.bootstrap, topics.predictions) < count, "killed too late"
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
        outcomes = read_all(broker.bootstrap, topics, count, timeout_s=120)
        assert worker.stop() == 0
    assert len(outcomes.answered) == count, "lost"
    assert set(outcomes.answered.values()) == {1}, "repeated"
    assert committed(broker.bootstrap, group, topics.requests) == count
    raw = end_offset(broker.bootstrap, topics.predictions)
    assert raw > count, "some were published and rolled back, or the kills came between transactions"


def test_workers_that_come_and_go_repeat_and_lose_nothing(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """F8, F9: drained, committed, released; what a rebalance aborts is published again."""
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    topics, group, count = topics_of(name), topic("group"), 0
    with Worker(broker.bootstrap, models, group, *EXACTLY, log=tmp_path / "first") as first:
        for round_ in range(4):
            count += send(broker.bootstrap, topics.requests, linear_requests(15_000))
            with Worker(broker.bootstrap, models, group, *EXACTLY, log=tmp_path / f"other{round_}") as other:
                count += send(broker.bootstrap, topics.requests, linear_requests(15_000))
                while f"assigned {topics.requests}" not in other.log.read_text():
                    time.sleep(0.1)  # a member that leaves before its first share is missed only by its time-out
                count += send(broker.bootstrap, topics.requests, linear_requests(5_000))
                assert other.stop() == 0
        outcomes = read_all(broker.bootstrap, topics, count)
        assert first.stop() == 0
    assert len(outcomes.answered) == count
    assert set(outcomes.answered.values()) == {1}
    assert committed(broker.bootstrap, group, topics.requests) == count


def test_bad_requests_between_good_ones_are_in_the_same_transactions(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """A rejection has its outcome before the batch around it: it waits, so that one offset covers both."""
    models, name = renamed(BUNDLED / "digits" / "1", tmp_path, topic("digits"))
    topics, group = topics_of(name), topic("group")
    cases = [case for case in hostile_cases() if not case.small_limits]
    requests = []
    for number, case in enumerate(cases):
        for suffix, kind, value in (("bad", case.content_type, case.value), ("good", RAW, good_request(RAW))):
            headers = [("content-type", kind.encode()), ("request-id", f"{number}-{suffix}".encode())]
            requests.append((b"key", value, headers))
    with Worker(broker.bootstrap, models, group, *EXACTLY, log=tmp_path / "log") as worker:
        send(broker.bootstrap, topics.requests, requests)
        outcomes = read_all(broker.bootstrap, topics, len(requests))
        assert worker.stop() == 0
    assert set(outcomes.answered.values()) == {1}
    status = {answer.request_id: answer.status for _, answer in outcomes.answers}
    dead = {letter.request_id: letter for _, letter in outcomes.dead}
    for number, case in enumerate(cases):
        assert status[f"{number}-good"] is Status.OK, case.id
        assert status[f"{number}-bad"] is Status.REJECTED, case.id
        assert (dead[f"{number}-bad"].error_code, dead[f"{number}-bad"].value) == (case.code, case.value)
    assert len(outcomes.dead) == len(cases)
    assert committed(broker.bootstrap, group, topics.requests) == len(requests)


def test_dead_letters_that_fit_their_topic_one_by_one_only_are_all_there_once(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """The broker refuses a set of records for its size: librdkafka makes them of up to 1 MB."""
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    topics, group, count = topics_of(name), topic("group"), 40
    small = {"max.message.bytes": "100000"}
    made = [NewTopic(each, 1, config=small) for each in (topics.predictions, topics.dead_letters)]
    admin = AdminClient(quiet(broker.bootstrap))
    for created in admin.create_topics(made).values():
        created.result()
    bad = [(b"k" * 20_000, b"?" * 40_000, [("request-id", str(number).encode())]) for number in range(count)]
    with Worker(broker.bootstrap, models, group, *EXACTLY, log=tmp_path / "log") as worker:
        send(broker.bootstrap, topics.requests, bad, linger_ms=100)
        outcomes = read_all(broker.bootstrap, topics, count)
        assert worker.stop() == 0
    assert "published again" in (tmp_path / "log").read_text(), "no set was refused"
    assert outcomes.answered == {str(number): 1 for number in range(count)}
    assert len(outcomes.dead) == count
    assert committed(broker.bootstrap, group, topics.requests) == count


def test_a_second_worker_of_the_same_transactional_id_fences_the_first(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """F15: the older one says so and exits non-zero; nothing is lost or repeated."""
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    topics, group = topics_of(name), topic("group")
    options = (*EXACTLY, "--instance-id", "same")
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "old") as old:
        count = send(broker.bootstrap, topics.requests, linear_requests(1_000))
        read_all(broker.bootstrap, topics, count)
        with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "new") as new:
            count += send(broker.bootstrap, topics.requests, linear_requests(1_000))
            assert old.process.wait(60) == 1
            outcomes = read_all(broker.bootstrap, topics, count)
            assert new.stop() == 0
    assert "fenced" in (tmp_path / "old").read_text().lower()
    assert len(outcomes.answered) == count
    assert set(outcomes.answered.values()) == {1}


def test_records_that_librdkafka_only_supposes_delivered_abort_their_transaction(topic: Callable[..., str]) -> None:
    """F13: the first request to a partition is refused, the next one, behind it on the connection, is taken."""
    topics, count, answered = topics_of(topic("model")), 20, list[int]()
    ledger = Ledger()
    ledger.assign([(topics.requests, 0)])
    requests = [message(offset, b"v", topic=topics.requests) for offset in range(count)]
    chunk = chunk_of(requests, epoch=ledger.epoch((topics.requests, 0)) or 0, finish=ledger.finish)
    ledger.track(chunk)
    with broker_behind_a_proxy() as (kafka, address):
        apply_topics(kafka.bootstrap, [topics], partitions=1)
        with Refusing(address, kafka.listener("PROXIED"), topics.predictions) as way:
            producer = kafka_producer(
                producer_settings(address, extra={"linger.ms": "0"}, transactional_id=topic("transactions"))
            )
            member = Consumer({**quiet(kafka.bootstrap), "group.id": "group"})
            told: list[Offsets] = []
            transactions = Transactions(
                producer,
                ledger,
                group_metadata=member.consumer_group_metadata,
                committed=told.append,
                limits=Limits(),
                clock=SYSTEM_CLOCK,
            )
            transactions.start()

            def reported(error: KafkaError | None, message: Message) -> None:
                transactions.refusal(error, message)

            def answer(index: int) -> None:
                producer.produce(topics.predictions, str(index).encode(), None, 0, reported, None, 0, [])

            for index in range(count):
                transactions.add(Outcome(chunk, [index], partial(answer, index), partial(answered.append, index)))
                way.wait(0)  # for the first one; the next are sent before it is refused
                time.sleep(0.02)
            transactions.turn(idle=True)
            member.close()
        assert way.refused == {0: 1}
        reader = Consumer({**quiet(kafka.bootstrap), "group.id": "reader", "isolation.level": "read_committed"})
        reader.assign([TopicPartition(topics.predictions, 0, 0)])
        found = [int(message.value() or b"") for message in reader.consume(count, 20)]
        reader.close()
    assert (found, answered) == ([*range(count)], [*range(count)])
    assert told == [{(topics.requests, 0): count}]
