"""Predictions as the contract says them, finished when all of a batch are acknowledged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka import KafkaError, Message

from pipeline.core.errors import BackendBusyError, BackendError, DeviceLostError
from pipeline.core.limits import Limits
from pipeline.infer import Batch, Joined, Piece, Run, Slot
from pipeline.models import Model, Rung
from pipeline.observe import Stage
from tests.unit.infer.makers import SIGNATURE
from tests.unit.intake.messages import POLLED_MS, TOPIC, message
from tests.unit.publish.bench import KEY, WAIT_S, Bench, flow
from topics.codecs import CONTENT_TYPES, codec_for
from topics.codes import Code
from topics.records import JSON, RAW, Terminal

RAW_HEADERS = [("content-type", RAW.encode())]


def raw(*rows: float) -> bytes:
    """A raw request of rows [r, r]."""
    return np.repeat(np.array(rows, np.float32), 2).tobytes()


def request(offset: int, row: float = 1.0, **given: Any) -> Message:
    return message(offset, raw(row), **{"headers": RAW_HEADERS, **given})


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_prediction_has_the_requests_type_key_and_id_and_says_its_source(content_type: str) -> None:
    codec = codec_for(content_type)
    x = np.array([[1, 1], [3, 3]], np.float32)
    value = codec.encode_request({"x": x}, SIGNATURE.inputs)
    headers = [("content-type", content_type.encode()), ("request-id", b"mine")]
    with flow() as bench:
        named, unnamed = bench.answer(
            message(7, value, key=b"k", headers=headers), message(9, value, headers=headers[:1])
        )
        assert named.topic == "m.predictions"
        assert (named.key, unnamed.key) == (b"k", None)
        for sent, request_id, offset in ((named, b"mine", 7), (unnamed, f"{TOPIC}/0/9".encode(), 9)):
            assert sorted(sent.headers) == [
                ("content-type", content_type.encode()),
                ("model", b"m/1"),
                ("request-id", request_id),
                ("source", f"{TOPIC}/0/{offset}".encode()),
                ("status", b"ok"),
            ]
            assert sent.value is not None
            outputs = codec.decode_response(sent.value, SIGNATURE.outputs)
            assert (outputs["y"] == 2 * x).all()
        if content_type == JSON:
            assert orjson.loads(named.value or b"") == {
                "model_name": "m",
                "model_version": "1",
                "id": "mine",
                "outputs": [
                    {"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [2.0, 2.0, 6.0, 6.0]},
                    {"name": "half", "shape": [2], "datatype": "FP32", "data": [0.5, 1.5]},
                ],
            }


def test_each_request_of_a_batch_gets_its_own_rows() -> None:
    with flow() as bench:
        (first,) = bench.admit(*[message(at, raw(*range(at, at + 2)), headers=RAW_HEADERS) for at in range(3)])
        (second,) = bench.admit(message(3, raw(50.0), headers=RAW_HEADERS))
        bench.publish(bench.batch(first, second))
        sent = bench.producer.wait_for(4)
        values = [raw(0, 2), raw(2, 4), raw(4, 6), raw(100)]
        assert [each.value for each in sent] == values
        assert [each.header("source") for each in sent] == [f"{TOPIC}/0/{at}" for at in range(4)]
        bench.producer.report(*sent)
        assert bench.drained()
        (times,) = bench.observer.batches
        assert (times.model, times.rows, [part.last_offset for part in times.parts]) == ("m/1", 7, [2, 3])


def test_a_batch_is_finished_when_the_last_of_it_is_acknowledged() -> None:
    with flow() as bench:
        sent = bench.answer(*[request(at) for at in range(3)])
        bench.producer.report(sent[2], sent[0])
        bench.settle()
        assert (bench.ledger.in_flight_requests, bench.ledger.committable(), bench.observer.batches) == (3, {}, [])
        bench.producer.report(sent[1])
        assert bench.drained()
        assert bench.ledger.committable() == {KEY: 3}
        bench.settle()
        assert bench.counts() == (3, 0, 0, 0)
        (times,) = bench.observer.batches
        assert times.copied_ns < times.started_ns < times.computed_ns < times.encoded_ns <= times.acked_ns


def test_the_slot_is_free_once_the_predictions_are_produced() -> None:
    with flow() as bench:
        bench.answer(request(0))
        bench.settle()
        assert [retry for _, retry in bench.device.given_back] == [False]


def test_stages_are_told_where_asked_for_and_are_what_passed() -> None:
    with flow() as bench:
        asked, not_asked = bench.answer(
            request(0, headers=[*RAW_HEADERS, ("stages", b"1")]),
            request(1),
        )
        stages = orjson.loads(asked.header("stages"))
        assert stages == {"kafka_dwell": 10_000} | dict.fromkeys(
            ("decode", "window_wait", "copy", "device_wait", "compute", "encode"), 1_000
        )
        assert list(stages) == [str(stage) for stage in Stage][: len(stages)], "in the order of the way"
        assert "stages" not in dict(not_asked.headers)


def test_a_chunk_where_all_ask_for_stages_is_told_too() -> None:
    with flow() as bench:
        sent = bench.answer(*[request(at, headers=[*RAW_HEADERS, ("stages", b"1")]) for at in range(3)])
        assert len({each.header("stages") for each in sent}) == 1


def test_stages_never_run_backwards_where_a_clients_clock_does() -> None:
    with flow() as bench:
        (sent,) = bench.answer(request(0, headers=[*RAW_HEADERS, ("stages", b"1")], timestamp_ms=POLLED_MS + 60_000))
        assert orjson.loads(sent.header("stages"))["kafka_dwell"] == 0


def test_a_request_larger_than_a_batch_is_published_once_and_whole() -> None:
    with flow() as bench:
        (admitted,) = bench.admit(
            message(0, raw(*range(10)), headers=RAW_HEADERS), message(1, raw(99), headers=RAW_HEADERS)
        )
        joined = Joined(admitted, 0, 10)
        batches = []
        for start, rows in ((0, 4), (4, 4), (8, 2)):
            batch = Batch([], [], 0, 0)
            batch.add(Piece(joined, start, rows, 0))
            batches.append(batch)
        batches[1].add(Run(admitted, 1, 2, 0))
        for batch in batches[:2]:
            bench.publish(bench.compute(batch))
        (other,) = bench.producer.wait_for(1)
        assert other.header("source") == f"{TOPIC}/0/1"
        bench.publish(bench.compute(batches[2]))
        _, whole = bench.producer.wait_for(2)
        assert whole.value == raw(*range(0, 20, 2))
        bench.producer.report(other, whole)
        assert bench.drained()
        assert len(bench.device.given_back) == 3


def test_what_came_behind_a_request_larger_than_a_batch_is_published_behind_it() -> None:
    with flow() as bench:
        (admitted,) = bench.admit(*[message(n, raw(*range(3 - 2 * n)), headers=RAW_HEADERS) for n in range(2)])
        joined = Joined(admitted, 0, 3)
        for start, rows in ((0, 2), (2, 1)):
            batch = Batch([], [], 0, 0)
            batch.add(Piece(joined, start, rows, 0))
            if start:
                batch.add(Run(admitted, 1, 2, 0))
            bench.publish(bench.compute(batch))
        sent = bench.producer.wait_for(2)
        assert [each.header("source") for each in sent] == [f"{TOPIC}/0/0", f"{TOPIC}/0/1"]
        bench.producer.report(*sent)
        assert bench.drained()


def run_out(bench: Bench, batch: Batch, attempts_max: int = 1) -> int:
    """Publish a batch, and what runs again for it, as the window has it; return how many ran."""
    todo, ran = [batch], 0
    while todo:
        bench.publish(todo.pop(0))
        bench.settle()
        ran += 1
        batch, retry = bench.device.given_back[-1]
        if retry:
            todo += [bench.compute(again) for again in batch.again(attempts_max)]
    return ran


def test_a_batch_that_fails_runs_again_in_halves_and_only_the_culprit_is_rejected() -> None:
    with flow(answer_rejected=False) as bench:
        bench.backend.poison = {5}
        (admitted,) = bench.admit(*[request(at, at) for at in range(8)])
        run_out(bench, bench.batch(admitted))
        sent = bench.producer.wait_for(8)
        (letter,) = [each for each in sent if each.topic == "m.dead-letters"]
        assert (letter.value, letter.header("source")) == (raw(5), f"{TOPIC}/0/5")
        assert (letter.header("x-error-code"), letter.header("x-error-stage")) == (Code.MODEL_FAILED, "compute")
        answered = {each.header("source"): each.value for each in sent if each is not letter}
        assert answered == {f"{TOPIC}/0/{at}": raw(2 * at) for at in range(8) if at != 5}
        bench.producer.report(*sent)
        assert bench.drained()
        bench.settle()
        assert bench.counts() == (7, 0, 1, 0)


def test_a_request_whose_piece_failed_is_rejected_once_and_never_answered() -> None:
    with flow(answer_rejected=False) as bench:
        bench.backend.poison = {1, 3}
        (admitted,) = bench.admit(message(0, raw(*range(6)), headers=RAW_HEADERS))
        joined = Joined(admitted, 0, 6)
        for start in (0, 2, 4):
            batch = Batch([], [], 0, 0)
            batch.add(Piece(joined, start, 2, 0))
            run_out(bench, bench.compute(batch))
        (letter,) = bench.producer.wait_for(1)
        assert letter.topic == "m.dead-letters"
        bench.producer.report(letter)
        assert bench.drained()
        bench.settle()
        assert bench.counts() == (0, 0, 1, 0)


def test_an_asynchronous_failure_is_found_in_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(slot: Slot) -> None:
        if slot.inputs["x"][:1].any():
            raise BackendError("too much")

    with flow(answer_rejected=False) as bench:
        monkeypatch.setattr(bench.backend, "wait", wait)
        run_out(bench, bench.batch(*bench.admit(request(0))))
        (letter,) = bench.producer.wait_for(1)
        assert letter.header("x-error-code") == Code.MODEL_FAILED
        assert letter.header("x-error-reason") == "too much"


def test_a_model_that_fails_on_zeros_too_ends_the_worker_and_no_request_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F5: the circuit. Whoever gets the partition next answers."""

    def wait(slot: Slot) -> None:
        raise BackendError("lost the device")

    with flow() as bench:
        monkeypatch.setattr(bench.backend, "wait", wait)
        bench.publish(bench.batch(*bench.admit(request(0))))
        bench.settle()
        ((batch, retry),) = bench.device.given_back
        (probe,) = batch.again(1)
        assert retry
        bench.publish(bench.compute(probe))
        assert bench.failed.wait(WAIT_S)
        assert "zeros included: lost the device" in str(bench.failure.pop())
        assert (bench.producer.sent, bench.ledger.in_flight_requests) == ([], 1)


