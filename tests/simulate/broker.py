"""A broker of virtual time: request partitions with holes, terminal records, transactions, and a group of consumers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message

from tests.simulate.group import Group, Membership
from tests.simulate.machine import Machine

if TYPE_CHECKING:
    from tests.simulate.consumer import Consumer

__all__ = ["Broker", "Judge", "Landed", "Source", "Transaction", "Weather"]

T = TypeVar("T")
Source = tuple[int, int]
"""Partition and offset of a request."""

LATENCY_S_MAX = 0.004


@dataclass(slots=True)
class Weather:
    """How often what goes wrong; `clear` ends it all."""

    commit_fails: float = 0.0  # of a consumer's commit, done or not
    delivery_fails: float = 0.0  # of a record, appended or not
    delivery_fatal: float = 0.0
    delivery_supposed: float = 0.0  # of a record that was not appended, by the acknowledgement of a later one
    answer_lost: float = 0.0  # of a transaction's call, done or not
    aborts: float = 0.0  # a transaction's call is refused, for reasons of the broker
    batch_fails: float = 0.0  # of a batch on the device
    slow: float = 0.0  # an answer takes a hundred times as long

    def clear(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0.0)


@dataclass(slots=True, eq=False)
class Landed:
    """A terminal record in its topic."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, str | bytes | None]
    source: Source
    status: str
    worker: str
    transaction: Transaction | None


@dataclass(slots=True, eq=False)
class Transaction:
    """One transaction; its records are seen and its offsets hold only once it is committed."""

    id: str
    epoch: int
    records: list[Landed] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    state: str = "new"


class Judge(Protocol):
    """Is told of what happens; raises where an invariant is broken."""

    def polled(self, source: Source) -> None: ...
    def produced(self, record: Landed, consumer: Consumer, work_began: int) -> None: ...
    def undelivered(self, source: Source) -> None: ...
    def appended(self, record: Landed) -> None: ...
    def accepted(self, membership: Membership, offsets: Mapping[int, int]) -> None: ...
    def committed(self, offsets: Mapping[int, int], worker: str) -> None: ...
    def transacted(self, transaction: Transaction) -> None: ...


