"""Dead letters and notices: bytes and headers as they came, why on top, finished when all are acknowledged."""

from __future__ import annotations

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from pipeline.core.errors import BrokerError
from pipeline.publish.terminal import REASON_CHARS_MAX
from tests.unit.intake.messages import POLLED_MS, TOPIC, message
from tests.unit.publish.bench import KEY, WAIT_S, Bench, Sent, flow
from tests.unit.publish.test_predictions import RAW_HEADERS, raw, release, request
from topics.codes import BadRequest, Code
from topics.records import Status, Terminal

BAD = b"seven b"


def reject(bench: Bench, reason: str = "no good", value: bytes | None = BAD) -> list[Sent]:
    """One request comes in and is rejected."""
    chunk = bench.poll(message(3, value, key=b"k", headers=RAW_HEADERS))
    before = len(bench.producer.sent)
    bench.publisher.reject(bench.model, "admit", chunk, [(0, BadRequest(Code.MALFORMED, reason))])
    bench.settle()
    return bench.producer.sent[before:]


def test_a_dead_letter_is_the_request_and_why() -> None:
    headers: list[tuple[str, bytes | None]] = [
        ("own", b"\xff\x00"),
        ("own", b"twice"),
        *RAW_HEADERS,
        ("traceparent", b"t"),
        ("nothing", b""),
    ]
    with flow() as bench:
        assert bench.admit(message(3, BAD, key=b"\xffk", headers=[*headers, ("request-id", b"mine")])) == []
        letter, notice = bench.producer.wait_for(2)
        assert (letter.topic, letter.value, letter.key) == ("m.dead-letters", BAD, b"\xffk")
        assert letter.headers[:5] == headers
        assert dict(letter.headers[5:]) == {
            "request-id": b"mine",
            "status": b"rejected",
            "model": b"m/1",
            "source": f"{TOPIC}/0/3".encode(),
            "x-error-code": b"wrong-shape",
            "x-error-reason": b"7 bytes are not whole rows of 8 bytes",
            "x-error-stage": b"admit",
        }
        assert (notice.topic, notice.key) == ("m.predictions", b"\xffk")
        assert notice.value is not None
        assert orjson.loads(notice.value) == {"code": "wrong-shape", "reason": letter.header("x-error-reason")}
        assert dict(notice.headers) == {
            "traceparent": b"t",
            "request-id": b"mine",
            "content-type": b"application/json",
            "status": b"rejected",
            "model": b"m/1",
            "source": f"{TOPIC}/0/3".encode(),
        }


def test_a_null_value_stays_null() -> None:
    with flow() as bench:
        letter, _ = reject(bench, value=None)
        assert letter.value is None and letter.header("x-error-code") == "malformed"


def test_why_is_overwritten_on_a_replayed_request_never_stacked() -> None:
    with flow() as bench:
        (first, _) = reject(bench)
        bench.poll(message(4))
        chunk = bench.poll(message(9, BAD, headers=first.headers))
        bench.publisher.reject(bench.model, "publish", chunk, [(0, BadRequest(Code.TOO_LARGE, "again"))])
        _, _, second, _ = bench.producer.wait_for(4)
        assert sorted(name for name, _ in second.headers) == sorted(name for name, _ in first.headers)
        assert second.header("x-error-code") == "too-large"
        assert second.header("x-error-reason") == "again"
        assert second.header("x-error-stage") == "publish"
        assert second.header("source") == f"{TOPIC}/0/9"
        assert second.header("request-id") == f"{TOPIC}/0/3", "a replay is the same request"


@pytest.mark.parametrize("ids", [[b"\xff"], [b""], [None], []])
def test_a_request_without_a_readable_id_is_named_by_its_source(ids: list[bytes | None]) -> None:
    with flow() as bench:
        chunk = bench.poll(message(5, headers=[("request-id", each) for each in ids]))
        bench.publisher.reject(bench.model, "admit", chunk, [(0, BadRequest(Code.BAD_HEADER, "x"))])
        for sent in bench.producer.wait_for(2):
            assert sent.header("request-id") == f"{TOPIC}/0/5"


