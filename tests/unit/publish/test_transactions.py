"""Transactions with a producer that fails as it is told: what is emitted, when it is committed, what is repeated."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commit import Ledger, Offsets
from pipeline.core.errors import BrokerError
from pipeline.core.limits import Limits
from pipeline.intake import Chunk
from pipeline.publish import transactions as module
from pipeline.publish.transactions import Outcome, Transactions, closed_set
from tests.unit.intake.messages import TOPIC, chunk_of, message
from tests.unit.publish.bench import FakeProducer


class Producer(FakeProducer):
    """Notes its calls; the next ones raise what ``fails`` holds for them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fails: dict[str, list[KafkaError]] = {}
        self.offsets: list[dict[int, int]] = []
        self.in_flight: list[int] = []  # when it is flushed

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if errors := self.fails.get(name):
            raise KafkaException(errors.pop(0))

    def begin_transaction(self) -> None:
        self._call("begin")

    def send_offsets_to_transaction(self, positions: list[TopicPartition], group_metadata: Any, timeout: float) -> None:
        self.offsets.append({each.partition: each.offset for each in positions})
        self._call("offsets")

    def commit_transaction(self, timeout: float) -> None:
        self._call("commit")

    def abort_transaction(self, timeout: float) -> None:
        self._call("abort")

    def flush(self, timeout: float) -> int:
        return self.in_flight.pop(0) if self.in_flight else 0


@dataclass
class Clock:
    ns: int = 0

    def now_ns(self) -> int:
        return self.ns

    def unix_ms(self) -> float:
        return self.ns / 1e6


def tracked(ledger: Ledger, offsets: Sequence[int], partition: int = 0) -> Chunk:
    """A chunk that ``ledger`` has in flight."""
    epoch = ledger.epoch((TOPIC, partition))
    assert epoch is not None
    chunk = chunk_of([message(o, b"v", partition=partition) for o in offsets], epoch=epoch, finish=ledger.finish)
    ledger.track(chunk)
    return chunk


