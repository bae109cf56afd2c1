"""What the publisher calls of `confluent_kafka.Producer`: records that arrive later, fail, or are lost with a kill."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from pipeline.publish.producer import OnDelivery
from tests.simulate.broker import Broker, Landed, Source, Transaction
from tests.simulate.consumer import Consumer, membership_of
from tests.simulate.machine import Process
from topics.records import Header

__all__ = ["Producer"]

DELIVERED = Message(topic="delivered", offset=0)  # reports of success look at no more
SUPPOSED = KafkaError(KafkaError._INCONSISTENT)  # not an error to librdkafka, and its report has no offset


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    record: Landed
    on_delivery: OnDelivery


class Producer:
    """Idempotent: in order within a partition. Transactional where its settings say so."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        settings: dict[str, Any],
        *,
        queue_max: int,
        too_large: Callable[[Source, str], str | None],
    ) -> None:
        self.consumer: Consumer | None = None  # of the same worker, by which what it produces is judged
        self._broker = broker
        self._machine = broker.machine
        self._process = process
        self._id: str | None = settings.get("transactional.id")
        self._queue_max = queue_max
        self._too_large = too_large
        self._epoch = 0
        self._transaction: Transaction | None = None
        self._failed: KafkaError | None = None  # the transaction, which can only be aborted
        self._fatal: KafkaError | None = None
        self._queued: dict[int, _Sent] = {}
        self._numbers = 0
        self._alike: defaultdict[tuple[bytes | None, bytes | None], list[Source]] = defaultdict(list)
        self._failed_alike: set[tuple[bytes | None, bytes | None]] = set()
        self._arrives_ns: dict[tuple[str, int], int] = {}
        self._cut: set[tuple[str, int]] = set()  # where a kill has lost a record
        self._reports: deque[tuple[int, KafkaError | None]] = deque()

    # --- records -----------------------------------------------------------------------------------------------------

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
        self._machine.falter()
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        if self._failed is not None:
            raise KafkaException(KafkaError(KafkaError._STATE, "the transaction has failed"))
        if len(self._queued) >= self._queue_max:
            raise BufferError("queue full")
        told = {str(name): value for name, value in headers}
        _, of_partition, offset = str(told[Header.SOURCE]).rsplit("/", 2)
        source = int(of_partition), int(offset)
        assert (self._id is None) == (self._transaction is None), "a record outside of a transaction"
        record = Landed(
            topic, key, value, told, source, str(told[Header.STATUS]), self._process.name, self._transaction
        )
        if self._too_large(source, record.status) == "client":
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        assert self.consumer is not None and self._machine.current is not None
        self._broker.judge.produced(record, self.consumer, self._machine.current.work_began)
        assert callback is not None
        self._alike[key, value].append(source)
        if (key, value) in self._failed_alike:  # of the same flight, it may be: then it is produced again too
            self._broker.judge.undelivered(source)
        self._send(_Sent(record, callback))

    def _send(self, sent: _Sent) -> None:
        self._numbers += 1
        number = self._numbers
        self._queued[number] = sent
        key = sent.record.key
        place = sent.record.topic, int(key) % self._broker.partitions if key else 0
        arrives_ns = self._machine.now_ns + int(self._broker.latency_s() * 1e9)
        self._arrives_ns[place] = arrives_ns = max(arrives_ns, self._arrives_ns.get(place, 0))
        after_s = (arrives_ns - self._machine.now_ns) / 1e9
        self._broker.arrive(partial(self._arrived, number, place), after_s)

    def _arrived(self, number: int, place: tuple[str, int]) -> None:
        sent = self._queued.get(number)
        if sent is None:
            return  # purged with its transaction
        if self._process.dead and (place in self._cut or self._machine.random.random() < 0.5):
            self._cut.add(place)
            return
        self._machine.after(self._broker.latency_s(), self._report, number, self._append(sent.record))

    def _append(self, record: Landed) -> KafkaError | None:
        weather, random = self._broker.weather, self._machine.random
        if self._too_large(record.source, record.status) == "broker":
            return KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
        if weather.delivery_fatal and random.random() < weather.delivery_fatal:
            return KafkaError(KafkaError._FATAL, "out of order", fatal=True)
        if weather.delivery_supposed and random.random() < weather.delivery_supposed:
            return SUPPOSED
        fails = weather.delivery_fails and random.random() < weather.delivery_fails
        if not fails or random.random() < 0.5:
            try:
                self._broker.append(record)
            except KafkaException as error:
                refused: KafkaError = error.args[0]
                return refused
        return KafkaError(KafkaError._MSG_TIMED_OUT) if fails else None

    def _report(self, number: int, error: KafkaError | None) -> None:
        if number in self._queued:  # else purged with its transaction
            if error is not None:
                record = self._queued[number].record
                self._failed_alike.add((record.key, record.value))
                for source in self._alike[record.key, record.value]:  # a report does not tell them apart
                    self._broker.judge.undelivered(source)
                if error is not SUPPOSED:
                    self._note(error if self._id is None or error.fatal() else _abortable(error))
            self._reports.append((number, error))

    def _note(self, error: KafkaError) -> None:
        self._machine.tell("  {} is told {}", self._process.name, error)
        if error.fatal():
            self._fatal = error
        elif error.txn_requires_abort():
            self._failed = error

    def poll(self, timeout: float) -> int:
        if not self._reports and timeout:
            self._machine.sleep(timeout)
        count = 0
        while self._reports:
            number, error = self._reports.popleft()
            if (sent := self._queued.pop(number, None)) is not None:
                record = sent.record
                message = DELIVERED if error is None else Message(record.topic, value=record.value, key=record.key)
                sent.on_delivery(None if error is SUPPOSED else error, message)
                count += 1
        return count

    def flush(self, timeout: float) -> int:
        end_ns = self._machine.now_ns + round(timeout * 1e9)
        while self._queued and self._machine.now_ns < end_ns:
            self.poll(0.002)
        return len(self._queued)

    # --- transactions ------------------------------------------------------------------------------------------------

    def init_transactions(self, timeout: float) -> None:
        assert self._id is not None
        self._epoch = self._ask(partial(self._broker.init, self._id))

    def begin_transaction(self) -> None:
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        assert self._id is not None and self._transaction is None
        self._transaction = Transaction(self._id, self._epoch)

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: bytes, timeout: float
    ) -> None:
        offsets = {p.partition: p.offset for p in positions}
        self._ask(partial(self._broker.add_offsets, self._open(), membership_of(group_metadata), offsets))

    def commit_transaction(self, timeout: float) -> None:
        if self.flush(timeout):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "records are on their way", retriable=True))
        self._ask(partial(self._broker.commit_transaction, self._open()))
        self._transaction = None

    def abort_transaction(self, timeout: float) -> None:
        self.poll(0)
        transaction = self._transaction
        assert transaction is not None
        self._queued.clear()
        self._failed = None
        self._ask(partial(self._broker.abort_transaction, transaction))
        self._transaction = None

    def _open(self) -> Transaction:
        if self._failed is not None:
            raise KafkaException(self._failed)
        assert self._transaction is not None
        return self._transaction

    def _ask(self, apply: Callable[[], Any]) -> Any:
        if self._fatal is not None:
            raise KafkaException(self._fatal)
        try:
            return self._broker.ask(apply, lost=self._broker.weather.answer_lost)
        except KafkaException as error:
            self._note(error.args[0])
            raise


def _abortable(error: KafkaError) -> KafkaError:
    return KafkaError(error.code(), error.str(), txn_requires_abort=True)
