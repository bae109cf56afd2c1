"""What can go wrong between a client and Kafka: one line a user can act on, no traceback needed."""

from __future__ import annotations

from typing import ClassVar

from confluent_kafka import KafkaError, KafkaException

__all__ = [
    "ClientClosed",
    "Expired",
    "InputError",
    "KafkaFailed",
    "NotAnswered",
    "NotPredicted",
    "Rejected",
    "TopicMissing",
    "TopicsError",
    "is_refusal",
    "kafka_failed",
]

_UNREACHABLE = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE}
)


class TopicsError(Exception):
    """The root: its text is one line; ``exit_code`` is what a command ends with (1 failed, 2 misuse)."""

    exit_code: ClassVar[int] = 1


class KafkaFailed(TopicsError):
    """Kafka cannot be reached or refuses what was asked."""


class TopicMissing(TopicsError):
    """A topic that must be there is not."""


class InputError(TopicsError, ValueError):
    """What the caller gave is not what the model takes, or cannot be written as asked."""

    exit_code: ClassVar[int] = 2


class NotAnswered(TopicsError, TimeoutError):
    """No terminal record came within the caller's time-out; one may still come, and is then ignored."""


class ClientClosed(TopicsError):
    """The client was closed while, or before, the call was made."""


class NotPredicted(TopicsError):
    """The request's terminal record is a notice, not a prediction: a stable ``code`` and a ``reason`` for people."""

    status: ClassVar[str] = "not predicted"

    def __init__(self, code: str, reason: str, request_id: str = "") -> None:
        super().__init__(f"{self.status}: {code}: {reason}")
        self.code = code
        self.reason = reason
        self.request_id = request_id


class Expired(NotPredicted):
    """The deadline passed, or could no longer be met, before the model ran."""

    status: ClassVar[str] = "expired"


class Rejected(NotPredicted):
    """The request cannot be answered; it lies unchanged on the dead-letter topic."""

    status: ClassVar[str] = "rejected"


def is_refusal(error: KafkaError) -> bool:
    """Whether a broker answered and sent this client away, or this client the broker: a login, a certificate.

    A server that misses the client's certificate says so in an alert after the handshake (TLS 1.3), which librdkafka
    has no code for.
    """
    return error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) or "SSL alert number" in error.str()


def kafka_failed(
    what: str, broker: str, cause: KafkaException | KafkaError, last: KafkaError | None = None
) -> KafkaFailed:
    """``what`` failed at ``broker``; ``last`` is what librdkafka said last (a refused login, say)."""
    error = cause.args[0] if isinstance(cause, KafkaException) and cause.args else cause
    if isinstance(error, KafkaError) and error.code() in _UNREACHABLE:
        if last is not None and is_refusal(last):
            return KafkaFailed(f"{what}: the connection to Kafka at {broker} is refused: {last.str()}")
        hint = f" ({last.str()})" if last is not None else ""
        return KafkaFailed(f"{what}: no Kafka broker answers at {broker}{hint}")
    text = error.str() if isinstance(error, KafkaError) else str(error)
    return KafkaFailed(f"{what}: {text}")