@pytest.mark.parametrize("where", ["run", "wait"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lost_device_ends_the_worker_at_once_and_no_request_is_blamed(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> None:
        raise DeviceLostError("the device is lost")

    with flow() as bench:
        batch = bench.batch(*bench.admit(request(0)))
        if where == "run":
            batch.error = DeviceLostError("the device is lost")
        else:
            monkeypatch.setattr(bench.backend, "wait", lost)
        bench.publish(batch)
        assert bench.failed.wait(WAIT_S)
        assert isinstance(bench.failure.pop(), DeviceLostError)
        assert (bench.device.given_back, bench.producer.sent, bench.ledger.in_flight_requests) == ([], [], 1)


def test_an_error_that_may_pass_is_tried_again_before_anybody_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [BackendBusyError("no memory")] * 2

    def wait(slot: Slot) -> None:
        if errors:
            raise errors.pop()

    with flow() as bench:
        monkeypatch.setattr(bench.backend, "wait", wait)
        assert run_out(bench, bench.batch(*bench.admit(request(0), request(1))), attempts_max=3) == 3
        sent = bench.producer.wait_for(2)
        assert [each.header("status") for each in sent] == ["ok", "ok"]
        bench.producer.report(*sent)
        assert bench.drained()


def release(bench: Bench) -> None:
    """The partition is somebody else's now; the intake tells the observer so."""
    bench.observer.released("m", sum(bench.ledger.release([KEY]).values()))


def test_nothing_is_produced_for_an_assignment_that_was_lost() -> None:
    with flow() as bench:
        batch = bench.batch(*bench.admit(request(0), request(1)))
        release(bench)
        bench.ledger.assign([KEY])
        bench.publish(batch)
        bench.settle()
        assert bench.producer.sent == []
        assert bench.device.given_back == [(batch, False)], "its slot is free again all the same"
        assert bench.counts() == (0, 0, 0, 0)


def test_a_batch_of_two_partitions_is_published_for_the_one_that_is_still_ours() -> None:
    with flow() as bench:
        (gone,) = bench.admit(request(0))
        release(bench)
        bench.ledger.assign([KEY])
        (ours,) = bench.admit(request(0, 3.0))
        bench.publish(bench.batch(gone, ours))
        (sent,) = bench.producer.wait_for(1)
        assert sent.value == raw(6)
        bench.producer.report(sent)
        assert bench.drained()
        bench.settle()
        assert bench.counts() == (1, 0, 0, 0)


def test_what_is_acknowledged_after_the_assignment_was_lost_is_counted_once() -> None:
    with flow() as bench:
        (sent,) = bench.answer(request(0))
        release(bench)
        bench.producer.report(sent)
        bench.settle()
        bench.settle()
        assert bench.ledger.ignored == 1
        assert bench.counts()[3] == 0, "I6: given back, so not answered too"


def test_a_published_record_is_a_terminal_record_to_a_client() -> None:
    with flow() as bench:
        (sent,) = bench.answer(request(3, key=b"k"))
        terminal = Terminal.from_kafka(sent.key, sent.value, sent.headers)
        assert (terminal.status, terminal.model, terminal.source) == ("ok", "m/1", f"{TOPIC}/0/3")


def test_where_the_model_has_a_ladder_a_prediction_names_its_rung_also_when_produced_again() -> None:
    with flow() as bench:
        manifest = replace(bench.model.manifest, slo_ms=20.0, ladder=(Rung("fast", model="fast/1"),))
        bench.lane.model = Model(manifest, bench.model.path)
        for rung in range(2):
            batch = bench.batch(*bench.admit(request(rung)))
            batch.rung = rung
            bench.publish(batch)
            bench.producer.wait_for(rung + 1)
        full, fast = bench.producer.wait_for(2)
        assert [sent.header("rung") for sent in (full, fast)] == ["full", "fast"]
        assert fast.header("model") == "m/1"
        bench.producer.report(full)
        bench.producer.report(fast, code=KafkaError._MSG_TIMED_OUT)
        bench.settle()
        bench.clock.late_ns += 10**9
        again = bench.producer.wait_for(3)[-1]
        assert (again.header("rung"), again.header("source")) == ("fast", fast.header("source"))
        bench.producer.report(again)
        assert bench.drained()
        bench.settle()
        assert bench.observer.snapshot().to_dict()["rungs"] == {"m": {"full": 1, "fast": 1}}
        assert bench.observer.rungs() == {"m": {"full": 1, "fast": 1}}


def test_zeros_that_meet_a_shortage_run_again_before_the_worker_ends() -> None:
    with flow() as bench:
        batch = bench.batch(*bench.admit(message(0, bytes(8), headers=[("content-type", RAW.encode())])))
        batch.blamed = blamed = BackendError("a poison row")
        for attempt in (1, 2):
            batch.error = BackendBusyError("out of memory")
            assert batch.attempts == attempt
            bench.publish(batch)
            bench.settle()
            assert bench.device.given_back[-1] == (batch, True)
            slot = batch.slot
            (batch,) = batch.again(Limits().compute_attempts_max)
            assert batch.blamed is blamed
            batch.slot = slot
        batch.error = BackendBusyError("out of memory")
        bench.publish(batch)
        assert bench.failed.wait(WAIT_S)
        (failure,) = bench.failure
        assert "zeros included: out of memory" in str(failure)
        bench.failure.clear()
    assert bench.producer.sent == []
