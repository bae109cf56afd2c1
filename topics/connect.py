"""librdkafka clients as this package opens them: quiet, safe defaults, any setting passed through."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from topics.errors import KafkaFailed, is_refusal, kafka_failed
from topics.secrets import KafkaSettings

T = TypeVar("T")

__all__ = ["MESSAGE_BYTES_MAX", "Connection", "Sparse"]

MESSAGE_BYTES_MAX = 13 * 1024 * 1024  # a 12 MiB request with its key and headers; the topic has the last word

REACH_S = 30.0  # a broker's restart
REFUSED_S = 3.0  # who is refused for so long has the wrong settings; a broker that starts refuses for a moment
REPEAT_S = 30.0
LINES_MAX = 256  # of one logger remembered; about 200 bytes each


class Sparse(logging.Filter):
    """Lets each line of librdkafka through once in `REPEAT_S`: it tells of a broker that is away 20 times a second."""

    _VARIES = re.compile(r"\d+(?=ms)")

    def __init__(self) -> None:
        super().__init__()
        self._said_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:  # somebody wants to see all of it
            return True
        line, now_s = self._VARIES.sub("", record.getMessage()), time.monotonic()
        if now_s - self._said_s.get(line, -REPEAT_S) < REPEAT_S:
            return False
        if len(self._said_s) >= LINES_MAX:
            self._said_s.clear()
        self._said_s[line] = now_s
        return True


# librdkafka's own lines ("Connection refused" and the like) go to this logger, never straight to a terminal.
_logger = logging.getLogger("topics.kafka")
_logger.addHandler(logging.NullHandler())
_logger.addFilter(Sparse())

PRODUCER: Mapping[str, Any] = {
    "enable.idempotence": True,  # acks=all, no repeats and no reordering by retries
    "partitioner": "murmur2_random",  # the Java client's: one key, one partition, whatever the language
    "message.max.bytes": MESSAGE_BYTES_MAX,
    "message.timeout.ms": 120_000,  # outlasts a broker's restart and a minute's network cut
    "retry.backoff.ms": 20,
    "delivery.report.only.error": False,
}
CONSUMER: Mapping[str, Any] = {
    "group.id": "sluice-reader",  # librdkafka wants a name; nothing is ever committed or joined
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",  # a recreated topic or passed retention: read what there is, skip nothing
    "check.crcs": True,
    "fetch.wait.max.ms": 100,  # an upper bound only: the broker answers as soon as a byte is there
    "fetch.error.backoff.ms": 50,
}


class Connection:
    """How to reach one Kafka: ``broker`` is ``HOST:PORT[,...]``, ``kafka`` any librdkafka settings (SASL, TLS).

    Remembers librdkafka's last error, so that a failed call can say more than "timed out". Raises `KafkaFailed`
    where librdkafka refuses a setting.
    """

    def __init__(self, broker: str, kafka: Mapping[str, str] | None = None) -> None:
        self.broker = broker
        self._kafka = KafkaSettings(kafka or {})
        self._last: KafkaError | None = None

    def producer(self, **settings: Any) -> Producer:
        """A producer; ``settings`` have underscores for dots and yield to the user's."""
        return self._open(Producer, PRODUCER, settings)

    def consumer(self, **settings: Any) -> Consumer:
        """A consumer that belongs to no group."""
        return self._open(Consumer, CONSUMER, settings)

    def admin(self) -> AdminClient:
        """An admin client."""
        return self._open(AdminClient, {}, {})

    def reach(self, timeout_s: float = REACH_S) -> frozenset[str]:
        """Return once Kafka answers, with the topics that we may see.

        Raises `KafkaFailed` where none does within ``timeout_s``, and after `REFUSED_S` where one does but refuses
        these settings (password, certificate): to go on trying would lock an account, and heal nothing.
        """
        client = self._open(AdminClient, {"log_level": 0}, {})  # the error says it
        until_s = time.monotonic() + timeout_s
        while True:
            try:
                found = client.list_topics(timeout=min(REFUSED_S, timeout_s)).topics
            except KafkaException as error:
                failed = self.failed("cannot connect", error, client)
                if time.monotonic() >= until_s or (self._last is not None and is_refusal(self._last)):
                    raise failed from error
            else:
                return frozenset(name for name, topic in found.items() if topic.error is None)

    def failed(
        self, what: str, cause: KafkaException | KafkaError, client: Producer | Consumer | AdminClient | None = None
    ) -> KafkaFailed:
        """The error to raise for ``cause``; ``client`` is asked first what librdkafka still has to say of it."""
        if client is not None:
            client.poll(0)
        return kafka_failed(what, self.broker, cause, self._last)

    def _open(self, kind: Callable[..., T], defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> T:
        own = {name.replace("_", "."): value for name, value in settings.items()}
        config = {**defaults, **own, **self._kafka, "bootstrap.servers": self.broker, "error_cb": self._remember}
        try:
            return kind(config, logger=_logger)
        except (KafkaException, ValueError, TypeError) as error:
            cause = error.args[0] if error.args else error
            text = cause.str() if isinstance(cause, KafkaError) else str(cause)
            raise KafkaFailed(f"Kafka setting refused: {text}") from error

    def _remember(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # says nothing that the error before it did not
            self._last = error
