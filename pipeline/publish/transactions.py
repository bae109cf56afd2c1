"""Exactly once: outcomes and the offsets of their requests in one transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from pipeline.commit import Ledger, Offsets, TopicPartitionKey
from pipeline.core.clock import Clock
from pipeline.core.errors import BrokerError
from pipeline.core.limits import Limits
from pipeline.intake import Chunk
from pipeline.publish.producer import ProducerLike, is_too_large
from topics.errors import UNPROVEN, undelivered

__all__ = ["Outcome", "Transactions"]

log = logging.getLogger(__name__)

# librdkafka's own limit for one call; the transaction itself lives `transaction.timeout.ms`.
CALL_S = 10.0
OVERDUE_S = 3 * CALL_S  # librdkafka (2.16) may wait for a broker that is no longer of the cluster, for ever
RETRY_DELAY_S = 0.1  # after an abort: by then a poll has read the group's metadata anew
TRIES_MAX = 6  # of one transaction: aborted by a rebalance, a broker that moves; more is not a passing fault


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Terminal records of requests of one chunk, which are published together.

    ``emit`` produces them, again after an abort; ``settle`` is called once they are committed.
    """

    chunk: Chunk
    indices: Sequence[int]  # ascending
    emit: Callable[[], None]
    settle: Callable[[], None]
    doubts: Callable[[], int] = lambda: 0  # how many of its records are known to be too large, or suspected
    lost: Callable[[], None] = lambda: None  # called instead of ``settle`` where its assignment was lost

    @property
    def key(self) -> TopicPartitionKey:
        return self.chunk.topic, self.chunk.partition

    @property
    def first(self) -> int:
        return self.chunk.offsets[self.indices[0]]

    @property
    def last(self) -> int:
        return self.chunk.offsets[self.indices[-1]]


