"""A publisher between requests made by hand and a producer whose acknowledgements the test decides."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Message

from pipeline.admit import Admission, Admitted, Duplicates
from pipeline.commit import Ledger, Offsets
from pipeline.core.limits import Limits
from pipeline.infer import Batch, Device, Lane, Run
from pipeline.intake import Chunk
from pipeline.models import Model
from pipeline.observe import BatchTimes, Observer
from pipeline.publish import Publisher, Transactions
from pipeline.publish.producer import OnDelivery
from tests.unit.infer.makers import FakeBackend, model_of
from tests.unit.intake.messages import POLLED_MS, POLLED_NS, TOPIC, chunk_of
from topics.codes import BadRequest
from topics.limits import RequestLimits

__all__ = ["WAIT_S", "Bench", "Clock", "FakeProducer", "Sent", "flow"]

WAIT_S = 20.0  # for what another thread does at once
KEY = (TOPIC, 0)


@dataclass(frozen=True, eq=False)
class Sent:
    """A record as it was produced."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes]]
    on_delivery: OnDelivery

    def header(self, name: str) -> str:
        """The one header of that name."""
        (raw,) = [raw for key, raw in self.headers if key == name]
        return raw.decode()


class FakeProducer:
    """Keeps records until the test has them acknowledged or failed; reports come out of `poll`, as librdkafka's."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.flushed: list[int] = []  # how many had been produced, each time
        self.refuse: Callable[[Sent], Exception | None] = lambda sent: None
        self._reports: deque[tuple[Sent, KafkaError | None, int]] = deque()
        self._changed = threading.Condition()

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        callback: OnDelivery | None,
        on_delivery: None,
        timestamp: int,
        headers: Any,
        /,
    ) -> None:
        # Header values of both kinds go over the wire as bytes.
        wire = [(str(name), raw if isinstance(raw, bytes) else raw.encode()) for name, raw in headers]
        assert callback is not None
        sent = Sent(topic, value, key, wire, callback)
        with self._changed:
            if (error := self.refuse(sent)) is not None:
                raise error
            self.sent.append(sent)
            self._changed.notify_all()

    def poll(self, timeout: float) -> int:
        with self._changed:
            if not self._reports:
                self._changed.wait(timeout)
            reports = [self._reports.popleft() for _ in range(len(self._reports))]
        for sent, error, offset in reports:
            sent.on_delivery(error, Message(topic=sent.topic, value=sent.value, key=sent.key, offset=offset))
        return len(reports)

    def init_transactions(self, timeout: float) -> None: ...
    def begin_transaction(self) -> None: ...
    def send_offsets_to_transaction(self, positions: Any, group_metadata: Any, timeout: float) -> None: ...
    def commit_transaction(self, timeout: float) -> None: ...
    def abort_transaction(self, timeout: float) -> None: ...

    def flush(self, timeout: float) -> int:
        self.flushed.append(len(self.sent))
        self.poll(0)
        return 0

    def report(self, *sent: Sent, code: int | None = None, fatal: bool = False, offset: int = 0) -> None:
        """The broker has these, or will not have them."""
        with self._changed:
            for each in sent:
                self._reports.append((each, None if code is None else KafkaError(code, fatal=fatal), offset))
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[Sent]:
        """What was produced, once it is so many records."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.sent) >= count, WAIT_S), f"{len(self.sent)} of {count}"
            assert len(self.sent) == count
            return list(self.sent)


class Clock:
    """Stands still until told; ``late_ns`` is what was slept since."""

    late_ns = 0

    def __init__(self) -> None:
        self.ns = POLLED_NS + 1_000_000

    def now_ns(self) -> int:
        return self.ns + self.late_ns

    def unix_ms(self) -> float:
        return POLLED_MS + (self.ns - POLLED_NS) / 1e6


