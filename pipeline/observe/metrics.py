"""Our counters as observable instruments and our histograms as exponential data points, in one OTLP export."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)

from pipeline.observe.counters import Counts, Outcome
from pipeline.observe.histogram import Histogram
from pipeline.observe.snapshot import Losses
from pipeline.observe.timings import Timings
from topics.names import topics_of

__all__ = ["JoiningExporter", "Source", "add_instruments"]

BUCKETS_MAX = 160  # OpenTelemetry's default size of an exponential histogram
_Attributes = Mapping[str, str]
_Series = tuple[str, str]  # metric, stage or nothing
_ABOUT = {
    "messaging.process.duration": "Duration of processing operation.",
    "sluice.stage.duration": "Time of a request in one stage; the stages sum to the request's end-to-end time.",
    "sluice.request.answered.duration": "Kafka timestamp of a request to its acknowledged prediction.",
    "sluice.request.duration": "Kafka timestamp of a request to the commit of its offset, by the wall clock.",
}


class Source(Protocol):
    """Where the figures come from; each call is one consistent reading, from any thread."""

    def counts(self) -> Mapping[str, Counts]: ...
    def timings(self) -> Mapping[str, Timings]: ...
    def losses(self) -> Losses: ...
    def rungs(self) -> Mapping[str, Mapping[str, int]]: ...


def add_instruments(meter: Meter, source: Source) -> None:
    """Create the counters. All of one export come from one reading, so that invariant I6 holds in each."""
    reading: Mapping[str, Counts] = {}

    # The SDK asks instruments in the order they were created: the first one reads for all.
    def received(_: CallbackOptions) -> Iterator[Observation]:
        nonlocal reading
        reading = source.counts()
        return (Observation(counts.received, {"sluice.model": model}) for model, counts in reading.items())

    def finished(_: CallbackOptions) -> Iterator[Observation]:
        for model, counts in reading.items():
            for outcome in Outcome:
                attributes = {"sluice.model": model, "sluice.outcome": str(outcome)}
                yield Observation(getattr(counts, outcome), attributes)

    def in_flight(_: CallbackOptions) -> Iterator[Observation]:
        return (Observation(counts.in_flight, {"sluice.model": model}) for model, counts in reading.items())

    def vanished(_: CallbackOptions) -> Iterator[Observation]:
        return (Observation(counts.vanished, {"sluice.model": model}) for model, counts in reading.items())

    def lost(_: CallbackOptions) -> Iterator[Observation]:
        losses = source.losses()
        return (Observation(getattr(losses, name), {"sluice.loss": name}) for name in Losses.__slots__)

    meter.create_observable_counter("sluice.requests.received", [received], "{request}", "Requests taken from Kafka.")
    meter.create_observable_counter("sluice.requests.finished", [finished], "{request}", "Requests by outcome.")
    meter.create_observable_up_down_counter(
        "sluice.requests.in_flight", [in_flight], "{request}", "Requests received and without an outcome."
    )
    meter.create_observable_counter(
        "sluice.requests.vanished", [vanished], "{request}", "Requests deleted by retention before they were read."
    )
    by_rung = [lambda _: _by_rung(source)]
    meter.create_observable_counter("sluice.requests.rungs", by_rung, "{request}", "Answered by a ladder's rungs.")
    meter.create_observable_counter("sluice.telemetry.losses", [lost], "{item}", "What measuring had to leave out.")


def _by_rung(source: Source) -> Iterator[Observation]:
    for model, answered in source.rungs().items():
        for rung, count in answered.items():
            yield Observation(count, {"sluice.model": model, "sluice.rung": rung})


class JoiningExporter(MetricExporter):
    """Adds the bulk histograms to whatever the SDK collected; cumulative or delta, as the OTLP exporter prefers."""

    def __init__(
        self, otlp: OTLPMetricExporter, source: Source, *, group: str, start_unix_ns: int, unix_ns: Callable[[], int]
    ) -> None:
        # The SDK's own reader reads these two in the same way; no public name says them.
        preferred = otlp._preferred_temporality or {}  # noqa: SLF001 - see above
        super().__init__(preferred, otlp._preferred_aggregation)  # noqa: SLF001 - see above
        self._otlp = otlp
        self._source = source
        self._group = group
        self._start_unix_ns = start_unix_ns
        self._unix_ns = unix_ns
        self._temporality = preferred.get(HistogramInstrument, AggregationTemporality.CUMULATIVE)
        self._sent: dict[tuple[str, _Series], Histogram] = {}  # by model; empty where cumulative

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        now_unix_ns = self._unix_ns()
        current = {(m, series): h for m, timings in self._source.timings().items() for series, h in _series(timings)}
        resource = metrics_data.resource_metrics[0]
        scope, *others = resource.scope_metrics
        joined = replace(scope, metrics=[*scope.metrics, *self._histograms(current, now_unix_ns)])
        data = MetricsData([replace(resource, scope_metrics=[joined, *others])])
        result = self._otlp.export(data, timeout_millis, **kwargs)
        # A delta that did not get through is part of the next one.
        if result is MetricExportResult.SUCCESS and self._temporality is AggregationTemporality.DELTA:
            self._sent, self._start_unix_ns = current, now_unix_ns
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._otlp.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._otlp.shutdown(timeout_millis, **kwargs)

    def _histograms(self, current: Mapping[tuple[str, _Series], Histogram], now_unix_ns: int) -> Iterable[Metric]:
        points: dict[str, list[ExponentialHistogramDataPoint]] = {}
        for (model, (name, stage)), histogram in current.items():
            earlier = self._sent.get((model, (name, stage)))
            recent = histogram if earlier is None else histogram.since(earlier)
            if recent.count:
                attributes = self._attributes(name, model, stage)
                points.setdefault(name, []).append(_point(recent, attributes, self._start_unix_ns, now_unix_ns))
        for name, of_name in points.items():
            yield Metric(name, _ABOUT[name], "s", ExponentialHistogram(of_name, self._temporality))

    def _attributes(self, name: str, model: str, stage: str) -> _Attributes:
        attributes = {"sluice.model": model}
        if stage:
            attributes["sluice.stage"] = stage
        if name.startswith("messaging."):
            attributes |= {"messaging.operation.name": "process", "messaging.system": "kafka"}
            attributes["messaging.destination.name"] = topics_of(model).requests
            if self._group:
                attributes["messaging.consumer.group.name"] = self._group
        return attributes


def _series(timings: Timings) -> Iterator[tuple[_Series, Histogram]]:
    yield ("messaging.process.duration", ""), timings.processed
    yield ("sluice.request.answered.duration", ""), timings.answered
    yield ("sluice.request.duration", ""), timings.end_to_end
    for stage, histogram in timings.stages.items():
        yield ("sluice.stage.duration", str(stage)), histogram


def _point(
    histogram: Histogram, attributes: _Attributes, start_unix_ns: int, now_unix_ns: int
) -> ExponentialHistogramDataPoint:
    scale, offset, counts = histogram.buckets(BUCKETS_MAX)
    return ExponentialHistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=start_unix_ns,
        time_unix_nano=now_unix_ns,
        count=histogram.count,
        sum=histogram.sum_s,
        scale=scale,
        zero_count=int(histogram.counts[0]),
        positive=Buckets(offset, counts),
        negative=Buckets(0, []),
        flags=0,
        min=histogram.min_s,
        max=histogram.max_s,
    )
