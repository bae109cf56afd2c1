"""What can go wrong between a client and Kafka: one line a user can act on, no traceback needed."""

from __future__ import annotations

from typing import ClassVar

from confluent_kafka import KafkaError, KafkaException, Message

__all__ = [
    "UNPROVEN",
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
    "is_unreachable",
    "kafka_failed",
    "undelivered",
]

UNPROVEN = KafkaError(KafkaError._INCONSISTENT, "later records of the partition were acknowledged, this one was not")
"""What `undelivered` says of a delivery that was reported without an offset."""

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


def _error_of(cause: KafkaException | KafkaError) -> object:
    return cause.args[0] if isinstance(cause, KafkaException) and cause.args else cause


def is_unreachable(cause: KafkaException | KafkaError) -> bool:
    """Whether no broker answered."""
    error = _error_of(cause)
    return isinstance(error, KafkaError) and error.code() in _UNREACHABLE


def kafka_failed(
    what: str, broker: str, cause: KafkaException | KafkaError, last: KafkaError | None = None
) -> KafkaFailed:
    """``what`` failed at ``broker``; ``last`` is what librdkafka said last (a refused login, say)."""
    error = _error_of(cause)
    if is_unreachable(cause):
        if last is not None and is_refusal(last):
            return KafkaFailed(f"{what}: the connection to Kafka at {broker} is refused: {last.str()}")
        hint = f" ({last.str()})" if last is not None else ""
        return KafkaFailed(f"{what}: no Kafka broker answers at {broker}{hint}")
    text = error.str() if isinstance(error, KafkaError) else str(error)
    return KafkaFailed(f"{what}: {text}")


def undelivered(error: KafkaError | None, message: Message) -> KafkaError | None:
    """Why the broker may not have a record, by its delivery report; None where the broker has said that it has.

    librdkafka (2.16) takes a record for delivered when a later one of its partition is: brokers refuse a gap in an
    idempotent producer's sequence. They cannot before they have anything of the producer in the partition. Where the
    first request is refused (the partition's leader has just moved) and the next, on its way already, is taken, the
    first one's records are lost and reported as delivered, but for the offset: nobody has told one.
    """
    if error is not None:
        return error
    return UNPROVEN if message.offset() is None else None