class Transactions:
    """Publishes outcomes in transactions, so that a read-committed consumer sees each exactly once.

    The offsets of a transaction must cover just the requests whose records are in it. So outcomes are held until
    all requests of their partition up to theirs have one, and are emitted in closed sets (KIP-98, KIP-447). The
    group's metadata is read before the epochs are checked: a rebalance in between makes the broker refuse the
    offsets. What was aborted is emitted again, without what was lost; a transaction whose outcome stays unknown
    ends the worker, and with it the producer. Completion thread only.
    """

    def __init__(
        self,
        producer: ProducerLike,
        ledger: Ledger,
        *,
        group_metadata: Callable[[], Any],
        committed: Callable[[Offsets], None],
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._producer = producer
        self._ledger = ledger
        self._group_metadata = group_metadata
        self._committed = committed
        self._interval_ns = limits.transaction_ms * 1_000_000
        self._clock = clock
        self._held: dict[TopicPartitionKey, list[Outcome]] = {}
        self._emitted: list[Outcome] = []
        self._begun_ns: int | None = None
        self._broken = False  # it can only be aborted
        self._unproven = False  # one of its records may not have arrived, which librdkafka does not know
        self._called_s: float | None = None  # while librdkafka has the thread

    def start(self) -> None:
        """Fence whoever had this transactional id before; raises `BrokerError`."""
        try:
            self._producer.init_transactions(3 * CALL_S)
        except KafkaException as error:
            raise BrokerError(f"cannot start transactions: {error.args[0].str()}") from error

    def overdue(self) -> bool:
        """Whether a call has not returned long after its time-out. Any thread."""
        called_s = self._called_s
        return called_s is not None and time.monotonic() - called_s > OVERDUE_S

    def add(self, outcome: Outcome) -> None:
        """Requests have an outcome: emit what can be, hold the rest."""
        prefix = self._ledger.arrive(outcome.chunk, _span(outcome.indices))
        if prefix is None:
            outcome.lost()
            return
        self._let_go()
        ready, self._held[outcome.key] = closed_set([*self._held.get(outcome.key, ()), outcome], prefix)
        for each in ready:
            self._emit(each)

    def refusal(self, error: KafkaError | None, message: Message) -> KafkaError | None:
        """A record's delivery report; its error where the broker will never take it, for its size."""
        if error is None:  # else the transaction has failed, as librdkafka knows
            self._unproven = self._unproven or undelivered(error, message) is not None
            return None
        return error if is_too_large(error) else None

    def turn(self, *, idle: bool) -> None:
        """Commit what is emitted when nothing waits, or when the transaction is as old as it may be."""
        self._let_go()
        if self._begun_ns is not None and (
            idle or self._broken or self._clock.now_ns() - self._begun_ns >= self._interval_ns
        ):
            self._commit()

    def _let_go(self) -> None:
        """What is held of assignments that were lost waits for nothing any more."""
        for key, held in self._held.items():
            if held and not self._ledger.is_current(held[0].chunk):
                self._held[key] = []
                for outcome in held:
                    outcome.lost()

    def _emit(self, outcome: Outcome) -> None:
        if not self._ledger.is_current(outcome.chunk):
            outcome.lost()
            return
        if self._begun_ns is None:
            self._producer.begin_transaction()
            self._begun_ns = self._clock.now_ns()
        self._emitted.append(outcome)
        try:
            outcome.emit()
        except KafkaException as error:  # an earlier record has failed the transaction already
            log.warning("the transaction takes no more records: %s", error.args[0].str())
            self._broken = True

    def _commit(self) -> None:
        tries, doubts = 0, self._doubts()
        while tries < TRIES_MAX:
            metadata = self._group_metadata()
            if not self._broken and all(self._ledger.is_current(outcome.chunk) for outcome in self._emitted):
                offsets = self._offsets()
                failed = self._try(offsets, metadata)
                if failed is None:
                    self._settle(offsets)
                    return
                log.warning("transaction aborted, its records are published again: %s", failed.str())
            self._again()
            if self._begun_ns is None:
                return  # nothing left of it: all of it was lost
            if doubts == (doubts := self._doubts()):  # else it found a record too large: one fewer to fail the next
                tries += 1
            time.sleep(RETRY_DELAY_S)
        raise BrokerError(f"a transaction was aborted {TRIES_MAX} times")

    def _try(self, offsets: Offsets, metadata: Any) -> KafkaError | None:
        """Commit; None where it is, the error where it has to be aborted. Raises `BrokerError` for anything else."""
        positions = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        for call in (
            lambda: self._producer.send_offsets_to_transaction(positions, metadata, CALL_S),
            self._land,
            lambda: self._producer.commit_transaction(CALL_S),
        ):
            if (error := self._call(call)) is not None:
                return error
        return None

    def _land(self) -> None:
        """Wait until all records are reported. Raises `KafkaException` where they are not, or one is without proof."""
        if self._producer.flush(CALL_S):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "records wait for the broker", retriable=True))
        if self._unproven:
            raise KafkaException(KafkaError(KafkaError._INCONSISTENT, UNPROVEN.str(), txn_requires_abort=True))

    def _call(self, call: Callable[[], None]) -> KafkaError | None:
        for _ in range(TRIES_MAX):
            self._called_s = time.monotonic()
            try:
                call()
            except KafkaException as raised:
                error: KafkaError = raised.args[0]
                if error.txn_requires_abort():
                    return error
                if not error.retriable():
                    raise BrokerError(
                        f"the transaction cannot go on, its outcome is unknown: {error.str()}"
                    ) from raised
            else:
                return None
            finally:
                self._called_s = None
        raise BrokerError("the transaction's outcome stays unknown: the broker does not answer")

    def give_up(self) -> None:
        """Nothing is emitted any more: what is open would hold read-committed consumers up until it times out."""
        if self._begun_ns is None:
            return
        self._begun_ns, self._called_s = None, time.monotonic()
        try:
            self._producer.abort_transaction(CALL_S)
        except KafkaException as error:
            log.warning("a transaction is left open until it times out: %s", error.args[0].str())
        finally:
            self._called_s = None

    def _doubts(self) -> int:
        return sum(outcome.doubts() for outcome in self._emitted)

    def _again(self) -> None:
        """Abort, and emit anew what is still ours."""
        if error := self._call(lambda: self._producer.abort_transaction(CALL_S)):
            raise BrokerError(f"the transaction cannot be aborted: {error.str()}")
        emitted, self._emitted, self._begun_ns = self._emitted, [], None
        self._broken = self._unproven = False
        for outcome in emitted:
            self._emit(outcome)

    def _offsets(self) -> Offsets:
        offsets: Offsets = {}
        for outcome in self._emitted:
            offsets[outcome.key] = max(offsets.get(outcome.key, 0), outcome.last + 1)
        return offsets

    def _settle(self, offsets: Offsets) -> None:
        emitted, self._emitted, self._begun_ns = self._emitted, [], None
        for outcome in emitted:
            outcome.settle()
        self._committed(offsets)


def closed_set(held: Sequence[Outcome], prefix: int) -> tuple[list[Outcome], list[Outcome]]:
    """Split into what can be emitted and what is held on.

    The first part ends below ``prefix`` (all offsets below it have an outcome) and no outcome of the second begins
    within it, so that one offset covers exactly its requests.
    """
    ordered = sorted(held, key=lambda outcome: outcome.first)
    cut, top = 0, -1
    for number, outcome in enumerate(ordered):
        if top < outcome.first:
            cut = number
        top = max(top, outcome.last)
        if top >= prefix:
            return ordered[:cut], ordered[cut:]
    return ordered, []


def _span(indices: Sequence[int]) -> slice | Sequence[int]:
    return slice(indices.start, indices.stop) if isinstance(indices, range) else indices
