"""How the traces of requests go on in their predictions, and which spans the observer is told of."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.unit.publish.bench import Bench, Sent, flow
from tests.unit.publish.test_predictions import RAW_HEADERS, request

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(("traceparent", "traces"), [(SAMPLED, False), (SAMPLED[:-1] + "0", True), ("odd", True)])
def test_a_trace_nobody_records_here_is_passed_on_as_it_came(traceparent: str, traces: bool) -> None:
    headers = [*RAW_HEADERS, ("traceparent", traceparent.encode()), ("tracestate", b"a=1")]
    with flow() as bench:
        bench.observer.traces = traces
        (sent,) = bench.answer(request(0, headers=headers))
        assert (sent.header("traceparent"), sent.header("tracestate")) == (traceparent, "a=1")


def test_a_sampled_trace_goes_on_with_the_span_the_observer_is_told() -> None:
    with flow() as bench:
        bench.observer.traces = True
        _, sent = bench.answer(
            request(4),
            request(5, headers=[*RAW_HEADERS, ("traceparent", SAMPLED.encode()), ("tracestate", b"a=1")]),
        )
        traceparent = sent.header("traceparent")
        assert traceparent == SAMPLED.replace(SAMPLED[36:52], traceparent[36:52]) != SAMPLED
        assert sent.header("tracestate") == "a=1"
        assert "stages" in dict(sent.headers), "a sampled request is told its stages"
        bench.producer.report(*bench.producer.sent)
        assert bench.drained()
        (traced,) = bench.observer.batches[0].parts[0].traced
        assert (traced.position, traced.offset, traced.traceparent, traced.tracestate, traced.continued) == (
            1,
            5,
            SAMPLED.encode(),
            b"a=1",
            traceparent.encode(),
        )


def test_of_requests_alike_in_all_but_their_traces_each_goes_on_as_it_asks() -> None:
    asked = [SAMPLED[:-2] + flags for flags in ("00", "01", "00", "03")]
    headers = [[*RAW_HEADERS, ("traceparent", each.encode()), ("tracestate", b"a=1")] for each in asked]
    with flow() as bench:
        bench.observer.traces = True
        sent = bench.answer(*(request(at, headers=each) for at, each in enumerate(headers)))
        told = [each.header("traceparent") for each in sent]
        assert [a == b for a, b in zip(told, asked, strict=True)] == [True, False, True, False]
        assert [each[-2:] for each in told] == ["00", "01", "00", "03"]
        assert ["stages" in dict(each.headers) for each in sent] == [False, True, False, True]
        assert {each.header("tracestate") for each in sent} == {"a=1"}
        bench.producer.report(*bench.producer.sent)
        assert bench.drained()
        traced = bench.observer.batches[0].parts[0].traced
        assert [each.offset for each in traced] == [1, 3]


@pytest.mark.parametrize("traces", [False, True])
def test_a_batch_is_traced_whole_or_not_at_all_as_its_first_sampled_request_is_told(traces: bool) -> None:
    sampled = [*RAW_HEADERS, ("traceparent", SAMPLED.encode())]
    with flow() as bench:
        bench.observer.traces = traces
        sent = bench.answer(request(0), *(request(at, headers=sampled) for at in (1, 2, 3)))
        assert [each.header("traceparent") == SAMPLED for each in sent[1:]] == [not traces] * 3
        bench.producer.report(*bench.producer.sent)
        assert bench.drained()
        (times,) = bench.observer.batches
        assert (bench.observer.begun, bench.observer.told) == (1, 3 * traces)
        assert (times.untraced, len(times.parts[0].traced)) == ((0, 3) if traces else (3, 0))


@pytest.mark.parametrize("traces", [False, True])
def test_a_prediction_made_again_is_of_the_same_span_which_is_told_once(traces: bool) -> None:
    with flow() as bench:
        answer_two_sampled(bench, traces)
        sent = bench.producer.wait_for(2)
        bench.producer.report(sent[0])
        bench.producer.report(sent[1], code=KafkaError._MSG_TIMED_OUT)
        again = bench.producer.wait_for(3)[2]
        assert again.headers == sent[1].headers
        bench.producer.report(again)
        assert_told_once(bench, sent, traces)


@pytest.mark.parametrize("traces", [False, True])
@pytest.mark.parametrize("code", [KafkaError.ILLEGAL_GENERATION, KafkaError.MSG_SIZE_TOO_LARGE])
def test_so_are_those_of_a_transaction_that_was_aborted(
    code: int, traces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [KafkaException(KafkaError(code, txn_requires_abort=True))]

    def commit(timeout: float) -> None:
        if failing:
            bench.producer.report(bench.producer.sent[1], code=code)  # which decides how they are made again
            bench.producer.poll(0)
            raise failing.pop()

    with flow() as bench:
        bench.transact()
        monkeypatch.setattr(bench.producer, "commit_transaction", commit)
        answer_two_sampled(bench, traces)
        sent = bench.producer.wait_for(4)
        assert_told_once(bench, sent[:2], traces)
        assert [each.headers for each in sent[2:]] == [each.headers for each in sent[:2]]


def answer_two_sampled(bench: Bench, traces: bool) -> None:
    """One batch of two requests that ask to be traced."""
    bench.observer.traces = traces
    headers = [*RAW_HEADERS, ("traceparent", SAMPLED.encode())]
    bench.publish(bench.batch(*bench.admit(*(request(at, float(at), headers=headers) for at in range(2)))))


def assert_told_once(bench: Bench, sent: list[Sent], traces: bool) -> None:
    """Once all is answered, the observer knows of the spans that these name, or of those that it had no room for."""
    assert bench.drained()
    bench.settle()
    (times,) = bench.observer.batches
    names = [each.continued.decode() for each in times.parts[0].traced]
    assert names == [each.header("traceparent") for each in sent if traces]
    assert (bench.observer.begun, bench.observer.told, times.untraced) == (1, 2 * traces, 2 - 2 * traces)


@pytest.mark.parametrize("traces", [False, True])
def test_what_a_failed_transaction_does_not_take_is_told_of_once_too(traces: bool) -> None:
    failed = iter([KafkaException(KafkaError(KafkaError._STATE))] * 2)
    with flow() as bench:
        bench.transact()
        bench.producer.refuse = lambda sent: next(failed, None)
        answer_two_sampled(bench, traces)
        sent = bench.producer.wait_for(2)
        assert_told_once(bench, sent, traces)
