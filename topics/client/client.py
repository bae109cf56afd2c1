"""`Client`: predictions from a model behind Kafka, for threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Self, Unpack

import numpy as np

from topics.client.exchange import Exchange
from topics.client.messages import Inputs
from topics.client.reader import Answer, Reader, Start
from topics.client.requests import Maker, Options
from topics.client.stream import outgoing, send_all
from topics.connect import Connection
from topics.errors import NotAnswered
from topics.names import topics_of
from topics.records import Request
from topics.signature import Signature

__all__ = ["Client", "Outputs", "read_answers"]

Outputs = dict[str, np.ndarray[Any, Any]]

IN_FLIGHT_MAX = 1024  # calls without an answer: about what a worker gathers in two or three batches
CLOSE_S = 10.0
_logger = logging.getLogger("topics.client")


class Client:
    """Predictions from ``model``; safe to share between threads, to be closed (or used in a ``with``).

    ``signature`` says what the model takes and gives; without it requests are JSON and prediction arrays take
    the types they come in. ``kafka`` passes any librdkafka setting (SASL, TLS). At most ``in_flight_max`` calls
    are without an answer at any moment; further ones wait. A client reads *all* predictions of its model, without
    a consumer group: for many clients of a busy model, share one. Connects at the first call.
    """

    def __init__(
        self,
        broker: str,
        model: str,
        signature: Signature | None = None,
        *,
        kafka: Mapping[str, str] | None = None,
        in_flight_max: int = IN_FLIGHT_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.topics = topics_of(model)
        self.signature = signature
        self.request = Maker(signature, clock).request
        self._connection = Connection(broker, kafka)
        self._exchange = Exchange(self._connection, self.topics, signature)
        self._slots = threading.BoundedSemaphore(in_flight_max)

    def predict(self, inputs: Inputs, *, timeout_s: float = 30.0, **options: Unpack[Options]) -> Outputs:
        """The model's outputs for ``inputs``: name -> array ``(rows, *shape)``.

        `Options` says what a call may say: key, deadline_in_ms, content_type, priority, traceparent and more.
        Raises `Expired`, `Rejected` (with ``code`` and ``reason``), `NotAnswered` after ``timeout_s``, `InputError`,
        `KafkaFailed`, `TopicMissing`, `ClientClosed`.
        """
        return self.submit(inputs, timeout_s=timeout_s, **options).result().outputs()

    def submit(self, inputs: Inputs, *, timeout_s: float = 30.0, **options: Unpack[Options]) -> Future[Answer]:
        """Like `predict`, without waiting for the answer: many can be in flight from one thread.

        Waits only while ``in_flight_max`` calls are unanswered. The future fails as `predict` raises, except that
        `Expired` and `Rejected` come from `Answer.outputs`.
        """
        made = self.request(inputs, **options)
        until_s = time.monotonic() + timeout_s
        if not self._slots.acquire(timeout=timeout_s):
            raise NotAnswered(f"no call could start within {timeout_s:g} s: too many are in flight")
        try:
            while True:
                try:
                    answer = self._exchange.ask(made, max(0.0, until_s - time.monotonic()))
                    break
                except BufferError:
                    if time.monotonic() > until_s:
                        raise NotAnswered(f"Kafka took no more requests for {timeout_s:g} s") from None
                    self._exchange.serve_deliveries(0.01)
        except BaseException:
            self._slots.release()
            raise
        answer.add_done_callback(lambda _: self._slots.release())
        return answer

    def produce(self, requests: Iterable[Request | Inputs], *, timeout_s: float = 120.0) -> int:
        """Stream requests (or inputs, as `request` takes them) to the request topic, answers unawaited.

        Returns how many the broker acknowledged, which is all. Raises `KafkaFailed` where one was not, within
        ``timeout_s`` after the last. Memory stays bounded: librdkafka's full queue holds the stream back.
        """
        made = (item if isinstance(item, Request) else self.request(item) for item in requests)
        return send_all(self._connection, self.topics.requests, map(outgoing, made), timeout_s)

    def consume(self, *, start: Start = "latest", idle_s: float | None = None) -> Iterator[Answer]:
        """Stream the terminal records of the model, everyone's, from ``earliest`` or from now on.

        "Now" is this call, not the first ``next``. Ends when nothing came for ``idle_s`` (None: never). Records
        that are not Sluice's are logged and left out. Raises `KafkaFailed`, `TopicMissing`.
        """
        reader = Reader(self._connection, self.topics.predictions, start)
        return _answers(reader, self.signature, idle_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Send what is queued, then fail the calls without an answer with `ClientClosed`. Idempotent."""
        self._exchange.close(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_answers(reader: Reader, signature: Signature | None, wait_s: float) -> list[Answer]:
    """What is there, after waiting up to ``wait_s``; other people's records are logged and left out."""
    reader.look()
    answers = []
    for message in reader.read(wait_s):
        try:
            answers.append(Answer.of(message, signature))
        except ValueError as error:
            place = f"{message.topic()}/{message.partition()}/{message.offset()}"
            _logger.warning("%s is no terminal record: %s", place, error)
    return answers


def _answers(reader: Reader, signature: Signature | None, idle_s: float | None) -> Iterator[Answer]:
    with reader:
        last_s = time.monotonic()
        while idle_s is None or time.monotonic() - last_s < idle_s:
            for answer in read_answers(reader, signature, 0.1):
                yield answer
                last_s = time.monotonic()