def test_a_reason_is_one_short_line() -> None:
    with flow() as bench:
        letter, notice = reject(bench, "two\nlines\tand " + "so on " * 1_000)
        reason = letter.header("x-error-reason")
        assert reason.startswith("two lines and so on") and len(reason) == REASON_CHARS_MAX
        assert orjson.loads(notice.value or b"")["reason"] == reason


def test_it_is_finished_when_letter_and_notice_are_acknowledged() -> None:
    with flow() as bench:
        letter, notice = reject(bench)
        bench.producer.report(letter)
        bench.settle()
        assert bench.ledger.in_flight_requests == 1
        bench.producer.report(notice)
        assert bench.drained()
        assert bench.ledger.committable() == {KEY: 4}
        bench.settle()
        assert bench.counts() == (0, 0, 1, 0)


def test_nobody_is_answered_where_the_manifest_says_so() -> None:
    with flow(answer_rejected=False) as bench:
        (letter,) = reject(bench)
        bench.producer.report(letter)
        assert bench.drained()


def test_good_neighbours_are_answered() -> None:
    with flow(answer_rejected=False) as bench:
        (admitted,) = bench.admit(request(0), request(1, key=b"k"), message(2, BAD, headers=RAW_HEADERS), request(3))
        bench.publish(bench.batch(admitted))
        letter, *answers = bench.producer.wait_for(4)
        assert letter.header("source") == f"{TOPIC}/0/2"
        assert [sent.header("source") for sent in answers] == [f"{TOPIC}/0/{at}" for at in (0, 1, 3)]
        assert [sent.key for sent in answers] == [None, b"k", None]
        bench.producer.report(*answers)
        bench.settle()
        assert bench.ledger.committable() == {KEY: 2}
        bench.producer.report(letter)
        assert bench.drained()
        assert bench.ledger.committable() == {KEY: 4}


def test_an_expired_request_is_told_so() -> None:
    headers = [*RAW_HEADERS, ("deadline-ms", str(POLLED_MS).encode()), ("request-id", b"late"), ("tracestate", b"a=1")]
    with flow() as bench:
        (admitted,) = bench.admit(request(0), request(1, headers=headers, key=b"k"), request(2, headers=headers))
        bench.publisher.expire(bench.model, [(admitted, [1, 2])])
        first, second = bench.producer.wait_for(2)
        assert (first.topic, first.key, second.key) == ("m.predictions", b"k", None)
        assert sorted(first.headers) == [
            ("content-type", b"application/json"),
            ("model", b"m/1"),
            ("request-id", b"late"),
            ("source", f"{TOPIC}/0/1".encode()),
            ("status", b"expired"),
            ("tracestate", b"a=1"),
        ]
        assert orjson.loads(first.value or b"")["code"] == "deadline-passed"
        bench.producer.report(second, first)
        bench.settle()
        assert (bench.ledger.in_flight_requests, bench.counts()) == (1, (0, 2, 0, 1))


@pytest.mark.parametrize("kind", ["reject", "expire"])
def test_nothing_is_told_for_an_assignment_that_was_lost(kind: str) -> None:
    with flow() as bench:
        (admitted,) = bench.admit(request(0))
        release(bench)
        if kind == "reject":
            bench.publisher.reject(bench.model, "admit", admitted.chunk, [(0, BadRequest(Code.MALFORMED, "x"))])
        else:
            bench.publisher.expire(bench.model, [(admitted, [0])])
        bench.settle()
        assert bench.producer.sent == [] and bench.counts() == (0, 0, 0, 0)


def test_terminal_records_are_what_clients_read() -> None:
    with flow() as bench:
        for sent in reject(bench):
            assert Terminal.from_kafka(sent.key, sent.value, sent.headers).status is Status.REJECTED


