"""What becomes of requests whose assignment is lost while others of their batch are on, or whose worker ends."""

from __future__ import annotations

import threading
from functools import partial

import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.core.errors import DeviceLostError
from tests.unit.intake.messages import TOPIC
from tests.unit.publish.bench import KEY, WAIT_S, flow
from tests.unit.publish.test_predictions import release, request
from topics.codes import BadRequest, Code

OTHER = (TOPIC, 1)
ABORT = KafkaError(KafkaError.ILLEGAL_GENERATION, "rebalanced", txn_requires_abort=True)


def test_what_is_acknowledged_after_the_assignment_was_lost_is_not_timed() -> None:
    with flow() as bench:
        (sent,) = bench.answer(request(0))
        release(bench)
        bench.observer.forget(*KEY)  # as the intake has it told
        bench.producer.report(sent)
        bench.settle()
        bench.clock.ns += 3600 * 10**9  # somebody else's for an hour
        bench.ledger.assign([KEY])
        bench.observer.committed({KEY: 9})
        total = bench.observer.snapshot().total
        assert (total.counts.answered, total.end_to_end.count) == (0, 0), total.end_to_end


def test_a_batch_whose_one_partition_is_lost_before_the_commit_still_tells_of_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with flow() as bench:
        bench.ledger.assign([OTHER])
        committed = bench.transact()
        (ours,) = bench.admit(request(0))
        (theirs,) = bench.admit(request(0, partition=1))

        def lose(*arguments: object) -> None:
            if bench.ledger.epoch(OTHER) is not None:
                bench.observer.released("m", sum(bench.ledger.release([OTHER]).values()))
                raise KafkaException(ABORT)

        monkeypatch.setattr(bench.producer, "send_offsets_to_transaction", lose)
        bench.publish(bench.batch(theirs, ours))
        assert bench.drained()
        bench.settle()
        assert bench.counts() == (1, 0, 0, 0)
        assert committed == [{KEY: 1}]
        (times,) = bench.observer.batches
        assert [part.partition for part in times.parts] == [0]


def test_outcomes_that_are_held_are_let_go_with_their_assignment() -> None:
    with flow() as bench:
        bench.transact()
        bench.ledger.assign([OTHER])
        chunk = bench.poll(request(0), request(1))
        bench.publisher.reject(bench.model, "admit", chunk, [(1, BadRequest(Code.MALFORMED, "held behind 0"))])
        bench.settle()
        release(bench)
        bench.publisher.pass_over(bench.model, bench.poll(request(0, partition=1)), [0])
        bench.settle()
        transactions = bench.publisher.transactions
        assert transactions is not None and not any(transactions._held.values())


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_that_ends_leaves_no_transaction_open(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold read-committed consumers up until it times out."""
    calls: list[str] = []
    with flow() as bench:
        bench.transact()
        monkeypatch.setattr(bench.producer, "begin_transaction", lambda: calls.append("begin"))
        monkeypatch.setattr(bench.producer, "abort_transaction", lambda timeout: calls.append("abort"))
        batch, other = (bench.batch(*bench.admit(request(at))) for at in range(2))
        other.error = DeviceLostError("the device is lost") if fails else None
        both = threading.Event()
        bench.publisher._queue.put(partial(_wait, both))
        bench.publish(batch)
        if fails:
            bench.publish(other)
        bench.publisher._queue.put(None)
        both.set()
        bench.publisher.thread.join(WAIT_S)
        bench.failure.clear()
        assert calls == ["begin", "abort"]


def test_a_partition_that_was_drained_and_given_away_is_not_timed_by_what_its_next_assignment_commits() -> None:
    """A batch of two partitions is told of with its last acknowledgement: one may be gone by then, cleanly."""
    with flow() as bench:
        bench.ledger.assign([OTHER])
        (ours,) = bench.admit(request(0))
        (theirs,) = bench.admit(request(0, partition=1))
        bench.publish(bench.batch(ours, theirs))
        first, second = bench.producer.wait_for(2)
        bench.producer.report(first)
        bench.settle()
        assert bench.ledger.committable([KEY]) == {KEY: 1}, "drained"
        bench.observer.committed({KEY: 1})
        release(bench)
        bench.observer.forget(*KEY)
        bench.producer.report(second)
        assert bench.drained()
        bench.settle()
        bench.ledger.assign([KEY])  # an hour later
        bench.observer.committed({KEY: 9})
        total = bench.observer.snapshot().total
        assert (total.counts.answered, total.end_to_end.count) == (2, 0)


def _wait(event: threading.Event) -> None:
    assert event.wait(WAIT_S)