class Case:
    """Transactions over a ledger with partition 0, and what was emitted and settled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "RETRY_DELAY_S", 0)
        self.producer, self.ledger, self.clock = Producer(), Ledger(), Clock()
        self.emitted: list[tuple[int, ...]] = []
        self.settled: list[tuple[int, ...]] = []
        self.told: list[Offsets] = []
        self.transactions = Transactions(
            self.producer,
            self.ledger,
            group_metadata=lambda: "metadata",
            committed=self.told.append,
            limits=Limits(transaction_ms=100),
            clock=self.clock,
        )
        self.ledger.assign([(TOPIC, 0)])

    def chunk(self, offsets: Sequence[int]) -> Chunk:
        return tracked(self.ledger, offsets)

    def add(self, chunk: Chunk, *indices: int) -> None:
        offsets = tuple(chunk.offsets[i] for i in indices)

        def settle() -> None:
            self.settled.append(offsets)
            chunk.finish(list(indices))

        self.transactions.add(Outcome(chunk, list(indices), lambda: self.emitted.append(offsets), settle))


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(monkeypatch)


ABORT = KafkaError(KafkaError.ILLEGAL_GENERATION, "rebalanced", txn_requires_abort=True)


def test_what_has_an_outcome_out_of_order_is_held_until_the_gap_is_closed(case: Case) -> None:
    chunk = case.chunk(range(10, 16))
    case.add(chunk, 2)
    case.add(chunk, 3, 4)
    assert case.emitted == []
    case.add(chunk, 0, 1)
    assert case.emitted == [(10, 11), (12,), (13, 14)]
    case.transactions.turn(idle=True)
    assert case.producer.offsets == [{0: 15}]
    assert case.told == [{(TOPIC, 0): 15}]
    assert case.ledger.in_flight_requests == 1


def test_outcomes_that_interleave_are_emitted_together(case: Case) -> None:
    chunk = case.chunk(range(6))
    case.add(chunk, 0, 2, 4)
    case.add(chunk, 1)
    assert case.emitted == [], "one offset could not cover just offset 1"
    case.add(chunk, 3)
    assert case.emitted == [(0, 2, 4), (1,), (3,)]


def test_it_commits_when_nothing_waits_or_when_the_interval_is_over(case: Case) -> None:
    chunk = case.chunk(range(3))
    case.transactions.turn(idle=True)
    assert case.producer.calls == [], "nothing emitted, no transaction"
    case.add(chunk, 0)
    case.clock.ns += 99_000_000
    case.transactions.turn(idle=False)
    assert case.settled == []
    case.clock.ns += 1_000_000
    case.transactions.turn(idle=False)
    assert case.settled == [(0,)]
    case.add(chunk, 1)
    case.transactions.turn(idle=True)
    assert case.settled == [(0,), (1,)]
    assert case.producer.calls == ["begin", "offsets", "commit"] * 2


@pytest.mark.parametrize("where", ["offsets", "commit"])
def test_what_a_rebalance_aborts_is_published_again(case: Case, where: str) -> None:
    chunk = case.chunk(range(2))
    case.producer.fails[where] = [ABORT]
    case.add(chunk, 0, 1)
    case.transactions.turn(idle=True)
    assert case.emitted == [(0, 1), (0, 1)]
    assert case.settled == [(0, 1)]
    assert case.producer.calls.count("abort") == 1


def test_what_was_lost_is_not_published_again_and_its_neighbours_are(case: Case) -> None:
    lost = case.chunk(range(2))
    case.ledger.assign([(TOPIC, 1)])
    kept = tracked(case.ledger, [7], partition=1)
    case.add(lost, 0, 1)
    case.add(kept, 0)
    case.ledger.release([(TOPIC, 0)])
    case.transactions.turn(idle=True)
    assert case.emitted == [(0, 1), (7,), (7,)]
    assert case.settled == [(7,)]
    assert case.producer.offsets == [{1: 8}]
    assert case.producer.calls[:3] == ["begin", "abort", "begin"]


def test_a_lost_assignment_alone_leaves_nothing_to_commit(case: Case) -> None:
    chunk = case.chunk(range(2))
    case.add(chunk, 0, 1)
    case.ledger.release([(TOPIC, 0)])
    case.transactions.turn(idle=True)
    assert case.producer.calls == ["begin", "abort"]
    assert case.settled == []


def test_a_record_that_is_only_supposed_to_be_delivered_aborts_its_transaction(case: Case) -> None:
    chunk = case.chunk(range(2))
    assert case.transactions.refusal(None, Message(topic="p", offset=7)) is None
    case.add(chunk, 0, 1)
    case.transactions.refusal(None, Message(topic="p"))
    case.transactions.refusal(None, Message(topic="p", offset=8))
    case.transactions.turn(idle=True)
    assert case.producer.calls == ["begin", "offsets", "abort", "begin", "offsets", "commit"]
    assert (case.emitted, case.settled) == ([(0, 1), (0, 1)], [(0, 1)])


def test_records_that_are_not_reported_yet_are_waited_for(case: Case) -> None:
    chunk = case.chunk(range(1))
    case.producer.in_flight = [3, 2, 0]
    case.add(chunk, 0)
    case.transactions.turn(idle=True)
    assert case.producer.calls == ["begin", "offsets", "commit"]
    assert case.producer.in_flight == []


def test_a_time_out_is_asked_again_and_the_same_transaction_commits(case: Case) -> None:
    chunk = case.chunk(range(1))
    case.producer.fails["commit"] = [KafkaError(KafkaError._TIMED_OUT, "slow", retriable=True)] * 2
    case.add(chunk, 0)
    case.transactions.turn(idle=True)
    assert (case.emitted, case.settled) == ([(0,)], [(0,)])
    assert case.producer.calls == ["begin", "offsets", "commit", "commit", "commit"]


def test_a_fenced_producer_ends_the_worker(case: Case) -> None:
    chunk = case.chunk(range(1))
    case.producer.fails["offsets"] = [KafkaError(KafkaError._FENCED, "fenced", fatal=True)]
    case.add(chunk, 0)
    with pytest.raises(BrokerError, match="fenced"):
        case.transactions.turn(idle=True)
    assert case.settled == []


def test_an_outcome_that_stays_unknown_ends_the_worker(case: Case) -> None:
    chunk = case.chunk(range(1))
    case.producer.fails["commit"] = [KafkaError(KafkaError._TIMED_OUT, "slow", retriable=True)] * 99
    case.add(chunk, 0)
    with pytest.raises(BrokerError, match="unknown"):
        case.transactions.turn(idle=True)


@given(st.data())
def test_what_is_emitted_is_always_everything_up_to_one_offset(data: st.DataObject) -> None:
    """Outcomes of any shape in any order: what is emitted is a prefix of the offsets, nothing stays held."""
    count = data.draw(st.integers(1, 30))
    owner = [data.draw(st.integers(0, 6)) for _ in range(count)]
    ledger = Ledger()
    ledger.assign([(TOPIC, 0)])
    chunk = tracked(ledger, [3 * i for i in range(count)])
    outcomes = [
        Outcome(chunk, [i for i in range(count) if owner[i] == o], lambda: None, lambda: None) for o in set(owner)
    ]
    random.Random(data.draw(st.integers())).shuffle(outcomes)
    held: list[Outcome] = []
    emitted: set[int] = set()
    for outcome in outcomes:
        prefix = ledger.arrive(chunk, outcome.indices)
        assert prefix is not None
        ready, held = closed_set([*held, outcome], prefix)
        emitted |= {index for each in ready for index in each.indices}
        assert emitted == set(range(len(emitted))), "a hole, or more than one offset covers"
    assert not held
    assert len(emitted) == count
