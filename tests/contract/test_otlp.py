"""What reaches an OpenTelemetry endpoint over real HTTP, and what an endpoint out of order changes: nothing."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pipeline.core.errors import ConfigError
from pipeline.observe import BatchTimes, Observer, Part, Stage, Traced, continue_trace
from pipeline.observe.otlp import SPANS_PER_S_MAX
from pipeline.observe.spans import BATCH_SPANS, LINKS_MAX
from tests.contract.otlp_endpoint import Endpoint

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MS = 1_000_000


def metrics_of(request: ExportMetricsServiceRequest) -> dict[str, Metric]:
    [resource] = request.resource_metrics
    return {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}


def attributes_of(point: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in point.attributes}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def traced(index: int, tracestate: bytes | None = None) -> tuple[Traced, bytes]:
    """A sampled request and the traceparent that its prediction is published with."""
    traceparent = f"00-{TRACE}-{PARENT}-01".encode()
    continued = continue_trace(traceparent)
    return Traced(index, f"r{index}", traceparent, tracestate, continued, 100 + index), continued


def acked_batch(requests: int = 4, sampled: tuple[Traced, ...] = (), last_offset: int = 9) -> BatchTimes:
    """A batch that was acknowledged just now: seven stages of 1 to 7 ms, after 10 ms in Kafka."""
    acked_ns, acked_unix_ms = time.monotonic_ns(), time.time_ns() / 1e6
    polled_ns, polled_unix_ms = acked_ns - 28 * MS, acked_unix_ms - 28
    moments = [polled_ns + MS * total for total in (1, 3, 6, 10, 15, 21, 28)]
    sent = np.full(requests, round(polled_unix_ms - 10), np.int64)
    part = Part("digits.requests", 2, last_offset, sent, polled_unix_ms, polled_ns, moments[0], sampled)
    planned, copied, started, computed, encoded, acked = moments[1:]
    return BatchTimes("digits/1", requests, 32, planned, copied, started, computed, encoded, acked, (part,))


def flow(observer: Observer, *batches: BatchTimes) -> None:
    for times in batches:
        count = sum(part.timestamps_ms.size for part in times.parts)
        observer.received("digits", count + 1)
        observer.answered("digits", count)
        observer.batch_acked(times)
        observer.committed({("digits.requests", 2): times.parts[0].last_offset + 1})


def observed(endpoint: Endpoint, *batches: BatchTimes, **settings: Any) -> Observer:
    """Run batches past an observer that exports, to its end."""
    observer = Observer(**{"otlp_endpoint": endpoint.url, "worker": "w1", "group": "sluice", **settings})
    observer.start()
    flow(observer, *batches)
    observer.shutdown()
    return observer


def test_counters_arrive_and_balance(endpoint: Endpoint) -> None:
    observer = observed(endpoint, acked_batch(), acked_batch(last_offset=19))
    observer.expired("digits", 1)  # after the last export
    metrics = metrics_of(endpoint.metrics[-1])
    [received] = metrics["sluice.requests.received"].sum.data_points
    [in_flight] = metrics["sluice.requests.in_flight"].sum.data_points
    finished = {
        attributes_of(p)["sluice.outcome"]: p.as_int for p in metrics["sluice.requests.finished"].sum.data_points
    }
    assert finished == {"answered": 8, "expired": 0, "dead_lettered": 0, "duplicate": 0, "released": 0}
    assert received.as_int == 10 == sum(finished.values()) + in_flight.as_int
    assert metrics["sluice.requests.received"].sum.is_monotonic
    assert not metrics["sluice.requests.in_flight"].sum.is_monotonic
    assert attributes_of(received) == {"sluice.model": "digits"}
    assert "sluice.requests.rungs" not in metrics, "no model has a ladder"


def test_answers_of_a_ladder_are_counted_by_rung(endpoint: Endpoint) -> None:
    observer = Observer(otlp_endpoint=endpoint.url)
    observer.start()
    for rung, count in (("full", 3), ("fast", 5), ("full", 1)):
        observer.received("digits", count)
        observer.answered("digits", count, rung)
    observer.shutdown()
    points = metrics_of(endpoint.metrics[-1])["sluice.requests.rungs"].sum.data_points
    counted = {attributes_of(point)["sluice.rung"]: point.as_int for point in points}
    assert counted == {"full": 4, "fast": 5} and {attributes_of(p)["sluice.model"] for p in points} == {"digits"}


def test_stages_arrive_as_exponential_histograms_in_seconds(endpoint: Endpoint) -> None:
    observed(endpoint, acked_batch(requests=4), acked_batch(requests=2, last_offset=19))
    metrics = metrics_of(endpoint.metrics[-1])
    stages = metrics["sluice.stage.duration"]
    points = {attributes_of(p)["sluice.stage"]: p for p in stages.exponential_histogram.data_points}
    assert stages.unit == "s" and set(points) == {str(stage) for stage in Stage}
    compute = points["compute"]
    assert (compute.count, sum(compute.positive.bucket_counts), compute.zero_count) == (6, 6, 0)
    assert compute.sum == pytest.approx(6 * 0.005) and (compute.min, compute.max) == pytest.approx((0.005, 0.005))
    assert compute.positive.offset == math.ceil(math.log2(0.005) * 2**compute.scale) - 1
    assert 0 < compute.start_time_unix_nano < compute.time_unix_nano
    [process] = metrics["messaging.process.duration"].exponential_histogram.data_points
    assert process.sum == pytest.approx(6 * 0.028)
    assert attributes_of(process) == {
        "sluice.model": "digits",
        "messaging.operation.name": "process",
        "messaging.system": "kafka",
        "messaging.destination.name": "digits.requests",
        "messaging.consumer.group.name": "sluice",
    }
    [end_to_end] = metrics["sluice.request.duration"].exponential_histogram.data_points
    assert sum(point.sum for point in points.values()) == pytest.approx(end_to_end.sum, rel=0.01)


def test_delta_exports_add_up_to_the_total(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    observer = Observer(otlp_endpoint=endpoint.url)
    observer.start()
    for round_ in range(3):
        flow(observer, acked_batch(last_offset=round_))
        seen = len(endpoint.metrics)
        while len(endpoint.metrics) < seen + 2:
            time.sleep(0.01)
    observer.shutdown()
    exports = [metrics_of(request) for request in endpoint.metrics]
    whole = [metrics["sluice.request.duration"] for metrics in exports if "sluice.request.duration" in metrics]
    points = [metric.exponential_histogram.data_points[0] for metric in whole]
    assert all(m.exponential_histogram.aggregation_temporality == AGGREGATION_TEMPORALITY_DELTA for m in whole)
    assert len(points) >= 3 and sum(point.count for point in points) == 12
    assert all(a.time_unix_nano <= b.start_time_unix_nano for a, b in pairwise(points))
    received = [p.as_int for m in exports for p in m["sluice.requests.received"].sum.data_points]
    assert sum(received) == 15


def test_a_batch_is_a_span_with_its_stages_as_children(endpoint: Endpoint) -> None:
    observed(endpoint, acked_batch())
    batch, *children = endpoint.spans()
    assert batch.name == "process digits.requests" and batch.kind == Span.SPAN_KIND_CONSUMER
    assert not batch.parent_span_id and not batch.links
    assert attributes_of(batch) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "sluice",
        "messaging.destination.name": "digits.requests",
        "messaging.batch.message_count": 4,
        "sluice.model": "digits/1",
        "sluice.batch.rows": 4,
        "sluice.batch.rows_padded": 32,
    }
    assert [child.name for child in children] == ["copy", "device_wait", "compute", "encode", "publish"]
    assert {(child.trace_id, child.parent_span_id) for child in children} == {(batch.trace_id, batch.span_id)}
    lengths_ms = [(child.end_time_unix_nano - child.start_time_unix_nano) / MS for child in children]
    assert lengths_ms == pytest.approx([3, 4, 5, 6, 7])
    assert children[0].start_time_unix_nano == batch.start_time_unix_nano
    assert children[-1].end_time_unix_nano == batch.end_time_unix_nano
    assert abs(batch.end_time_unix_nano - time.time_ns()) < 60e9
    assert endpoint.resource() | {"service.name": "sluice", "service.instance.id": "w1"} == endpoint.resource()


def test_a_sampled_request_is_a_span_of_its_clients_trace_linked_both_ways(endpoint: Endpoint) -> None:
    sampled, continued = traced(3, tracestate=b"vendor=1")
    observed(endpoint, acked_batch(sampled=(sampled,)))
    spans = endpoint.spans()
    batch, request = spans[0], spans[-1]
    assert len(spans) == BATCH_SPANS + 1
    assert continued.decode() == f"00-{request.trace_id.hex()}-{request.span_id.hex()}-01"  # as its prediction says
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert request.trace_state == "vendor=1" and request.kind == Span.SPAN_KIND_CONSUMER
    assert [(link.trace_id, link.span_id) for link in batch.links] == [(request.trace_id, request.span_id)]
    assert [(link.trace_id, link.span_id) for link in request.links] == [(batch.trace_id, batch.span_id)]
    attributes = attributes_of(request)
    assert attributes["messaging.destination.partition.id"] == "2"
    assert (attributes["messaging.message.id"], attributes["messaging.kafka.offset"]) == ("r3", 103)
    stages_us = [attributes[f"sluice.stage.{stage}_us"] for stage in Stage]
    assert stages_us[1:-1] == pytest.approx([1000, 2000, 3000, 4000, 5000, 6000, 7000])
    length_us = (request.end_time_unix_nano - request.start_time_unix_nano) / 1e3
    assert sum(stages_us) == pytest.approx(length_us, rel=0.01)


def test_each_sampled_request_has_its_own_time_in_kafka(endpoint: Endpoint) -> None:
    times = acked_batch(sampled=(traced(1)[0], traced(3)[0]))
    times.parts[0].timestamps_ms[:] -= [0, 100, 200, 300]
    observed(endpoint, times)
    dwells_us = [attributes_of(span)[f"sluice.stage.{Stage.KAFKA_DWELL}_us"] for span in endpoint.spans()[-2:]]
    assert dwells_us == pytest.approx([110_000, 310_000], abs=1000)


def test_parts_that_one_commit_covers_keep_their_own_times(endpoint: Endpoint) -> None:
    times = acked_batch(requests=3, sampled=(traced(0)[0],))
    (part,) = times.parts
    earlier = replace(part, last_offset=5, timestamps_ms=part.timestamps_ms[:2] - 200, traced=(traced(1)[0],))
    observed(endpoint, replace(times, parts=(part, replace(earlier, decoded_ns=earlier.decoded_ns + MS // 2))))
    first, second = map(attributes_of, endpoint.spans()[-2:])
    dwells_us = [span["sluice.stage.kafka_dwell_us"] for span in (first, second)]
    assert dwells_us == pytest.approx([210_000, 10_000], abs=1000)
    assert (first["sluice.stage.decode_us"], second["sluice.stage.decode_us"]) == (1500, 1000)


def test_a_batch_links_to_no_more_requests_than_a_span_may_have(endpoint: Endpoint) -> None:
    sampled = tuple(traced(index)[0] for index in range(LINKS_MAX + 20))
    observed(endpoint, acked_batch(requests=LINKS_MAX + 20, sampled=sampled))
    batch, *others = endpoint.spans()
    assert len(batch.links) == LINKS_MAX
    assert sum(len(span.links) for span in others) == LINKS_MAX + 20


def test_an_unsampled_batch_is_traced_only_for_its_sampled_requests(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    observed(endpoint, acked_batch(), acked_batch(last_offset=19, sampled=(traced(0)[0],)))
    assert [span.name for span in endpoint.spans()].count("process digits.requests") == 2
    assert len(endpoint.spans()) == BATCH_SPANS + 1


def test_a_batch_without_parts_and_a_bad_tracestate_are_no_trouble(endpoint: Endpoint) -> None:
    sampled, _ = traced(0, tracestate="é;".encode() * 2000)
    malformed, _ = traced(1, tracestate=b"no pair")
    times = acked_batch(sampled=(sampled, malformed))
    observer = Observer(otlp_endpoint=endpoint.url)
    observer.start()
    observer.batch_acked(replace(times, parts=()))
    flow(observer, times)
    observer.shutdown()
    assert [span.trace_state for span in endpoint.spans()[-2:]] == ["", ""]


def test_the_standard_variables_choose_endpoint_signals_and_name(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "digits-workers")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert observed(endpoint, acked_batch(), otlp_endpoint=None).begin_trace()
    assert endpoint.traces and not endpoint.metrics
    assert endpoint.resource()["service.name"] == "digits-workers"


def test_one_signal_may_have_an_endpoint_of_its_own(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{endpoint.url}/v1/metrics")
    assert not observed(endpoint, acked_batch(), otlp_endpoint=None).begin_trace()
    assert endpoint.metrics and not endpoint.traces


def test_a_disabled_sdk_exports_nothing(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    observed(endpoint, acked_batch())
    assert not endpoint.metrics and not endpoint.traces


def test_a_setting_that_makes_no_sense_is_refused_at_start(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "sometimes")
    with pytest.raises(ConfigError, match="OpenTelemetry"):
        Observer(otlp_endpoint=endpoint.url).start()


def refused() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize("fault", ["refusing", "failing", "silent", "nonsense"])
def test_f22_an_endpoint_out_of_order_changes_nothing_and_is_counted(
    fault: str, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    if fault == "failing":
        endpoint.status = 500
    elif fault == "silent":
        endpoint.open.clear()  # takes the connection and never answers, until the test has ended
    url = {"refusing": refused(), "nonsense": "not a url"}.get(fault, endpoint.url)
    before = set(threading.enumerate())
    observer = observed(endpoint, *(acked_batch(last_offset=offset) for offset in range(20)), otlp_endpoint=url)
    snapshot = observer.snapshot()
    assert snapshot.total.counts.answered == snapshot.total.end_to_end.count == 80
    if fault == "silent":
        left = {thread.name for thread in set(threading.enumerate()) - before}
        assert "telemetry-stop" in left  # the SDK still waits for its export; our shutdown did not
    assert snapshot.losses.spans_dropped == 20 * BATCH_SPANS
    flow(observer, acked_batch(last_offset=99))  # and after the end
    said = [record.name for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == len(set(said))  # a line of each logger at most


def test_f22_spans_over_the_rate_are_dropped_whole_and_counted(endpoint: Endpoint) -> None:
    clock = SimpleNamespace(now_ns=lambda: 10**12, unix_ms=lambda: time.time_ns() / 1e6)
    batches = 2 * SPANS_PER_S_MAX // BATCH_SPANS
    observer = observed(endpoint, *(acked_batch(last_offset=offset) for offset in range(batches)), clock=clock)
    allowed = -(-SPANS_PER_S_MAX // BATCH_SPANS) * BATCH_SPANS
    assert len(endpoint.spans()) == allowed
    assert observer.losses().spans_dropped == batches * BATCH_SPANS - allowed


def test_f22_requests_over_the_rate_are_given_no_spans_and_counted(endpoint: Endpoint) -> None:
    clock = SimpleNamespace(now_ns=lambda: 10**12, unix_ms=lambda: time.time_ns() / 1e6)
    observer = Observer(otlp_endpoint=endpoint.url, clock=clock)
    observer.start()
    batches, sampled = 0, tuple(traced(index)[0] for index in range(4))
    while observer.begin_trace():
        observer.traced(len(sampled))
        flow(observer, acked_batch(sampled=sampled, last_offset=batches))
        batches += 1
    flow(observer, replace(acked_batch(last_offset=batches), untraced=3))
    observer.shutdown()
    assert batches == SPANS_PER_S_MAX // (BATCH_SPANS + 4)
    assert len(endpoint.spans()) == batches * (BATCH_SPANS + 4)
    assert observer.losses().spans_dropped == BATCH_SPANS + 3


def test_f22_a_silent_endpoint_cannot_make_the_queue_grow(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.observe.otlp.SPANS_PER_S_MAX", 10**9)
    monkeypatch.setattr("pipeline.observe.otlp.SPANS_QUEUED_MAX", 600)
    endpoint.open.clear()
    observer = Observer(otlp_endpoint=endpoint.url)
    observer.start()
    handed = 0
    while not endpoint.asked.is_set():  # one export is under way and stays so
        flow(observer, acked_batch(last_offset=handed))
        handed += 1
    before = observer.losses().spans_dropped
    flow(observer, *(acked_batch(last_offset=handed + more) for more in range(400)))
    assert observer.losses().spans_dropped - before >= 400 * BATCH_SPANS - 600
    assert observer.snapshot().total.end_to_end.count == 4 * (handed + 400)
    observer.shutdown()
