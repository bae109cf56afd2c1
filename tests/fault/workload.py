"""Numbered requests whose answers are known, and a client that keeps what the broker acknowledged of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from confluent_kafka import KafkaError, Message, Producer

import pipeline.load
from pipeline.local.kafka import quiet
from tests.contract.test_flow import in_small_batches, renamed
from tests.fault.verify import Sent
from topics.errors import undelivered
from topics.records import RAW

__all__ = ["Client", "Workload", "linear", "one_by_one", "slow"]

TICK_S = 0.01
KEYS = 500
LINEAR = Path(pipeline.load.__file__).parent / "models" / "linear" / "1"

Made = tuple[bytes | None, bytes | None, list[tuple[str, str | bytes | None]]]
"""Key, value and headers."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A model under a name of its own, its request of each number, and whether an answer to it is right."""

    models: Path
    name: str
    make: Callable[[int], Made]
    right: Callable[[str, bytes | None], bool]


def linear(folder: Path, name: str) -> Workload:
    """The smallest model: 50 numbers in, one out; a thousand different requests, told apart by their answers."""
    models, _ = renamed(LINEAR, folder, name)
    rows = np.random.default_rng(1).random((1000, 50), np.float32)
    values = [row.tobytes() for row in rows]
    scores = _scores(rows)

    def right(request_id: str, value: bytes | None) -> bool:
        score = np.frombuffer(value or b"\x00" * 4, "<f4")[0]
        return bool(abs(score - scores[int(request_id) % len(scores)]) < 1e-6)  # apart by the shape of its batch

    return Workload(models, name, lambda number: made(number, values[number % len(values)]), right)


def slow(folder: Path, name: str) -> Workload:
    """The same in small batches, so that a worker can be caught in the midst of them."""
    workload = linear(folder, name)
    in_small_batches(workload.models, name)
    return workload


def one_by_one(folder: Path, name: str) -> Workload:
    """The same without batches."""
    workload = linear(folder, name)
    in_small_batches(workload.models, name, [1])
    return workload


def made(number: int, value: bytes | None) -> Made:
    """Request ``number``: raw tensors, an id, one of `KEYS` keys."""
    return str(number % KEYS).encode(), value, [("content-type", RAW), ("request-id", str(number))]


def _scores(rows: np.ndarray) -> np.ndarray:
    """What the model answers, asked without Sluice."""
    import onnxruntime

    found: np.ndarray = onnxruntime.InferenceSession(str(LINEAR / "linear.onnx")).run(None, {"features": rows})[0]
    return found.reshape(-1)


class Client:
    """Sends a workload's requests, all at once or at a rate; what it is told of them is in ``sent`` and ``unsure``."""

    def __init__(
        self,
        broker: str,
        topic: str,
        make: Callable[[int], Made],
        *,
        settings: Mapping[str, str | int | bool] = MappingProxyType({}),
    ) -> None:
        self.sent: list[Sent] = []
        self.unsure: set[str] = set()
        self._topic = topic
        self.make = make
        self._number = 0
        self._producer = Producer({**quiet(broker), "enable.idempotence": True, "linger.ms": 2, **settings})

    def send(self, count: int, *, make: Callable[[int], Made] | None = None, timestamp_ms: int = 0) -> None:
        """Send so many; returns when the broker has acknowledged all."""
        for _ in range(count):
            self._produce(make or self.make, timestamp_ms)
        assert self._producer.flush(60) == 0

    def begin_transactions(self) -> None:
        """For a client with a ``transactional.id``; once."""
        self._producer.init_transactions(30)

    def transaction(self, count: int, *, rolled_back: bool) -> None:
        """Send so many in a transaction of their own; one that is rolled back sends none, but its offsets are gone."""
        before = len(self.sent)
        self._producer.begin_transaction()
        self.send(count)
        if rolled_back:
            self._producer.abort_transaction(30)
            del self.sent[before:]
        else:
            self._producer.commit_transaction(30)

    @contextmanager
    def steadily(self, rate_per_s: float) -> Iterator[None]:
        """Send at a rate from a thread of its own, open loop; leaving waits until all is acknowledged."""
        stop, failed = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                started_s, count = time.monotonic(), 0
                while not stop.wait(TICK_S):
                    due = int((time.monotonic() - started_s) * rate_per_s)
                    for _ in range(count, due):
                        self._produce(self.make, 0)
                    count = due
                    self._producer.poll(0)
            except BaseException as error:
                failed.append(error)
                raise

        thread = threading.Thread(target=run, name="client", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not failed, failed
        assert self._producer.flush(120) == 0

    def _produce(self, make: Callable[[int], Made], timestamp_ms: int) -> None:
        number, self._number = self._number, self._number + 1
        key, value, headers = make(number)
        report = partial(self._delivered, str(number), key)
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, headers=headers, on_delivery=report, timestamp=timestamp_ms
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _delivered(self, request_id: str, key: bytes | None, error: KafkaError | None, message: Message) -> None:
        if undelivered(error, message) is not None:
            self.unsure.add(request_id)
            return
        partition, offset = message.partition(), message.offset()
        assert partition is not None and offset is not None
        self.sent.append(Sent(request_id, key, partition, offset, message.timestamp()[1]))
