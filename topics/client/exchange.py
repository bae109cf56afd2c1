"""Sends requests and hands each its first terminal record: what `Client` and `AsyncClient` share."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, Message

from topics.client.reader import Answer, Reader
from topics.client.stream import check_topic, outgoing, queue
from topics.connect import Connection
from topics.errors import ClientClosed, InputError, NotAnswered, TopicsError, undelivered
from topics.headers import headers_of
from topics.names import Topics
from topics.records import Header, Request
from topics.signature import Signature

__all__ = ["Exchange"]

TICK_S = 0.05  # how late a time-out may be told, and a delivery error
OVERDUE_S = 1.0  # an answer this late may lie in a partition added since: look, at most this often
READ_MAX = 1000
START_S = 10.0  # a wrong address must be told while one still looks
START_LEAST_S = 1.0  # of a call with less: the first connection takes its time
_REQUEST_ID = Header.REQUEST_ID.value


@dataclass(slots=True)
class _Call:
    answer: Future[Answer]
    sent_s: float
    until_s: float


class Exchange:
    """One producer, one reading thread, and the calls in flight by request id.

    The first call finds the ends of the predictions topic *before* it sends, so that no answer is missed; the
    thread then reads everyone's predictions and picks out our own. Repeats find no call and are dropped.
    Thread-safe.
    """

    def __init__(self, connection: Connection, topics: Topics, signature: Signature | None) -> None:
        self.topics = topics
        self._connection = connection
        self._signature = signature
        self._producer = connection.producer(linger_ms=0)
        self._calls: dict[str, _Call] = {}
        self._lock = threading.Lock()  # over _calls, _thread and _closed
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def started(self) -> bool:
        """Whether `start` would return at once."""
        return self._thread is not None

    def start(self, timeout_s: float = START_S) -> None:
        """Look for the topics and begin to read, within ``timeout_s`` or `START_LEAST_S` where that is longer.

        Raises `TopicMissing`, `KafkaFailed`, `ClientClosed`; `NotAnswered` where another call still looks.
        """
        if self.started and not self._closed:
            return
        until_s = time.monotonic() + max(START_LEAST_S, min(timeout_s, START_S))
        if not self._starting.acquire(timeout=min(max(START_LEAST_S, timeout_s), threading.TIMEOUT_MAX)):
            where = self._connection.broker
            raise NotAnswered(f"no call could start within {timeout_s:g} s: is there a Kafka at {where}?")
        try:
            if self._closed:
                raise ClientClosed("the client is closed")
            if self._thread is not None:
                return
            check_topic(self._connection, self._producer, self.topics.requests, _left_s(until_s))
            reader = Reader(self._connection, self.topics.predictions, timeout_s=_left_s(until_s))
            self._thread = threading.Thread(target=self._run, args=(reader,), name="topics-client", daemon=True)
            self._thread.start()
        finally:
            self._starting.release()

    def ask(self, request: Request, timeout_s: float) -> Future[Answer]:
        """Send and return the coming answer; it fails with `NotAnswered`, `KafkaFailed` or `ClientClosed`.

        Does not wait once started. Raises ``BufferError`` where librdkafka's queue is full (try again), `InputError`
        for a request that is too large or whose id is in flight already.
        """
        self.start(timeout_s)
        assert request.request_id is not None
        request_id, now_s = request.request_id, time.monotonic()
        answer: Future[Answer] = Future()
        with self._lock:
            if self._thread is None:
                raise ClientClosed("the client is closed" if self._closed else "reading stopped, try again")
            if request_id in self._calls:
                raise InputError(f"request id {request_id!r} is in flight already")
            self._calls[request_id] = _Call(answer, now_s, now_s + timeout_s)

        def delivered(error: KafkaError | None, message: Message[Any, Any]) -> None:
            if (failed := undelivered(error, message)) is not None:
                self._settle(request_id, self._connection.failed("request not delivered", failed))

        try:
            queue(self._connection, self._producer, self.topics.requests, outgoing(request), delivered)
        except BaseException:
            self._forget(request_id)
            raise
        answer.add_done_callback(lambda _: self._forget(request_id))  # a cancelled call leaves nothing behind
        return answer

    def serve_deliveries(self, wait_s: float) -> None:
        """Handle delivery reports that are there, or come within ``wait_s``."""
        self._producer.poll(wait_s)

    def close(self, timeout_s: float) -> None:
        """Send what is queued, stop reading, fail what is unanswered with `ClientClosed`. Idempotent."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._producer.flush(timeout_s)
        if thread is not None:
            thread.join()

    def _run(self, reader: Reader) -> None:
        failure: TopicsError = ClientClosed("the client was closed before an answer came")
        try:
            with reader:
                tick_s = looked_s = time.monotonic()
                while not self._closed:
                    self._settle_all(reader.read(TICK_S, READ_MAX))
                    self._producer.poll(0)
                    now_s = time.monotonic()
                    if now_s - tick_s >= TICK_S:
                        tick_s = now_s
                        oldest_s = self._expire(now_s)
                        if now_s - max(oldest_s, looked_s) > OVERDUE_S:
                            looked_s = now_s
                            reader.refresh()
        except TopicsError as error:
            failure = error
        finally:
            with self._lock:
                self._thread = None  # the next call starts anew
                left = list(self._calls)
            for request_id in left:
                self._settle(request_id, failure)

    def _settle_all(self, messages: Sequence[Message[Any, Any]]) -> None:
        for message, headers in zip(messages, headers_of(messages), strict=True):
            for name, value in headers or ():
                if name == _REQUEST_ID and isinstance(value, bytes):
                    request_id = value.decode(errors="replace")
                    if request_id in self._calls:
                        self._settle(request_id, self._read(message))
                    break

    def _read(self, message: Message[Any, Any]) -> Answer | TopicsError:
        try:
            return Answer.of(message, self._signature)
        except ValueError as error:
            return TopicsError(f"{self.topics.predictions}: {error}")

    def _expire(self, now_s: float) -> float:
        """Fail the calls that have waited long enough; returns when the oldest left was sent (now: none)."""
        with self._lock:
            calls = list(self._calls.items())
        for request_id, call in calls:
            if call.until_s <= now_s:
                text = f"no answer to request {request_id} within {call.until_s - call.sent_s:.3g} s"
                self._settle(request_id, NotAnswered(f"{text}: is a worker serving {self.topics.requests}?"))
        return min((call.sent_s for _, call in calls if call.until_s > now_s), default=now_s)

    def _settle(self, request_id: str, outcome: Answer | TopicsError) -> None:
        call = self._forget(request_id)
        if call is None or not call.answer.set_running_or_notify_cancel():
            return
        if isinstance(outcome, TopicsError):
            call.answer.set_exception(outcome)
        else:
            call.answer.set_result(outcome)

    def _forget(self, request_id: str) -> _Call | None:
        with self._lock:
            return self._calls.pop(request_id, None)


def _left_s(until_s: float) -> float:
    return max(0.1, until_s - time.monotonic())