class Broker:
    """What clients call arrives some time later, is answered some time after that, and waits while it is paused."""

    def __init__(
        self, machine: Machine, weather: Weather, judge: Judge, *, partitions: int, transaction_timeout_s: float
    ) -> None:
        self.machine = machine
        self.weather = weather
        self.judge = judge
        self.partitions = partitions
        self.group = Group(machine, partitions)
        self.requests: list[list[Message]] = [[] for _ in range(partitions)]
        self.offsets: list[list[int]] = [[] for _ in range(partitions)]
        self.paused_until_ns = 0
        self._waiting: list[Callable[[], None]] = []  # for the end of the pause
        self.on_append: dict[str, Callable[[], None]] = {}  # by consumer: something to fetch
        self.ended = {"committed": 0, "aborted": 0}  # transactions
        self._epochs: dict[str, int] = {}  # by transactional id
        self._open: dict[str, Transaction] = {}
        self._timeout_s = transaction_timeout_s

    # --- requests ----------------------------------------------------------------------------------------------------

    def append_request(self, partition: int, message: Message) -> None:
        offset = message.offset()
        assert offset is not None
        self.requests[partition].append(message)
        self.offsets[partition].append(offset)
        for call in self.on_append.values():
            call()

    def fetch(self, partition: int, position: int, count: int) -> list[Message]:
        if self.machine.now_ns < self.paused_until_ns:
            return []
        first = bisect_left(self.offsets[partition], position)
        return self.requests[partition][first : first + count]

    # --- calls -------------------------------------------------------------------------------------------------------

    def latency_s(self) -> float:
        random = self.machine.random
        slow = self.weather.slow and random.random() < self.weather.slow
        return random.random() * LATENCY_S_MAX * (100 if slow else 1)

    def arrive(self, call: Callable[[], None], after_s: float) -> None:
        """It reaches the broker then, or once it is no longer paused."""

        def arrived() -> None:
            if not self._waiting and self.paused_until_ns <= self.machine.now_ns:
                call()
                return
            self._waiting.append(call)
            if len(self._waiting) == 1:
                self.machine.at(self.paused_until_ns, self._go_on)

        self.machine.after(after_s, arrived)

    def _go_on(self) -> None:
        """What waits is done in the order it came, once the last of its pauses is over."""
        if self.paused_until_ns > self.machine.now_ns:
            self.machine.at(self.paused_until_ns, self._go_on)
            return
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def ask(self, apply: Callable[[], T], lost: float = 0.0) -> T:
        """A call of the current thread, which waits for the answer. With a chance ``lost`` none comes."""
        machine, thread = self.machine, self.machine.current
        assert thread is not None
        answers: list[tuple[T | None, KafkaException | None]] = []
        done = False

        def call() -> None:
            try:
                answers.append((apply(), None))
            except KafkaException as error:
                answers.append((None, error))
            machine.after(self.latency_s(), answered)

        def answered() -> None:
            nonlocal done
            done = True
            machine.wake(thread)

        if lost and machine.random.random() < lost:
            if machine.random.random() < 0.5:
                self.arrive(call, self.latency_s())
            machine.sleep(0.2)
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer", retriable=True))
        self.arrive(call, self.latency_s())
        while not done:
            machine.park()
        result, error = answers[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    # --- records -----------------------------------------------------------------------------------------------------

    def append(self, record: Landed) -> None:
        if (transaction := record.transaction) is not None:
            self._join(transaction)
            transaction.records.append(record)
        self.machine.tell("  {} of {} in {} by {}", record.status, record.source, record.topic, record.worker)
        self.judge.appended(record)

    def commit(self, membership: Membership, offsets: Mapping[int, int], worker: str) -> None:
        """A consumer's commit."""
        self.group.check(membership, transactional=False)
        self.judge.accepted(membership, offsets)
        self.judge.committed(offsets, worker)
        self.group.commit(offsets)
        self.machine.tell("  {} commits {}", worker, offsets)

    # --- transactions ------------------------------------------------------------------------------------------------

    def init(self, transactional_id: str) -> int:
        """A new producer of this id: the one before is fenced, its transaction aborted."""
        if (transaction := self._open.get(transactional_id)) is not None:
            self._end(transaction, "aborted")
        epoch = self._epochs[transactional_id] = self._epochs.get(transactional_id, 0) + 1
        return epoch

    def _join(self, transaction: Transaction) -> None:
        """With its first record or offset it is open; aborted where it is not over in time."""
        if transaction.epoch != self._epochs[transaction.id]:
            raise KafkaException(KafkaError(KafkaError._FENCED, "a newer producer is there", fatal=True))
        if transaction.state == "new":
            transaction.state = "open"
            self._open[transaction.id] = transaction
            self.machine.after(self._timeout_s, self._time_out, transaction)
        elif transaction.state != "open":
            raise KafkaException(KafkaError(KafkaError.INVALID_TXN_STATE, "it is over", fatal=True))

    def add_offsets(self, transaction: Transaction, membership: Membership, offsets: Mapping[int, int]) -> None:
        self._join(transaction)
        self._refuse()
        self.group.check(membership, transactional=True)
        self.judge.accepted(membership, offsets)
        for partition in offsets.keys() - transaction.offsets.keys():
            self.group.pending[partition] += 1
        transaction.offsets.update(offsets)
        self.machine.tell("  {} adds offsets {} as {}", transaction.id, offsets, membership)

    def commit_transaction(self, transaction: Transaction) -> None:
        if transaction.state == "committed":
            return  # asked again, since the answer was lost
        self._join(transaction)
        self._refuse()
        self.judge.transacted(transaction)
        self._end(transaction, "committed")
        self.group.commit(transaction.offsets)

    def abort_transaction(self, transaction: Transaction) -> None:
        if transaction.state != "aborted":
            self._join(transaction)
            self._end(transaction, "aborted")

    def _refuse(self) -> None:
        if self.weather.aborts and self.machine.random.random() < self.weather.aborts:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_PRODUCER_ID, "refused", txn_requires_abort=True))

    def _time_out(self, transaction: Transaction) -> None:
        if transaction.state == "open":
            self._epochs[transaction.id] += 1
            self._end(transaction, "aborted")

    def _end(self, transaction: Transaction, state: str) -> None:
        transaction.state = state
        self.ended[state] += 1
        self.machine.tell("  {} has a transaction {}: {} records", transaction.id, state, len(transaction.records))
        del self._open[transaction.id]
        for partition in transaction.offsets:
            self.group.pending[partition] -= 1