@pytest.mark.parametrize("when", ["produced", "delivered"])
def test_a_prediction_that_is_too_large_becomes_a_dead_letter(when: str) -> None:
    with flow() as bench:
        if when == "produced":
            bench.producer.refuse = lambda sent: _too_large() if sent.value == raw(2) else None
        bench.publish(bench.batch(*bench.admit(request(0), request(1, 7.0, key=b"k"))))
        if when == "delivered":
            large, fine = bench.producer.wait_for(2)
            bench.producer.report(large, code=KafkaError.MSG_SIZE_TOO_LARGE)
            bench.producer.report(fine)
            alone = bench.producer.wait_for(3)[2]
            assert (alone.value, alone.headers) == (large.value, large.headers)
            bench.producer.report(alone, code=KafkaError.MSG_SIZE_TOO_LARGE)
        bench.settle()
        records = [sent for sent in bench.producer.sent if sent.value != raw(2)]
        fine, letter, notice = sorted(records, key=lambda sent: sent.header("status"))
        assert (letter.topic, letter.value) == ("m.dead-letters", raw(1))
        assert letter.header("x-error-code") == notice_code(notice) == "prediction-too-large"
        assert letter.header("x-error-stage") == "publish"
        if when == "produced":
            bench.producer.report(fine)
        bench.settle()
        assert (bench.ledger.in_flight_requests, bench.counts()) == (1, (1, 0, 0, 1))
        bench.producer.report(letter, notice)
        assert bench.drained()
        bench.settle()
        assert bench.counts() == (1, 0, 1, 0)


def test_predictions_refused_for_the_size_of_their_message_set_are_delivered_one_by_one() -> None:
    """I7: a topic's limit below librdkafka's batch size fails records that are small enough each."""
    with flow() as bench:
        sent = bench.answer(*[request(at, float(at)) for at in range(3)])
        bench.producer.report(*sent, code=KafkaError.MSG_SIZE_TOO_LARGE)
        again = bench.producer.wait_for(6)[3:]
        assert [(each.value, each.headers) for each in again] == [(each.value, each.headers) for each in sent]
        bench.producer.report(*again)
        assert bench.drained()
        bench.settle()
        assert bench.counts() == (3, 0, 0, 0)


def test_also_where_it_is_alone_in_its_batch_and_refused_at_once() -> None:
    with flow(answer_rejected=False) as bench:
        bench.producer.refuse = lambda sent: _too_large() if sent.topic == "m.predictions" else None
        bench.publish(bench.batch(*bench.admit(request(0))))
        (letter,) = bench.producer.wait_for(1)
        assert letter.header("x-error-code") == "prediction-too-large"
        bench.producer.report(letter)
        assert bench.drained()


def test_in_a_transaction_librdkafka_refuses_it_and_its_dead_letter_takes_its_place() -> None:
    with flow(answer_rejected=False) as bench:
        bench.transact()
        bench.producer.refuse = lambda sent: _too_large() if sent.value == raw(4) else None
        bench.publish(bench.batch(*bench.admit(*[request(n, float(n)) for n in range(1, 4)])))
        assert bench.drained()
        bench.settle()
        assert [(sent.topic, sent.value) for sent in bench.producer.sent] == [
            ("m.predictions", raw(2)),
            ("m.dead-letters", raw(2)),
            ("m.predictions", raw(6)),
        ]
        assert bench.counts() == (2, 0, 1, 0)


def notice_code(notice: Sent) -> str:
    return str(orjson.loads(notice.value or b"")["code"])


def _too_large() -> KafkaException:
    return KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))


