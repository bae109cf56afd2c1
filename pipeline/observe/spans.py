"""Spans built after the fact: one per batch with its stages, one per sampled request, linked both ways.

They are made as they go over the wire, where messages that stand one after another are merged: what a kind of span,
or those of a part, have in common is serialised once, and stands before what each has of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags as Flags
from opentelemetry.trace import TraceState

from pipeline.observe.stages import BatchTimes, Stage, Traced
from pipeline.observe.timings import Finished, PartTimes
from pipeline.observe.tracecontext import id_bytes, nonzero_bits

__all__ = ["BATCH_SPANS", "LINKS_MAX", "BatchSpan", "SpanBuilder"]

BATCH_STAGES = (Stage.COPY, Stage.DEVICE_WAIT, Stage.COMPUTE, Stage.ENCODE, Stage.PUBLISH)
BATCH_SPANS = 1 + len(BATCH_STAGES)
LINKS_MAX = 128  # the SDK's and most back ends' limit per span
TRACESTATE_CHARS_MAX = 512  # what W3C asks everyone to pass on; a client's longer one is left out
_OURS = Flags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK  # the parent, or what is linked to, is a span of this worker
_REMOTE = _OURS | Flags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_DWELL_US, *_SHARED_US = (f"sluice.stage.{stage}_us" for stage in Stage)


def _without_values(*keys: str) -> Span:
    return Span(attributes=[KeyValue(key=key) for key in keys])


_TOPIC, _MODEL = "messaging.destination.name", "sluice.model"
_OF_BATCH = _without_values(
    _TOPIC, _MODEL, "messaging.batch.message_count", "sluice.batch.rows", "sluice.batch.rows_padded"
)
_OF_PART = _without_values(_TOPIC, "messaging.destination.partition.id", _MODEL, *_SHARED_US)
_OF_REQUEST = _without_values("messaging.message.id", "messaging.kafka.offset", _DWELL_US)


class BatchSpan(NamedTuple):
    """Which span a batch's will be: those of its requests link to it, and none of them need be made yet."""

    trace_id: bytes
    span_id: bytes


class SpanBuilder:
    """Makes finished spans from moments, serialised; holds nothing but what they have in common. Any thread."""

    def __init__(self, group: str, new_id: Callable[[int], int] = nonzero_bits) -> None:
        self._new_id = new_id
        kafka = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            **({"messaging.consumer.group.name": group} if group else {}),
        }
        self._batch = _serialised(Span.SPAN_KIND_CONSUMER, _OURS, kafka)
        self._request = _serialised(Span.SPAN_KIND_CONSUMER, _REMOTE, kafka)
        self._stages = [_serialised(_kind(stage), _OURS, {"sluice.stage": stage}, stage) for stage in BATCH_STAGES]

    def decide(self) -> BatchSpan:
        """Decide the span of a batch."""
        return BatchSpan(self._new_id(128).to_bytes(16), self._new_id(64).to_bytes(8))

    def batch(self, times: BatchTimes, batch: BatchSpan) -> list[bytes]:
        """The span of an acknowledged batch, and a child for each stage between its plan and its acknowledgement.

        It is the root of a trace of its own and links to the spans of its first `LINKS_MAX` sampled requests.
        """
        trace_id, span_id = batch
        first = times.parts[0]
        # Monotonic moments become wall clock ones by the anchor that the first poll of the batch left.
        anchor_ns = round(first.polled_unix_ms * 1e6) - first.polled_ns
        moments_ns = [
            anchor_ns + moment_ns
            for moment_ns in (
                times.planned_ns,
                times.copied_ns,
                times.started_ns,
                times.computed_ns,
                times.encoded_ns,
                times.acked_ns,
            )
        ]
        span, values = _copy(_OF_BATCH)
        span.name = f"process {first.topic}"
        span.trace_id, span.span_id = trace_id, span_id
        span.start_time_unix_nano, span.end_time_unix_nano = moments_ns[0], moments_ns[-1]
        topic, model, messages, rows, padded_rows = values
        topic.string_value, model.string_value = first.topic, times.model
        messages.int_value = sum(part.timestamps_ms.size for part in times.parts)
        rows.int_value, padded_rows.int_value = times.rows, times.padded_rows
        for traced in islice((traced for part in times.parts for traced in part.traced), LINKS_MAX):
            trace, request = id_bytes(traced.continued)
            span.links.add(trace_id=trace, span_id=request, flags=_OURS)
        spans = [self._batch + span.SerializeToString()]
        for stage, start_ns, end_ns in zip(self._stages, moments_ns, moments_ns[1:], strict=False):
            child = Span(
                trace_id=trace_id,
                span_id=self._new_id(64).to_bytes(8),
                parent_span_id=span_id,
                start_time_unix_nano=start_ns,
                end_time_unix_nano=end_ns,
            )
            spans.append(stage + child.SerializeToString())
        return spans

    def requests(self, finished: Finished, measured: PartTimes, batch: BatchSpan) -> list[bytes]:
        """A span per sampled request of a part, Kafka timestamp to commit, its stages as attributes in µs.

        ``measured`` is of these requests alone.
        """
        part, end_ns = finished.part, round(finished.committed_unix_ms * 1e6)
        common, values = _copy(_OF_PART)
        common.name = f"process {part.topic}"
        common.end_time_unix_nano = end_ns
        common.links.add(trace_id=batch.trace_id, span_id=batch.span_id, flags=_OURS)
        topic, partition, model, *shared = values
        topic.string_value, partition.string_value = part.topic, str(part.partition)
        model.string_value = finished.times.model
        for value, seconds in zip(shared, measured.shared_s.tolist(), strict=True):
            value.double_value = round(seconds * 1e6, 1)
        before = self._request + common.SerializeToString()
        own, (message_id, offset, dwell) = _copy(_OF_REQUEST)
        dwells_s, lengths_s = measured.kafka_dwell_s.tolist(), measured.end_to_end_s.tolist()
        spans = []
        for traced, dwell_s, length_s in zip(part.traced, dwells_s, lengths_s, strict=True):
            own.trace_id, own.parent_span_id = id_bytes(traced.traceparent)
            _, own.span_id = id_bytes(traced.continued)
            own.trace_state = _state(traced)
            own.start_time_unix_nano = end_ns - round(length_s * 1e9)
            message_id.string_value = traced.request_id
            offset.int_value = traced.offset
            dwell.double_value = round(dwell_s * 1e6, 1)
            spans.append(before + own.SerializeToString())
        return spans


def _serialised(kind: Span.SpanKind.ValueType, flags: int, values: dict[str, str], name: str = "") -> bytes:
    attributes = [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in values.items()]
    content: bytes = Span(name=name, kind=kind, flags=flags, attributes=attributes).SerializeToString()
    return content


def _copy(template: Span) -> tuple[Span, list[AnyValue]]:
    """A span of its own, and the values of its attributes."""
    span = Span()
    span.CopyFrom(template)
    return span, [pair.value for pair in span.attributes]


def _kind(stage: Stage) -> Span.SpanKind.ValueType:
    return Span.SPAN_KIND_PRODUCER if stage is Stage.PUBLISH else Span.SPAN_KIND_INTERNAL


def _state(traced: Traced) -> str:
    given = traced.tracestate.decode() if traced.tracestate else ""
    return TraceState.from_header([given]).to_header() if given and len(given) <= TRACESTATE_CHARS_MAX else ""
