"""Sends a stream of messages to one topic and counts what the broker acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from topics.connect import Connection
from topics.errors import InputError, KafkaFailed, TopicMissing, undelivered
from topics.records import Headers, Request

__all__ = ["Outgoing", "Stream", "check_topic", "outgoing", "queue", "send_all"]

SERVE_EVERY = 256  # messages between two looks at the delivery reports
LOOK_S = 10.0  # a wrong address must be told while one still looks


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message as Kafka takes it."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()


def outgoing(request: Request) -> Outgoing:
    """The message that ``request`` is."""
    return Outgoing(request.value, request.key, request.headers())


class Stream:
    """Messages to one ``topic``, which must be there. One thread offers; delivery reports may come on any.

    Raises `TopicMissing` and `KafkaFailed` when made.
    """

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._producer = connection.producer()
        self._lock = threading.Lock()
        self._sent = self._reported = self._failed = 0
        self._error: KafkaError | None = None
        check_topic(connection, self._producer, topic)

    @property
    def waiting(self) -> int:
        """Messages without a delivery report."""
        return self._sent - self._reported

    @property
    def due(self) -> bool:
        """Whether it is time to look at the delivery reports."""
        return self._sent % SERVE_EVERY == 0

    def offer(self, message: Outgoing) -> bool:
        """Queue ``message``; False where the queue is full. Raises `InputError` where it is too large."""
        try:
            queue(self._connection, self._producer, self._topic, message, self._delivered)
        except BufferError:
            return False
        self._sent += 1
        return True

    def serve(self, wait_s: float = 0) -> None:
        """Handle the delivery reports that are there or come within ``wait_s``."""
        self._producer.poll(wait_s)

    def check(self) -> int:
        """How many were acknowledged, which is all. Raises `KafkaFailed` where one was not."""
        if self._error is not None:
            raise self._connection.failed(f"{self._failed} of {self._sent} messages not delivered", self._error)
        if self.waiting:
            raise KafkaFailed(f"{self.waiting} of {self._sent} messages not acknowledged in time")
        return self._sent

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        failed = undelivered(error, message)
        with self._lock:
            self._reported += 1
            if failed is not None:
                self._failed += 1
                self._error = failed


def send_all(connection: Connection, topic: str, messages: Iterable[Outgoing], timeout_s: float = 120.0) -> int:
    """Send ``messages`` and return how many the broker acknowledged, which is all.

    What was sent before ``messages`` raised is still delivered. Memory stays bounded: librdkafka's full queue holds
    the stream back. Raises `KafkaFailed` where one was not acknowledged within ``timeout_s`` after the last,
    `TopicMissing`, `InputError`.
    """
    stream = Stream(connection, topic)
    try:
        for message in messages:
            while not stream.offer(message):
                stream.serve(0.05)
            if stream.due:
                stream.serve()
    finally:
        until_s = time.monotonic() + timeout_s
        while stream.waiting and time.monotonic() < until_s:
            stream.serve(0.05)
    return stream.check()


def queue(connection: Connection, producer: Producer, topic: str, message: Outgoing, delivered: Any) -> None:
    """Queue ``message``. Raises ``BufferError`` where the queue is full, `InputError` where it is too large."""
    headers: list[tuple[str, str | bytes | None]] = [*message.headers]
    try:
        producer.produce(topic, message.value, message.key, headers=headers, on_delivery=delivered)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise InputError(f"a message of {len(message.value or b'')} bytes is too large for Kafka") from error
        raise connection.failed("message not sent", error) from error


def check_topic(connection: Connection, producer: Producer, topic: str, timeout_s: float = LOOK_S) -> None:
    """Raise `TopicMissing` unless ``topic`` is there: producing blindly might create it, or wait for minutes."""
    try:
        there = topic in producer.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise connection.failed(f"cannot look at {topic}", error, producer) from error
    if not there:
        raise TopicMissing(f"topic {topic} does not exist at {connection.broker}: apply the model's topics first")