def test_a_notice_that_is_too_large_takes_no_worker_down() -> None:
    """A request of nearly the broker's limit, all of it key: its notice does not fit, its dead letter is told all."""
    with flow() as bench:
        letter, notice = reject(bench)
        bench.producer.report(notice, code=KafkaError.MSG_SIZE_TOO_LARGE)
        bench.producer.report(letter)
        bench.producer.report(bench.producer.wait_for(3)[2], code=KafkaError.MSG_SIZE_TOO_LARGE)
        assert bench.drained()
        bench.settle()
        assert bench.counts() == (0, 0, 1, 0)


def test_a_dead_letter_the_broker_will_never_take_ends_the_worker_and_is_not_committed() -> None:
    with flow() as bench:
        letter, notice = reject(bench)
        bench.producer.report(notice)
        bench.producer.report(letter, code=KafkaError.MSG_SIZE_TOO_LARGE)
        bench.producer.report(bench.producer.wait_for(3)[2], code=KafkaError.MSG_SIZE_TOO_LARGE)
        assert bench.failed.wait(WAIT_S)
        assert isinstance(bench.failure.pop(), BrokerError)
        assert bench.ledger.committable() == {} and bench.ledger.in_flight_requests == 1


@pytest.mark.parametrize("kind", ["reject", "expire"])
def test_in_a_transaction_too_records_refused_for_the_size_of_their_message_set_go_one_by_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker refuses sets: here all that was produced since the last flush."""
    monkeypatch.setattr("pipeline.publish.transactions.RETRY_DELAY_S", 0)
    at, failed = 0, False

    def flush(timeout: float) -> int:
        nonlocal at, failed
        since, at = bench.producer.sent[at:], len(bench.producer.sent)
        bench.producer.report(*since, code=KafkaError.MSG_SIZE_TOO_LARGE if len(since) > 1 else None)
        bench.producer.poll(0)
        failed |= len(since) > 1
        return 0

    def commit(timeout: float) -> None:
        if failed:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, txn_requires_abort=True))

    def abort(timeout: float) -> None:
        nonlocal failed
        failed = False

    with flow(answer_rejected=False) as bench:
        bench.transact()
        monkeypatch.setattr(bench.producer, "flush", flush)
        monkeypatch.setattr(bench.producer, "commit_transaction", commit)
        monkeypatch.setattr(bench.producer, "abort_transaction", abort)
        (admitted,) = bench.admit(request(0), request(1))
        if kind == "expire":
            bench.publisher.expire(bench.model, [(admitted, [0, 1])])
        else:
            why = BadRequest(Code.MALFORMED, "no")
            bench.publisher.reject(bench.model, "admit", admitted.chunk, [(0, why), (1, why)])
        assert bench.drained(), bench.failure
        bench.settle()
        assert bench.counts()[1:] == ((2, 0, 0) if kind == "expire" else (0, 2, 0))


def test_in_a_transaction_a_notice_that_is_too_large_takes_no_worker_down_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.publish.transactions.RETRY_DELAY_S", 0)
    with flow() as bench:
        bench.transact()
        bench.producer.refuse = lambda sent: _too_large() if sent.topic == "m.predictions" else None
        chunk = bench.poll(message(0, b"bad", headers=RAW_HEADERS))
        bench.publisher.reject(bench.model, "admit", chunk, [(0, BadRequest(Code.MALFORMED, "no"))])
        assert bench.drained(), bench.failure
        bench.settle()
        assert bench.counts() == (0, 0, 1, 0)


@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_request_whose_prediction_is_too_large_is_not_timed_as_answered(exactly_once: bool) -> None:
    with flow(answer_rejected=False) as bench:
        if exactly_once:
            bench.transact()
        bench.producer.refuse = lambda sent: _too_large() if sent.value == raw(2) else None
        bench.publish(bench.batch(*bench.admit(request(0), request(1, 3.0))))
        bench.producer.report(*bench.producer.wait_for(2))
        assert bench.drained()
        bench.settle()
        bench.observer.committed({KEY: 2})
        total = bench.observer.snapshot().total
        assert (total.counts.answered, total.counts.dead_lettered) == (1, 1)
        assert total.answered.count == 1
