"""The intake's promises on memory, on librdkafka's mock cluster, and on a real broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from pipeline.commit import Ledger
from pipeline.core.limits import Limits
from pipeline.intake import Intake, consumer_settings
from pipeline.local import EmbeddedKafka
from tests.contract.intake_suite import PARTITIONS, IntakeSuite
from tests.contract.memory import MemoryBroker


def settings(bootstrap: str, group: str, **extra: str) -> dict[str, Any]:
    return consumer_settings(bootstrap, group, offset_reset="earliest", instance_id=None, extra=extra)


class Memory:
    """In memory."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(PARTITIONS)

    def intake(self, group: str, ledger: Ledger, limits: Limits) -> Intake:
        return Intake(settings("memory:0", group), ledger=ledger, limits=limits, consumer_factory=self.broker.consumer)

    def create(self, topic: str) -> None: ...

    def produce(self, topic: str, partition: int, value: bytes, key: bytes | None = None, headers: Any = ()) -> None:
        self.broker.produce(topic, partition, value, key, list(headers))

    def flush(self) -> None: ...

    def committed(self, group: str, topic: str) -> list[int]:
        return [self.broker.committed.get((group, topic, p), 0) for p in range(PARTITIONS)]


class Kafka:
    """Anything that speaks Kafka at ``bootstrap``."""

    def __init__(self, bootstrap: str, **extra: str) -> None:
        self.bootstrap = bootstrap
        self.extra = extra
        self.producer = Producer({"bootstrap.servers": bootstrap})

    def intake(self, group: str, ledger: Ledger, limits: Limits) -> Intake:
        return Intake(settings(self.bootstrap, group, **self.extra), ledger=ledger, limits=limits)

    def create(self, topic: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
            future.result()

    def produce(self, topic: str, partition: int, value: bytes, key: bytes | None = None, headers: Any = ()) -> None:
        self.producer.produce(topic, value, key, partition, headers=list(headers))

    def flush(self) -> None:
        assert self.producer.flush(30) == 0

    def committed(self, group: str, topic: str) -> list[int]:
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group})
        try:
            found = consumer.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=30)
        finally:
            consumer.close()
        return [max(0, each.offset) for each in found]


class MockCluster(Kafka):
    """librdkafka's mock: it makes a topic, of `PARTITIONS` partitions, when it is first asked for."""

    def create(self, topic: str) -> None:
        assert len(self.producer.list_topics(topic, timeout=10).topics[topic].partitions) == PARTITIONS


class TestOnMemory(IntakeSuite):
    @pytest.fixture
    def transport(self) -> Memory:
        return Memory()


class TestOnMockCluster(IntakeSuite):
    # A group's second join is never answered by the mock (librdkafka 2.16, waited 30 s): nothing to test there.
    test_a_drain_that_takes_too_long_commits_only_the_prefix = None  # type: ignore[assignment]
    test_a_joining_member_takes_partitions_only_after_they_are_drained = None  # type: ignore[assignment]
    test_partitions_that_leave_while_paused_come_back_and_are_read = None  # type: ignore[assignment]

    @pytest.fixture
    def transport(self) -> Iterator[MockCluster]:
        owner = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1})
        metadata = owner.list_topics(timeout=10)
        host = next(iter(metadata.brokers.values()))
        yield MockCluster(f"{host.host}:{host.port}")
        del owner


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
class TestOnRealBroker(IntakeSuite):
    @pytest.fixture
    def transport(self, broker: EmbeddedKafka, protocol: str) -> Kafka:
        return Kafka(broker.bootstrap, **{"group.protocol": protocol})


def test_topics_that_are_not_there_yet_are_told_and_waited_for(
    broker: EmbeddedKafka, topic: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """F19: the worker may start before its topics."""
    import asyncio

    from tests.contract.intake_suite import member, until

    kafka = Kafka(broker.bootstrap, **{"topic.metadata.refresh.interval.ms": "500"})
    name, group = topic("requests"), topic("group")

    async def scenario() -> None:
        async with member(kafka, group, name) as one:
            await until(lambda: "Unknown topic or partition" in caplog.text, "it says what is missing")
            kafka.create(name)
            kafka.produce(name, 0, b"value")
            kafka.flush()
            await until(lambda: len(one.requests) == 1, "it goes on")

    asyncio.run(scenario())
