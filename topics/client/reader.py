"""Reads every partition of one topic, without a consumer group, from a fixed moment on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Message, TopicPartition

from topics.client.messages import outputs_of
from topics.connect import Connection
from topics.errors import TopicMissing, is_unreachable
from topics.headers import headers_of
from topics.records import Terminal
from topics.signature import Signature

__all__ = ["Answer", "Reader", "Start"]

Start = Literal["earliest", "latest"]

_GIVEN_UP = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.TOPIC_AUTHORIZATION_FAILED}
)


# A partition made a moment ago, or one whose leader is moving: metadata runs ahead of what the broker can serve.
_NOT_YET = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
    }
)
NOT_YET_S = 0.05
REFRESH_EVERY_S = 1.0
REFRESH_S = 0.5  # to look for added partitions, beside which nothing is read and no time-out told


@dataclass(frozen=True, slots=True)
class Answer:
    """A terminal record and where it lies; ``timestamp_ms`` is Kafka's, Unix epoch."""

    record: Terminal
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    signature: Signature | None = None

    def outputs(self) -> dict[str, np.ndarray[Any, Any]]:
        """Each output as ``(rows, *shape)``. Raises `Expired`, `Rejected`, or `TopicsError` for a broken value."""
        return outputs_of(self.record, self.signature)

    @classmethod
    def of(cls, message: Message[Any, Any], signature: Signature | None = None) -> Answer:
        """Raises ``ValueError`` where ``message`` does not carry the contract's headers, or none that can be read."""
        record = Terminal.from_kafka(message.key(), message.value(), headers_of([message])[0])
        place = (message.topic() or "", message.partition() or 0, message.offset() or 0)
        return cls(record, *place, message.timestamp()[1], signature)


class Reader:
    """Messages of all partitions of ``topic``: from ``earliest``, or those written after this call returns.

    For one thread at a time. Raises `TopicMissing`, `KafkaFailed`; librdkafka heals lost connections itself.
    """

    def __init__(
        self,
        connection: Connection,
        topic: str,
        start: Start = "latest",
        *,
        to_end: bool = False,
        timeout_s: float = 10,
    ) -> None:
        self.topic = topic
        self._connection = connection
        self._timeout_s = timeout_s
        self._consumer = connection.consumer(enable_partition_eof=to_end)
        self._partitions: set[int] = set()
        self._looked_s = time.monotonic()
        try:
            try:
                found = self._found(timeout_s)
            except KafkaException as error:
                raise connection.failed(f"cannot look at {topic}", error, self._consumer) from error
            if not found:
                raise TopicMissing(
                    f"topic {topic} does not exist at {connection.broker}: apply the model's topics first"
                )
            self._ends = self._end_offsets(found) if to_end or start == "latest" else {}
            self._assign({p: OFFSET_BEGINNING if start == "earliest" else self._ends[p] for p in found})
        except BaseException:
            self._consumer.close()
            raise

    def read(self, wait_s: float, count_max: int = 1000) -> list[Message[Any, Any]]:
        """What is there, after waiting up to ``wait_s`` for a first message; empty when none came."""
        try:
            # consume(n, wait) would wait for all n: one first, then what has been fetched with it.
            messages = self._consumer.consume(1, wait_s)
            if messages and count_max > 1:
                messages += self._consumer.consume(count_max - 1, 0)
        except KafkaException as error:
            raise self._connection.failed(f"cannot read {self.topic}", error) from error
        return [message for message in messages if self._is_record(message)]

    def read_to_end(self, idle_s: float = 30.0) -> Iterator[Message[Any, Any]]:
        """What lay in the topic when the reader was made (``to_end``), partition by partition interleaved."""
        open_ends = {p: end for p, end in self._ends.items() if end > 0}
        while open_ends:
            try:
                messages = self._consumer.consume(1, idle_s) + self._consumer.consume(1000, 0)
            except KafkaException as error:
                raise self._connection.failed(f"cannot read {self.topic}", error) from error
            if not messages:
                raise self._connection.failed(f"cannot read {self.topic}", KafkaError(KafkaError._TIMED_OUT))
            for message in messages:
                partition, offset = message.partition() or 0, message.offset() or 0
                end = open_ends.get(partition)
                if self._is_record(message) and end is not None and offset < end:
                    yield message
                # An end-of-partition mark counts too: the last offsets may be transaction markers.
                mark = message.error()
                if mark.code() == KafkaError._PARTITION_EOF if mark else end is not None and offset + 1 >= end:
                    open_ends.pop(partition, None)

    def look(self) -> None:
        """`refresh`, at most once in `REFRESH_EVERY_S`: for who reads on and on."""
        if time.monotonic() - self._looked_s > REFRESH_EVERY_S:
            self.refresh()
            self._looked_s = time.monotonic()

    def refresh(self) -> bool:
        """Read partitions added since, from their beginning; says whether there were any.

        There are none for now where no broker answers within `REFRESH_S`: who reads goes on, and looks again.
        """
        try:
            added = self._found(REFRESH_S) - self._partitions
        except KafkaException as error:
            if is_unreachable(error):
                return False
            # The consumer is not asked what it has to say of it: its poll would take a message.
            raise self._connection.failed(f"cannot look at {self.topic}", error) from error
        if added:
            self._assign(dict.fromkeys(added, OFFSET_BEGINNING))
        return bool(added)

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _found(self, timeout_s: float) -> set[int]:
        # A consumer's metadata request does not create the topic.
        topic = self._consumer.list_topics(self.topic, timeout=timeout_s).topics[self.topic]
        if topic.error is not None and topic.error.code() not in _GIVEN_UP - {KafkaError.TOPIC_AUTHORIZATION_FAILED}:
            raise self._connection.failed(f"cannot look at {self.topic}", topic.error)
        return set(topic.partitions)

    def _end_offsets(self, partitions: set[int]) -> dict[int, int]:
        return {p: self._end_offset(p, time.monotonic() + self._timeout_s) for p in partitions}

    def _end_offset(self, partition: int, until_s: float) -> int:
        place = TopicPartition(self.topic, partition)
        while True:
            try:
                return self._consumer.get_watermark_offsets(place, timeout=self._timeout_s)[1]
            except KafkaException as error:
                if error.args[0].code() not in _NOT_YET or time.monotonic() > until_s:
                    raise self._connection.failed(f"cannot find the end of {self.topic}", error) from error
                time.sleep(NOT_YET_S)

    def _assign(self, offsets: dict[int, int]) -> None:
        self._consumer.incremental_assign([TopicPartition(self.topic, p, o) for p, o in offsets.items()])
        self._partitions |= offsets.keys()

    def _is_record(self, message: Message[Any, Any]) -> bool:
        error = message.error()
        if error is not None and (error.fatal() or error.code() in _GIVEN_UP):
            raise self._connection.failed(f"cannot read {self.topic}", error)
        return error is None
