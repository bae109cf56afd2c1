"""Metrics and traces to an OpenTelemetry endpoint; imported only where there is one.

Nothing here may hold up the flow (fault F22): it hands over finished spans, never waits, and what the endpoint
does not take in time is dropped and counted.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import metadata
from uuid import uuid4

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from pipeline.core.clock import Clock
from pipeline.observe.metrics import JoiningExporter, Source, add_instruments
from pipeline.observe.spans import BATCH_SPANS, BatchSpan, SpanBuilder
from pipeline.observe.stages import BatchTimes
from pipeline.observe.timings import Finished, Measured

__all__ = ["Telemetry"]

# Making and sending a span takes about 7 us in a loop of its own, and 20 where the flow fills the processor's caches in
# between: at this rate 2% of one core, whatever clients sample.
SPANS_PER_S_MAX = 1000
# Eight seconds of them, about 1 kB each: an export begins after five at the latest, or when so many batches and parts
# of them wait, at full load after three. One of 512 spans took 4 ms of the processor, most of it for the request.
SPANS_QUEUED_MAX = 8192
GROUPS_EXPORTED_MAX = 128
SHUTDOWN_S_MAX = 2.0  # to bring out what is queued, beside the budget of a worker's drain
LOG_EVERY_S = 60.0  # each of the SDK's loggers says one line a minute
SCOPE = "sluice"
_SAMPLED = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
_NOISY = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.metrics._internal.export",
    "opentelemetry.trace.span",
)


class Telemetry:
    """The exporters and what feeds them, for the signals that have an endpoint.

    Raises ``ValueError`` for OTEL_ variables that the SDK cannot read. All calls are thread-safe.
    """

    def __init__(
        self, source: Source, signals: frozenset[str], *, endpoint: str | None, worker: str, group: str, clock: Clock
    ) -> None:
        for name in _NOISY:
            logging.getLogger(name).addFilter(_SPARSE)
        resource = _resource(worker)
        before = set(threading.enumerate())  # the SDK does not tell which threads it starts
        self._clock = clock
        self._lock = threading.Lock()
        self._stops: list[tuple[Callable[[], None], Callable[[], None]]] = []  # how to end in order, and at once
        self._traces: _Traces | None = None
        if "traces" in signals:
            exporter = OTLPSpanExporter(_url(endpoint, "traces"))
            self._traces = _Traces(exporter, resource, group)
            self._stops.append((self._traces.processor.shutdown, exporter.shutdown))
        if "metrics" in signals:
            otlp = OTLPMetricExporter(_url(endpoint, "metrics"))
            self._stops.append((_meters(otlp, source, resource, group, clock).shutdown, otlp.shutdown))
        self.threads = tuple(thread for thread in threading.enumerate() if thread not in before)
        self._tokens = float(SPANS_PER_S_MAX)
        self._refilled_ns = clock.now_ns()

    def begin(self) -> bool:
        """Whether there is room for the spans of one more batch; it is taken."""
        return self._traces is not None and self._affords(BATCH_SPANS)

    def spend(self, spans: int) -> None:
        """These, too: a batch is traced whole, and may overdraw this second's allowance once."""
        with self._lock:
            self._tokens -= spans

    def batch(self, times: BatchTimes) -> BatchSpan | None:
        """Export the span of an acknowledged batch, and return which it is; nothing where it is not traced.

        A batch is traced when one of its requests is, or else when the sampler (OTEL_TRACES_SAMPLER) says so.
        It is traced whole or not at all: over the rate it and the spans of its requests are dropped.
        """
        if self._traces is None or not times.parts:
            return None
        if times.untraced:
            self._traces.drop(times.untraced + BATCH_SPANS)
            return None
        if not any(part.traced for part in times.parts):  # else it has begun
            if not self._traces.sampled(times.model):
                return None
            if not self._affords(BATCH_SPANS):
                self._traces.drop(BATCH_SPANS)
                return None
        batch = self._traces.builder.decide()
        self._traces.hand_over(BATCH_SPANS, partial(self._traces.builder.batch, times, batch))
        return batch

    def requests(self, finished: Sequence[tuple[Finished, BatchSpan | None]], measured: Measured) -> None:
        """Export the spans of committed parts' sampled requests, where their batch was traced."""
        if self._traces is None or all(batch is None for _, batch in finished):
            return
        for (each, batch), times in zip(finished, measured.parts(), strict=True):
            if batch is not None and (traced := each.part.traced):
                theirs = times.only([request.position for request in traced])
                self._traces.hand_over(len(traced), partial(self._traces.builder.requests, each, theirs, batch))

    def spans_dropped(self) -> int:
        """Spans that did not reach the endpoint."""
        return self._traces.lost() if self._traces is not None else 0

    def shutdown(self) -> None:
        """Export what is left, for at most `SHUTDOWN_S_MAX`; an endpoint that is slower gets no more."""
        deadline_s = time.monotonic() + SHUTDOWN_S_MAX
        stopping = [
            (threading.Thread(target=stop, name="telemetry-stop", daemon=True), abandon)
            for stop, abandon in self._stops
        ]
        for thread, _ in stopping:
            thread.start()
        for thread, abandon in stopping:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                abandon()
        if self._traces is not None:
            self._traces.close()

    def _affords(self, spans: int) -> bool:
        """Take from this second's allowance, if there is any."""
        with self._lock:
            now_ns = self._clock.now_ns()
            earned = (now_ns - self._refilled_ns) / 1e9 * SPANS_PER_S_MAX
            self._tokens, self._refilled_ns = min(self._tokens + earned, SPANS_PER_S_MAX), now_ns
            if self._tokens <= 0:
                return False
            self._tokens -= spans
            return True


