"""Deliveries that fail are made again, a few times and only while the assignment holds; a full queue is waited for."""

from __future__ import annotations

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException

from pipeline.core.errors import BrokerError
from pipeline.core.limits import Limits
from tests.unit.intake.messages import TOPIC, message
from tests.unit.publish.bench import KEY, WAIT_S, Clock, Sent, flow
from tests.unit.publish.test_predictions import RAW_HEADERS, release, request

TIMED_OUT = KafkaError._MSG_TIMED_OUT


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept before retries; nobody really does, the clock goes on alone."""
    times: list[float] = []

    def sleep(seconds: float) -> None:
        times.append(seconds)
        monkeypatch.setattr(Clock, "late_ns", Clock.late_ns + round(seconds * 1e9))

    monkeypatch.setattr("pipeline.publish.publisher.time.sleep", sleep)
    return times


def test_a_failed_delivery_is_made_again_with_the_same_bytes_and_headers(slept: list[float]) -> None:
    with flow() as bench:
        headers = [*RAW_HEADERS, ("stages", b"1"), ("traceparent", b"t"), ("request-id", b"mine")]
        sent = bench.answer(request(0), request(1, key=b"k", headers=headers), request(2))
        bench.producer.report(sent[0], sent[2])
        bench.producer.report(sent[1], code=TIMED_OUT)
        again = bench.producer.wait_for(4)[3]
        assert (again.topic, again.value, again.key) == (sent[1].topic, sent[1].value, b"k")
        assert again.headers == sent[1].headers
        assert bench.ledger.committable() == {} and len(slept) == 1
        bench.producer.report(again)
        assert bench.drained()
        assert bench.ledger.committable() == {KEY: 3}
        bench.settle()
        assert bench.counts() == (3, 0, 0, 0)


def test_so_is_one_that_librdkafka_only_supposes_to_be_delivered(slept: list[float]) -> None:
    with flow() as bench:
        sent = bench.answer(request(0, 1.0), request(1, 2.0))
        bench.producer.report(sent[0], offset=OFFSET_INVALID)
        bench.producer.report(sent[1])
        again = bench.producer.wait_for(3)[2]
        assert (again.value, again.headers) == (sent[0].value, sent[0].headers)
        assert bench.ledger.committable() == {}
        bench.producer.report(again)
        assert bench.drained()


def test_those_that_failed_are_made_again_whichever_of_a_batch_they_are(slept: list[float]) -> None:
    with flow() as bench:
        full = iter([BufferError("queue full")])
        bench.producer.refuse = lambda sent: next(full, None) if sent.key == b"1" else None
        for failing in ([0], [1], [2], [0, 2], [0, 1, 2]):
            before, first = len(bench.producer.sent), bench.ledger.committable().get(KEY, 0)
            sent = bench.answer(*[request(first + at, key=b"%d" % at) for at in range(3)])
            bench.producer.report(*[sent[at] for at in range(3) if at not in failing])
            bench.producer.report(*[sent[at] for at in failing], code=TIMED_OUT)
            again = bench.producer.wait_for(before + 3 + len(failing))[before + 3 :]
            failed = [sent[at] for at in failing]
            assert [(a.key, a.value, a.headers) for a in again] == [(f.key, f.value, f.headers) for f in failed]
            bench.producer.report(*again)
            assert bench.drained()


def test_reports_do_not_tell_records_of_one_key_and_value_apart_so_all_are_made_again(slept: list[float]) -> None:
    with flow() as bench:
        sent = bench.answer(*[request(at, 1.0 + (at == 2)) for at in range(3)])
        bench.producer.report(sent[0], sent[2])
        bench.producer.report(sent[1], code=TIMED_OUT)
        again = bench.producer.wait_for(5)[3:]
        assert [each.headers for each in again] == [each.headers for each in sent[:2]]
        assert bench.ledger.in_flight_requests == 3
        bench.producer.report(*again)
        assert bench.drained()


def test_so_are_dead_letters_and_notices(slept: list[float]) -> None:
    with flow() as bench:
        bench.admit(message(0, b"bad", headers=RAW_HEADERS))
        letter, notice = bench.producer.wait_for(2)
        bench.producer.report(letter, code=TIMED_OUT)
        bench.producer.report(notice)
        again = bench.producer.wait_for(3)[2]
        assert (again.topic, again.value, again.headers) == (letter.topic, letter.value, letter.headers)
        bench.producer.report(again)
        assert bench.drained()


def test_after_so_many_attempts_the_worker_fails_and_nothing_is_committed(slept: list[float]) -> None:
    with flow(limits=Limits(delivery_attempts_max=3)) as bench:
        bench.answer(request(0))
        for attempt in range(1, 4):
            bench.producer.report(bench.producer.wait_for(attempt)[-1], code=TIMED_OUT)
        assert bench.failed.wait(WAIT_S)
        assert isinstance(bench.failure.pop(), BrokerError)
        assert len(bench.producer.sent) == 3
        assert (bench.ledger.committable(), bench.ledger.in_flight_requests) == ({}, 1)


def test_a_fatal_error_fails_the_worker_at_once() -> None:
    with flow() as bench:
        bench.producer.report(*bench.answer(request(0)), code=KafkaError.INVALID_PRODUCER_EPOCH, fatal=True)
        assert bench.failed.wait(WAIT_S)
        assert isinstance(bench.failure.pop(), BrokerError)
        assert len(bench.producer.sent) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_producer_itself_fails_the_worker() -> None:
    error = KafkaException(KafkaError(KafkaError._FATAL))
    with flow() as bench:
        bench.producer.refuse = lambda sent: error
        bench.publish(bench.batch(*bench.admit(request(0))))
        assert bench.failed.wait(WAIT_S)
        assert bench.failure.pop() is error


def test_a_delivery_that_fails_while_the_worker_stops_does_not_keep_it_from_stopping() -> None:
    with flow() as bench:
        sent = bench.answer(request(0))
        bench.publisher.stop(0.0)
        bench.producer.report(*sent, code=KafkaError._FATAL, fatal=True)
        bench.publisher.stop(0.0)
        assert bench.ledger.in_flight_requests == 1


def test_what_failed_together_waits_once(slept: list[float]) -> None:
    """A broker that was away for long fails all that is in flight at once: 32,768 waits would be two hours."""
    with flow() as bench:
        sent = bench.answer(*[request(at) for at in range(50)])
        bench.producer.report(*sent, code=TIMED_OUT)
        bench.producer.wait_for(100)
        assert len(slept) == 1


def test_nothing_is_made_again_for_an_assignment_that_was_lost(slept: list[float]) -> None:
    with flow() as bench:
        sent = bench.answer(request(0), request(1))
        release(bench)
        bench.producer.report(sent[0])
        bench.producer.report(sent[1], code=TIMED_OUT)
        bench.settle()
        bench.settle()
        assert len(bench.producer.sent) == 2, "I3"
        assert bench.counts() == (0, 0, 0, 0)


def test_nor_a_dead_letter(slept: list[float]) -> None:
    with flow() as bench:
        bench.admit(message(0, b"bad", headers=RAW_HEADERS))
        letter, notice = bench.producer.wait_for(2)
        release(bench)
        bench.producer.report(letter, notice, code=TIMED_OUT)
        bench.settle()
        bench.settle()
        assert len(bench.producer.sent) == 2, "I3"


def test_a_full_queue_is_waited_for_and_every_record_goes_out_once() -> None:
    with flow() as bench:
        full = iter([BufferError("queue full")] * 3)
        bench.producer.refuse = lambda sent: next(full, None) if len(bench.producer.sent) == 2 else None
        sent = bench.answer(*[request(at) for at in range(5)])
        assert [each.header("source")[-1] for each in sent] == list("01234")
        bench.producer.report(*sent)
        assert bench.drained()
        assert bench.publisher._settled == bench.publisher._flown == 1


def test_acknowledgements_make_room_in_a_full_queue() -> None:
    with flow() as bench:

        def refuse(sent: Sent) -> Exception | None:
            return BufferError("full") if bench.producer.sent and bench.ledger.in_flight_requests == 2 else None

        bench.producer.refuse = refuse

        for at in range(2):
            bench.publish(bench.batch(*bench.admit(request(at))))
        (first,) = bench.producer.wait_for(1)
        bench.producer.report(first)
        _, second = bench.producer.wait_for(2)
        bench.producer.report(second)
        assert bench.drained()


def test_what_was_handed_over_before_a_stop_is_produced() -> None:
    with flow() as bench:
        batches = [bench.batch(*bench.admit(request(at))) for at in range(3)]
        for batch in batches:
            bench.publish(batch)
    assert len(bench.producer.sent) == 3
    assert bench.publisher._flown - bench.publisher._settled == 3 and bench.ledger.committable() == {}


def test_reports_that_come_in_during_the_stop_still_count() -> None:
    with flow() as bench:
        sent = bench.answer(request(0))
        bench.settle()
        bench.producer.report(*sent)
    assert bench.ledger.committable() == {KEY: 1}


def test_what_is_produced_while_others_are_on_their_way_is_sent_once_they_have_arrived() -> None:
    with flow() as bench:
        first = bench.answer(request(0), request(1))
        bench.settle()
        assert bench.producer.flushed == [2], "nothing was on its way"
        second, third = bench.answer(request(2)), bench.answer(request(3))
        bench.producer.report(*first[:1])
        bench.settle()
        assert bench.producer.flushed == [2], "Nagle's rule: one is"
        bench.producer.report(*first[1:])
        bench.settle()
        assert bench.producer.flushed == [2, 4]
        bench.producer.report(*second, *third)
        assert bench.drained()
        bench.settle()
        assert bench.producer.flushed == [2, 4], "all was sent"


def test_where_an_operator_has_records_linger_none_is_sent_at_once() -> None:
    with flow(lingers=True) as bench:
        bench.producer.report(*bench.answer(request(0)))
        assert bench.drained()
        assert bench.producer.flushed == []


def test_a_prediction_that_became_a_dead_letter_is_not_made_again_with_one_alike(slept: list[float]) -> None:
    with flow(answer_rejected=False) as bench:
        sent = bench.answer(request(0), request(1))
        bench.producer.report(*sent, code=KafkaError.MSG_SIZE_TOO_LARGE)
        first = bench.producer.wait_for(4)[2:]
        bench.producer.report(first[0], code=KafkaError.MSG_SIZE_TOO_LARGE)
        bench.producer.report(first[1], code=KafkaError._MSG_TIMED_OUT)
        bench.settle()
        bench.settle()
        assert [each.topic for each in bench.producer.sent[4:]] == ["m.dead-letters", "m.predictions"]
        again = bench.producer.sent[5:]
        assert [each.header("source") for each in again] == [f"{TOPIC}/0/1"]
        bench.producer.report(*bench.producer.sent[4:])
        assert bench.drained()
