"""A worker that keeps the contract and nothing else: what clients and commands are tested against."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson
from confluent_kafka import Message, Producer

from topics.client.reader import Reader
from topics.codecs import codec_for
from topics.codes import BadRequest
from topics.connect import Connection
from topics.headers import headers_of
from topics.limits import RequestLimits
from topics.names import topics_of
from topics.records import JSON, Header, Status, source_of
from topics.signature import Signature, Tensor

SIGNATURE = Signature(
    (Tensor("x", np.dtype("float32"), (2,)),),
    (Tensor("total", np.dtype("float32"), ()), Tensor("twice", np.dtype("float32"), (2,))),
)

# What the first value of a request asks this worker to do; anything else is answered once.
SILENT, EXPIRED, REJECTED, THRICE, BROKEN = -1.0, -2.0, -3.0, -4.0, -5.0


class FakeWorker:
    """Answers every request of ``model`` that is produced after it was entered: total = sum(x), twice = 2x."""

    def __init__(self, broker: str, model: str) -> None:
        self.topics = topics_of(model)
        self.model = model
        self.seen: list[tuple[bytes | None, dict[str, str]]] = []  # key and headers of each request
        self._connection = Connection(broker)
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._reader = Reader(self._connection, self.topics.requests)
        self._producer = self._connection.producer(linger_ms=0)
        self._pool = ThreadPoolExecutor(1)
        self._running = self._pool.submit(self._run)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._pool.shutdown()
        self._reader.close()
        self._producer.flush(10)
        self._running.result()

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._reader.read(0.05):
                self._answer(message)
            self._producer.poll(0)

    def _answer(self, message: Message[Any, Any]) -> None:
        headers = {name: (value or b"").decode() for name, value in headers_of([message])[0] or ()}
        self.seen.append((message.key(), headers))
        content_type = headers.get(Header.CONTENT_TYPE, JSON)
        source = source_of(message.topic() or "", message.partition() or 0, message.offset() or 0)
        request_id = headers.get(Header.REQUEST_ID, source)
        value = message.value()
        try:
            codec = codec_for(content_type)
            decoded = codec.decode_requests([value], SIGNATURE.inputs, RequestLimits())
        except BadRequest as error:
            return self._reject(message, headers, source, request_id, error.code, error.reason)
        if decoded.rejected:
            why = decoded.rejected[0][1]
            return self._reject(message, headers, source, request_id, why.code, why.reason)
        x = decoded.columns["x"]
        wish = float(x[0, 0])
        out = {Header.REQUEST_ID: request_id, Header.MODEL: f"{self.model}/1", Header.SOURCE: source}
        if wish == SILENT:
            return None
        if wish == REJECTED:
            return self._reject(message, headers, source, request_id, "model-failed", "asked for it")
        if wish == EXPIRED:
            said = orjson.dumps({"code": "deadline-passed", "reason": "asked for it"})
            return self._produce(self._producer, message.key(), said, {**out, Header.STATUS: Status.EXPIRED})
        outputs = {"total": x.sum(axis=1), "twice": x * 2}
        [answer] = codec.encode_responses(
            outputs, [0, len(x)], SIGNATURE.outputs, model=self.model, version="1", request_ids=[request_id]
        )
        for _ in range(3 if wish == THRICE else 1):
            body = b"\x00not a prediction" if wish == BROKEN else answer
            told = {**out, Header.STATUS: Status.OK, Header.CONTENT_TYPE: content_type}
            self._produce(self._producer, message.key(), body, told)
        return None

    def _reject(
        self, message: Message[Any, Any], headers: dict[str, str], source: str, request_id: str, code: str, reason: str
    ) -> None:
        out = {
            Header.REQUEST_ID: request_id,
            Header.STATUS: Status.REJECTED,
            Header.MODEL: f"{self.model}/1",
            Header.SOURCE: source,
        }
        errors = {Header.ERROR_CODE: code, Header.ERROR_REASON: reason, Header.ERROR_STAGE: "decode"}
        kept: dict[str, str | bytes | None] = {**headers}
        named = kept | {str(name): str(text) for name, text in (out | errors).items()}
        self._producer.produce(self.topics.dead_letters, message.value(), message.key(), headers=named)
        said = orjson.dumps({"code": code, "reason": reason})
        self._produce(self._producer, message.key(), said, out)

    def _produce(self, producer: Producer, key: bytes | None, value: bytes, headers: Mapping[Header, str]) -> None:
        named: dict[str, str | bytes | None] = {str(name): str(text) for name, text in headers.items()}
        producer.produce(self.topics.predictions, value, key, headers=named)
