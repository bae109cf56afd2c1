"""Topics on a real broker: created once, listed as they are, drift told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from pipeline.local import EmbeddedKafka
from topics.admin import DEAD_LETTER_HEADROOM_BYTES, apply_topics, list_topics, verify_topics
from topics.errors import KafkaFailed
from topics.names import topics_of


def test_applying_twice_creates_once_and_leaves_no_drift(broker: EmbeddedKafka, topic: Callable[..., str]) -> None:
    models = [topics_of(topic("m")), topics_of(topic("m"))]
    for action in ("created", "kept"):
        steps = apply_topics(broker.bootstrap, models, partitions=3)
        assert [(step.action, step.partitions) for step in steps] == [(action, 3)] * 6
    assert verify_topics(broker.bootstrap, models, partitions=3, replication=1) == []


def test_dead_letters_have_room_for_the_largest_request(broker: EmbeddedKafka, topic: Callable[..., str]) -> None:
    names = topics_of(topic("m"))
    apply_topics(broker.bootstrap, [names])
    requests, _, dead_letters = list_topics(broker.bootstrap, [names])
    sizes = [int(state.configs["max.message.bytes"]) for state in (requests, dead_letters)]
    assert sizes[1] == sizes[0] + DEAD_LETTER_HEADROOM_BYTES


def test_a_compressed_request_is_measured_by_what_it_holds(broker: EmbeddedKafka, topic: Callable[..., str]) -> None:
    """Else a worker could not write its dead letter, nor could the next one."""
    names = topics_of(topic("m"))
    apply_topics(broker.bootstrap, [names])
    sent: list[KafkaError | None] = []
    settings = {"bootstrap.servers": broker.bootstrap, "compression.type": "zstd", "message.max.bytes": 100_000_000}
    producer = Producer(settings)
    for size in (100_000, 8_000_000):
        producer.produce(names.requests, bytes(size), on_delivery=lambda error, _: sent.append(error))
        assert producer.flush(30) == 0
    small, large = sent
    assert small is None
    assert large is not None and large.code() == KafkaError.MSG_SIZE_TOO_LARGE


def test_what_is_missing_is_listed_and_told_and_not_created_by_looking(
    broker: EmbeddedKafka, topic: Callable[..., str]
) -> None:
    names = topics_of(topic("m"))
    for _ in range(2):
        assert [state.missing for state in list_topics(broker.bootstrap, [names])] == [True] * 3
        assert [drift.what for drift in verify_topics(broker.bootstrap, [names])] == ["topic"] * 3


def test_growing_adds_partitions_and_more_asked_than_there_are_is_drift(
    broker: EmbeddedKafka, topic: Callable[..., str]
) -> None:
    names = topics_of(topic("m"))
    apply_topics(broker.bootstrap, [names], partitions=2)
    assert {drift.what for drift in verify_topics(broker.bootstrap, [names], partitions=5)} == {"partitions"}
    apply_topics(broker.bootstrap, [names], partitions=5, grow=True)
    assert [state.partitions for state in list_topics(broker.bootstrap, [names])] == [5, 5, 5]
    assert verify_topics(broker.bootstrap, [names], partitions=5) == []


def test_partitions_that_another_has_added_meanwhile_are_no_error(
    broker: EmbeddedKafka, topic: Callable[..., str]
) -> None:
    names = topics_of(topic("m"))
    apply_topics(broker.bootstrap, [names], partitions=1)
    with ThreadPoolExecutor(8) as pool:
        grown = partial(apply_topics, broker.bootstrap, [names], partitions=4, grow=True)
        assert all(len(done.result()) == 3 for done in [pool.submit(grown) for _ in range(8)])
    assert verify_topics(broker.bootstrap, [names], partitions=4) == []


def test_requests_that_the_broker_keeps_packed_are_drift(broker: EmbeddedKafka, topic: Callable[..., str]) -> None:
    names = topics_of(topic("m"))
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for made in admin.create_topics([NewTopic(names.requests, 1, 1)]).values():
        made.result()
    apply_topics(broker.bootstrap, [names])
    [found] = verify_topics(broker.bootstrap, [names])
    assert (found.topic, found.what, found.found) == (names.requests, "compression.type", "producer")


def test_no_broker_is_one_clear_line() -> None:
    with pytest.raises(KafkaFailed, match=r"no Kafka broker answers at 127\.0\.0\.1:1 \(.*Connection refused"):
        list_topics("127.0.0.1:1", [topics_of("m")], timeout_s=1)


def test_a_setting_librdkafka_does_not_know_is_refused() -> None:
    with pytest.raises(KafkaFailed, match="setting refused"):
        list_topics("127.0.0.1:1", [topics_of("m")], kafka={"no.such.setting": "1"})


def test_more_copies_than_brokers_is_refused_by_name(broker: EmbeddedKafka, topic: Callable[..., str]) -> None:
    names = topics_of(topic("m"))
    with pytest.raises(KafkaFailed, match=names.requests):
        apply_topics(broker.bootstrap, [names], replication=3)
