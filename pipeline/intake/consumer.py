"""The librdkafka consumer as the intake uses it, and the settings that the guarantees rest on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from pipeline.core.errors import BrokerError
from topics.connect import Sparse

__all__ = ["ConsumerFactory", "ConsumerLike", "consumer_settings", "kafka_consumer", "raise_if_fatal"]

log = logging.getLogger(__name__)
log.addFilter(Sparse())

# Without the right to read, or to be in the group, a worker would wait for ever.
FATAL = frozenset({KafkaError._FATAL, KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED})

OnPartitions = Callable[[Any, list[TopicPartition]], None]


class ConsumerLike(Protocol):
    """The part of `confluent_kafka.Consumer` the intake calls; all of it on the poll thread."""

    def subscribe(
        self, topics: list[str], on_assign: OnPartitions, on_revoke: OnPartitions, on_lost: OnPartitions
    ) -> None: ...
    def unsubscribe(self) -> None: ...
    def poll(self, timeout: float) -> Message | None: ...
    def consume(self, num_messages: int, timeout: float) -> list[Message]: ...
    def assignment(self) -> list[TopicPartition]: ...
    def pause(self, partitions: list[TopicPartition]) -> None: ...
    def resume(self, partitions: list[TopicPartition]) -> None: ...
    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> Sequence[TopicPartition] | None: ...
    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]: ...
    def get_watermark_offsets(self, partition: TopicPartition, *, cached: bool) -> tuple[int, int]: ...
    def consumer_group_metadata(self) -> Any: ...
    def close(self) -> None: ...


ConsumerFactory = Callable[[dict[str, Any]], ConsumerLike]


def consumer_settings(
    broker: str, group: str, *, offset_reset: str, instance_id: str | None, extra: Mapping[str, str]
) -> dict[str, Any]:
    """Settings of the intake's consumer; ``extra`` (SASL, TLS, ...) may override what is not a guarantee."""
    tuned: dict[str, Any] = {
        "auto.offset.reset": offset_reset,
        "partition.assignment.strategy": "cooperative-sticky",
        "check.crcs": True,
        # Re-ask soon when the local queue was full: the default second would stall the flow at full speed.
        "fetch.queue.backoff.ms": 5,
        # A resumed partition is fetched only when the fetch that is waiting without it returns: 500 ms by default.
        "fetch.wait.max.ms": 100,
        "queued.max.messages.kbytes": 32_768,
        "topic.metadata.refresh.interval.ms": 30_000,
    }
    if extra.get("group.protocol") == "consumer":
        del tuned["partition.assignment.strategy"]  # the broker assigns (KIP-848)
    if instance_id is not None:
        tuned["group.instance.id"] = instance_id
    owned = {
        "bootstrap.servers": broker,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
    }
    return {**tuned, **extra, **owned}


def kafka_consumer(settings: dict[str, Any]) -> ConsumerLike:
    """A real consumer; librdkafka's own log lines go to the module's logger."""
    return cast(ConsumerLike, Consumer(settings, logger=log))  # its stubs overload commit() by literal


def raise_if_fatal(error: KafkaError | None) -> None:
    """A consumer that is fenced says so in whatever it is asked next, first perhaps in a commit."""
    if error is not None and (error.fatal() or error.code() in FATAL):
        raise BrokerError(f"the consumer cannot go on: {error.str()}")
