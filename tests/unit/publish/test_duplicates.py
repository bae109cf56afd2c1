"""Duplicates are finished without an outcome of their own, in the order of their offsets; what fails is asked again."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.core.errors import BackendError
from tests.unit.infer.makers import column_of
from tests.unit.intake.messages import POLLED_MS, message
from tests.unit.publish.bench import KEY, Bench, Sent, flow
from tests.unit.publish.test_predictions import RAW_HEADERS, raw, release, request
from topics.records import Status

WINDOW_S = 60.0


def named(offset: int, name: str = "a", row: float = 1.0, *, deadline_in_ms: int | None = None) -> Message:
    headers = [*RAW_HEADERS, ("request-id", name.encode())]
    if deadline_in_ms is not None:
        headers.append(("deadline-ms", str(POLLED_MS + deadline_in_ms).encode()))
    return request(offset, row, headers=headers)


def duplicate(bench: Bench) -> int:
    return bench.observer.counts()[bench.model.name].duplicate


def test_admission_leaves_duplicates_out_beside_requests_of_every_kind() -> None:
    """I7: neighbours keep their headers, rows and deadlines."""
    with flow(answer_once_s=WINDOW_S) as bench:
        chunk = [named(0), named(1, row=2.0), named(2), request(3, 4.0), named(4, "b", deadline_in_ms=50), named(5)]
        (admitted,) = bench.admit(*chunk)
        assert list(admitted.indices) == [0, 1, 3, 4]
        assert column_of(admitted)[:, 0].tolist() == [1.0, 2.0, 4.0, 1.0]
        assert [admitted.headers[at].request_id for at in range(4)] == ["a", "a", None, "b"]
        assert admitted.deadlines_ms is not None and admitted.deadlines_ms[3] == POLLED_MS + 50
        assert bench.admit(named(6), named(7)) == []
        bench.settle()
        assert duplicate(bench) == 4 and bench.counts() == (0, 0, 0, 4)


def test_without_the_option_each_is_answered() -> None:
    with flow() as bench:
        bench.producer.report(*bench.answer(named(0), named(1)))
        assert bench.drained()


def test_a_duplicate_is_finished_at_once_and_not_committed_before_what_comes_first() -> None:
    """I2, I6."""
    with flow(answer_once_s=WINDOW_S) as bench:
        bench.publish(bench.batch(*bench.admit(named(0), named(1))))
        (sent,) = bench.producer.wait_for(1)
        bench.settle()
        assert bench.ledger.committable() == {} and bench.ledger.in_flight_requests == 1
        bench.producer.report(sent)
        assert bench.drained()
        bench.settle()
        assert bench.ledger.committable() == {KEY: 2}
        assert bench.counts() == (1, 0, 0, 0) and duplicate(bench) == 1


def test_in_a_transaction_its_offset_waits_for_those_before_it() -> None:
    with flow(answer_once_s=WINDOW_S) as bench:
        committed = bench.transact()
        batch = bench.batch(*bench.admit(named(0), named(1), request(2, 2.0)))
        bench.settle()
        assert committed == [] and bench.ledger.in_flight_requests == 3
        bench.publish(batch)
        assert bench.drained()
        assert bench.admit(named(3)) == []
        assert bench.drained()
        bench.settle()
        assert [sent.value for sent in bench.producer.sent] == [raw(2.0), raw(4.0)]
        assert committed == [{KEY: 3}, {KEY: 4}], "the last has no record at all"
        assert bench.counts() == (2, 0, 0, 0) and duplicate(bench) == 2


@pytest.mark.parametrize("exactly_once", [False, True])
def test_nothing_is_finished_for_an_assignment_that_was_lost(exactly_once: bool) -> None:
    with flow(answer_once_s=WINDOW_S) as bench:
        if exactly_once:
            bench.transact()
        chunk = bench.poll(named(0))
        release(bench)
        bench.publisher.pass_over(bench.model, chunk, [0])
        bench.settle()
        assert duplicate(bench) == 0 and bench.counts() == (0, 0, 0, 0)


def asked_again(bench: Bench) -> bool:
    """Whether the request is admitted when it is sent once more."""
    return len(bench.admit(named(50))) == 1


def test_one_that_is_bad_is_rejected_each_time() -> None:
    with flow(answer_once_s=WINDOW_S) as bench:
        for offset in range(2):
            assert bench.admit(message(offset, b"seven b", headers=[*RAW_HEADERS, ("request-id", b"a")])) == []
        bench.settle()
        assert len(bench.rejected) == 2 and duplicate(bench) == 0


def test_one_that_expires_is_answered_when_it_is_sent_again() -> None:
    with flow(answer_once_s=WINDOW_S) as bench:
        (admitted,) = bench.admit(request(0), named(1, deadline_in_ms=5), named(2, "b", deadline_in_ms=5))
        bench.publisher.expire(bench.model, [(admitted, [1])])
        bench.settle()
        assert len(bench.admit(named(3, deadline_in_ms=5))) == 1
        assert bench.admit(named(4, "b", deadline_in_ms=5)) == []


def test_one_that_the_model_fails_on_is_answered_when_it_is_sent_again() -> None:
    with flow(answer_once_s=WINDOW_S, answer_rejected=False) as bench:
        batch = bench.batch(*bench.admit(named(0)))
        batch.blamed = BackendError("no")
        bench.publish(batch)
        (letter,) = bench.producer.wait_for(1)
        assert letter.header("status") == Status.REJECTED
        assert asked_again(bench)


@pytest.mark.parametrize("exactly_once", [False, True])
def test_one_whose_prediction_is_too_large_is_answered_when_it_is_sent_again(exactly_once: bool) -> None:
    def refuse(sent: Sent) -> Exception | None:
        return KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)) if sent.topic == "m.predictions" else None

    with flow(answer_once_s=WINDOW_S, answer_rejected=False) as bench:
        if exactly_once:
            bench.transact()
        bench.producer.refuse = refuse
        bench.publish(bench.batch(*bench.admit(named(0))))
        (letter,) = bench.producer.wait_for(1)
        bench.producer.report(letter)
        assert bench.drained()
        assert asked_again(bench)


def test_one_whose_prediction_is_too_large_is_answered_again_while_its_neighbours_are_on_their_way() -> None:
    with flow(answer_once_s=WINDOW_S, answer_rejected=False) as bench:
        bench.producer.refuse = lambda sent: (
            KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)) if sent.value == raw(2) else None
        )
        bench.publish(bench.batch(*bench.admit(named(0), request(1, 3.0))))
        _, letter = bench.producer.wait_for(2)
        bench.producer.report(letter)
        bench.settle()
        assert bench.counts() == (0, 0, 1, 1), "its client has the dead letter"
        assert len(bench.admit(named(2))) == 1, "who asks again is answered"