class RecordingObserver(Observer):
    """Also keeps what it was told of batches; traces where told so, and counts how often it was asked and for what."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[BatchTimes] = []
        self.traces = False
        self.begun = 0
        self.told = 0

    def begin_trace(self) -> bool:
        self.begun += 1
        return self.traces

    def traced(self, requests: int) -> None:
        self.told += requests

    def batch_acked(self, times: BatchTimes) -> None:
        self.batches.append(times)
        super().batch_acked(times)


class FakeDevice(Device):
    """Keeps the batches given back, and whether they run again."""

    def __init__(self) -> None:
        super().__init__(fail=lambda error: None)
        self.given_back: list[tuple[Batch, bool]] = []

    def give_back(self, lane: Lane, batch: Batch, *, retry: bool = False) -> None:
        self.given_back.append((batch, retry))


class Bench:
    """Everything a publisher needs, for one model and one partition."""

    def __init__(self, model: Model, limits: Limits, answer_once_s: float | None, *, lingers: bool) -> None:
        self.model = model
        self.clock = Clock()
        self.ledger = Ledger()
        self.ledger.assign([KEY])
        self.observer = RecordingObserver()
        self.producer = FakeProducer()
        self.failure: list[BaseException] = []
        self.failed = threading.Event()
        self.device = FakeDevice()
        self.backend = FakeBackend(rows_max=64)
        self.lane = Lane(model, self.backend, lambda lane, batch: None, self.backend.slots(8))
        self.rejected: list[tuple[int, BadRequest]] = []
        self.duplicates = None
        if answer_once_s is not None:
            self.duplicates = Duplicates(answer_once_s, 100, ledger=self.ledger, clock=self.clock)
        self.publisher = Publisher(
            self.producer,
            ledger=self.ledger,
            observer=self.observer,
            limits=limits,
            fail=self._fail,
            duplicates=self.duplicates,
            lingers=lingers,
            clock=self.clock,
        )
        self._admit = Admission(
            model,
            limits,
            RequestLimits(),
            reject=self._reject,
            duplicates=self.duplicates,
            pass_over=partial(self.publisher.pass_over, model),
            clock=self.clock,
        )

    def _fail(self, error: BaseException) -> None:
        self.failure.append(error)
        self.failed.set()

    def _reject(self, chunk: Chunk, bad: Sequence[tuple[int, BadRequest]]) -> None:
        self.rejected += bad
        self.publisher.reject(self.model, "admit", chunk, bad)

    def poll(self, *messages: Message) -> Chunk:
        """Requests come in."""
        key = (TOPIC, messages[0].partition() or 0)
        chunk = chunk_of(messages, epoch=self.ledger.epoch(key) or 0, finish=self.ledger.finish)
        self.ledger.track(chunk)
        self.observer.received(self.model.name, len(chunk))
        return chunk

    def admit(self, *messages: Message) -> list[Admitted]:
        """Requests come in and are decoded; bad ones go to the publisher."""
        return self._admit(self.poll(*messages))

    def batch(self, *admitted: Admitted) -> Batch:
        """All requests of these in one batch that has run; every moment a millisecond after the last."""
        batch = Batch([], [], 0, 0)
        for each in admitted:
            batch.add(Run(each, 0, len(each), 0))
        return self.compute(batch)

    def compute(self, batch: Batch) -> Batch:
        """The batch has run, or failed."""
        now = self.clock.ns
        moments = [now + milli * 1_000_000 for milli in range(1, 5)]
        batch.planned_ns, batch.copied_ns, batch.started_ns, batch.computed_ns = moments
        self.clock.ns = moments[-1] + 1_000_000
        batch.fill(self.lane.free.pop())
        assert batch.slot is not None
        try:
            self.backend.run(batch.slot, batch.rows)
        except type(self.backend.raises) as error:
            batch.error = error  # type: ignore[assignment]  # a BackendError in every test
        return batch

    def publish(self, batch: Batch) -> None:
        self.publisher.publish(self.device, self.lane, batch)

    def answer(self, *messages: Message) -> list[Sent]:
        """The whole way of requests that make one batch, up to their predictions."""
        before = len(self.producer.sent)
        self.publish(self.batch(*self.admit(*messages)))
        return self.producer.wait_for(before + len(messages))[before:]

    def settle(self) -> None:
        """What was handed over is done, and the reports given by now are in."""
        done = threading.Event()
        self.publisher._queue.put(lambda: None)  # reports are read after each piece of work
        self.publisher._queue.put(done.set)
        assert done.wait(WAIT_S), self.failure

    def counts(self) -> tuple[int, int, int, int]:
        """Answered, expired, dead-lettered, in flight."""
        counts = self.observer.counts()[self.model.name]
        return counts.answered, counts.expired, counts.dead_lettered, counts.in_flight

    def transact(self) -> list[Offsets]:
        """Exactly once from here on; returns where the offsets of its transactions are kept."""
        committed: list[Offsets] = []
        self.publisher.transactions = Transactions(
            self.producer,
            self.ledger,
            group_metadata=lambda: b"member",
            committed=committed.append,
            limits=Limits(),
            clock=self.clock,
        )
        return committed

    def drained(self) -> bool:
        """All requests are finished, or will be in a moment."""
        return self.ledger.wait_below(1, 1 << 60, WAIT_S)


@contextmanager
def flow(
    *, limits: Limits | None = None, answer_once_s: float | None = None, lingers: bool = False, **model: Any
) -> Iterator[Bench]:
    """A bench whose publisher runs; nothing may have failed at the end but what the test took out."""
    bench = Bench(model_of(**model), limits or Limits(), answer_once_s, lingers=lingers)
    bench.publisher.start()
    try:
        yield bench
    finally:
        bench.publisher.stop(0.0)
    assert bench.failure == []