class _Spans(ReadableSpan):
    """Some spans to be made, as something sampled, which is all that the SDK's processor wants of it."""

    _context = _SAMPLED

    def __init__(self, count: int, make: Callable[[], list[bytes]]) -> None:
        self.count = count
        self.make = make


class _CountingExporter(SpanExporter):
    """Makes and sends spans, counts what it took and what was lost, on the SDK's thread.

    Many are made at once, in half the time: from one batch to the next the flow leaves nothing of what makes them in
    the processor's caches.
    """

    def __init__(self, otlp: OTLPSpanExporter, resource: Resource) -> None:
        self.taken = 0
        self.exported = 0
        self.failed = 0
        self._otlp: SpanExporter = otlp
        # The exporter's own way out, behind its encoding of the SDK's spans; no public name says it.
        self._send = otlp._client.export  # noqa: SLF001 - see above
        scope = InstrumentationScope(SCOPE, _version())
        around = encode_spans([ReadableSpan("", _SAMPLED, resource=resource, instrumentation_scope=scope)])
        [of_resource] = around.resource_spans
        [of_scope] = of_resource.scope_spans
        of_scope.ClearField("spans")
        self._scope = of_scope.SerializeToString()
        of_resource.ClearField("scope_spans")
        self._resource = of_resource.SerializeToString()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        groups = [each for each in spans if isinstance(each, _Spans)]  # only these are handed over
        count = sum(group.count for group in groups)
        self.taken += count
        contents = [content for group in groups for content in group.make()]
        of_scope = self._scope + _repeated(ScopeSpans.SPANS_FIELD_NUMBER, contents)
        of_resource = self._resource + _repeated(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER, [of_scope])
        if self._send(_repeated(ExportTraceServiceRequest.RESOURCE_SPANS_FIELD_NUMBER, [of_resource])).success:
            self.exported += count
            return SpanExportResult.SUCCESS
        self.failed += count
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._otlp.shutdown()


class _Traces:
    """The way of spans out: a bounded queue before the SDK's processor, so that it never has to complain."""

    def __init__(self, otlp: OTLPSpanExporter, resource: Resource, group: str) -> None:
        self._exporter = _CountingExporter(otlp, resource)
        self.processor = BatchSpanProcessor(
            self._exporter, max_queue_size=SPANS_QUEUED_MAX, max_export_batch_size=GROUPS_EXPORTED_MAX
        )
        self.builder = SpanBuilder(group)
        self._sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
        self._lock = threading.Lock()
        self._handed = 0
        self._dropped = 0
        self._closed = False

    def sampled(self, name: str) -> bool:
        return self._sampler.should_sample(None, random.getrandbits(128), name).decision is Decision.RECORD_AND_SAMPLE

    def hand_over(self, count: int, make: Callable[[], list[bytes]]) -> None:
        """These many spans are exported, once they are made, or dropped together."""
        with self._lock:
            if self._closed or self._handed - self._exporter.taken + count > SPANS_QUEUED_MAX:
                self._dropped += count
                return
            self._handed += count
            self.processor.on_end(_Spans(count, make))

    def drop(self, spans: int) -> None:
        with self._lock:
            self._dropped += spans

    def close(self) -> None:
        """No span is taken any more; those still queued are lost."""
        with self._lock:
            self._closed = True

    def lost(self) -> int:
        with self._lock:
            exporter = self._exporter
            # After the end whatever did not get through never will; before, what waits still may.
            return self._dropped + (self._handed - exporter.exported if self._closed else exporter.failed)


def _repeated(field: int, messages: Iterable[bytes]) -> bytes:
    """Serialised messages as another has them in a repeated field, whose number is below 16.

    https://protobuf.dev/programming-guides/encoding/
    """
    tag = bytes([field << 3 | 2])
    return b"".join([part for message in messages for part in (tag, _varint(len(message)), message)])


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first; all but the last have the eighth set."""
    low = bytearray()
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    low.append(number)
    return bytes(low)


def _meters(otlp: OTLPMetricExporter, source: Source, resource: Resource, group: str, clock: Clock) -> MeterProvider:
    def unix_ns() -> int:
        return round(clock.unix_ms() * 1e6)

    exporter = JoiningExporter(otlp, source, group=group, start_unix_ns=unix_ns(), unix_ns=unix_ns)
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], resource, shutdown_on_exit=False)
    add_instruments(provider.get_meter(SCOPE, _version()), source)
    return provider


def _url(endpoint: str | None, signal: str) -> str | None:
    """The signal's URL under a base URL; nothing leaves it to the standard variables."""
    return f"{endpoint.rstrip('/')}/v1/{signal}" if endpoint else None


def _resource(worker: str) -> Resource:
    """This worker, as OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES describe it, or as Sluice does."""
    resource = Resource.create({"service.instance.id": worker or uuid4().hex, "service.version": _version()})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "sluice"}))
    return resource


def _version() -> str:
    try:
        return metadata.version("sluice")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0"


class _Sparse(logging.Filter):
    """Lets one record a minute of each logger through: an endpoint that is down must not fill the disk with it."""

    def __init__(self) -> None:
        super().__init__()
        self._said_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = time.monotonic()
        if now_s - self._said_s.get(record.name, -LOG_EVERY_S) < LOG_EVERY_S:
            return False
        self._said_s[record.name] = now_s
        return True


_SPARSE = _Sparse()
