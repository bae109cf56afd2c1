"""How the traces of requests go on in their predictions, and which spans the observer is told of."""

from __future__ import annotations

import pytest

from tests.unit.publish.bench import flow
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
        span_id = traceparent[36:52]
        assert traceparent == SAMPLED.replace(SAMPLED[36:52], span_id) != SAMPLED
        assert sent.header("tracestate") == "a=1"
        assert "stages" in dict(sent.headers), "a sampled request is told its stages"
        bench.producer.report(*bench.producer.sent)
        assert bench.drained()
        (traced,) = bench.observer.batches[0].parts[0].traced
        assert (traced.position, traced.offset, traced.span_id, traced.traceparent, traced.tracestate) == (
            1,
            5,
            int(span_id, 16),
            SAMPLED.encode(),
            b"a=1",
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
