"""Spans built after the fact: one per batch with its stages, one per sampled request, linked both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from pipeline.observe.stages import BatchTimes, Part, Stage, Traced
from pipeline.observe.timings import Finished, Measured
from pipeline.observe.tracecontext import nonzero_bits, split_traceparent

__all__ = ["BATCH_SPANS", "LINKS_MAX", "SpanBuilder"]

BATCH_STAGES = (Stage.COPY, Stage.DEVICE_WAIT, Stage.COMPUTE, Stage.ENCODE, Stage.PUBLISH)
BATCH_SPANS = 1 + len(BATCH_STAGES)
LINKS_MAX = 128  # the SDK's and most back ends' limit per span
TRACESTATE_CHARS_MAX = 512  # what W3C asks everyone to pass on; a client's longer one is left out
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class SpanBuilder:
    """Makes finished spans from moments; stateless but for what all spans share."""

    def __init__(
        self, resource: Resource, scope: InstrumentationScope, group: str, new_id: Callable[[int], int] = nonzero_bits
    ) -> None:
        self._resource = resource
        self._scope = scope
        self._new_id = new_id
        self._kafka: dict[str, AttributeValue] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }
        if group:
            self._kafka["messaging.consumer.group.name"] = group

    def batch(self, times: BatchTimes) -> tuple[SpanContext, list[ReadableSpan]]:
        """The span of an acknowledged batch, from its plan to its acknowledgement, and a child per stage between.

        It is the root of a trace of its own and links to the spans of its first `LINKS_MAX` sampled requests.
        """
        context = SpanContext(self._new_id(128), self._new_id(64), is_remote=False, trace_flags=_SAMPLED)
        sampled = islice((traced for part in times.parts for traced in part.traced), LINKS_MAX)
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
        spans = [
            self._span(
                f"process {first.topic}",
                context,
                None,
                SpanKind.CONSUMER,
                {
                    **self._kafka,
                    "messaging.destination.name": first.topic,
                    "messaging.batch.message_count": sum(part.timestamps_ms.size for part in times.parts),
                    "sluice.model": times.model,
                    "sluice.batch.rows": times.rows,
                    "sluice.batch.rows_padded": times.padded_rows,
                },
                moments_ns[0],
                moments_ns[-1],
                [Link(self._request_context(traced)) for traced in sampled],
            )
        ]
        for stage, start_ns, end_ns in zip(BATCH_STAGES, moments_ns, moments_ns[1:], strict=False):
            child = SpanContext(context.trace_id, self._new_id(64), is_remote=False, trace_flags=_SAMPLED)
            kind = SpanKind.PRODUCER if stage is Stage.PUBLISH else SpanKind.INTERNAL
            spans.append(self._span(str(stage), child, context, kind, {"sluice.stage": stage}, start_ns, end_ns))
        return context, spans

    def _request_context(self, traced: Traced) -> SpanContext:
        """The identity of a sampled request's span, in its client's trace."""
        trace_id, _, flags = split_traceparent(traced.traceparent)
        return SpanContext(
            trace_id, traced.span_id, is_remote=False, trace_flags=TraceFlags(flags), trace_state=_state(traced)
        )

    def requests(self, finished: Finished, measured: Measured, batch: SpanContext) -> list[ReadableSpan]:
        """A span per sampled request of a part, Kafka timestamp to commit, its stages as attributes in µs.

        ``measured`` is of these alone, in their order.
        """
        part, end_ns = finished.part, round(finished.committed_unix_ms * 1e6)
        shared_us = dict(zip(list(Stage)[1:], (measured.shared_s[0] * 1e6).tolist(), strict=True))
        spans = []
        for at, traced in enumerate(part.traced):
            context = self._request_context(traced)
            dwell_us = float(measured.kafka_dwell_s[at]) * 1e6
            start_ns = end_ns - round(float(measured.end_to_end_s[at]) * 1e9)
            stages = {Stage.KAFKA_DWELL: dwell_us, **shared_us}
            attributes = self._request_attributes(part, traced, finished.times.model)
            attributes |= {f"sluice.stage.{stage}_us": round(us, 1) for stage, us in stages.items()}
            _, parent_id, flags = split_traceparent(traced.traceparent)
            parent = SpanContext(
                context.trace_id,
                parent_id,
                is_remote=True,
                trace_flags=TraceFlags(flags),
                trace_state=context.trace_state,
            )
            links = [Link(batch)]
            name = f"process {part.topic}"
            spans.append(self._span(name, context, parent, SpanKind.CONSUMER, attributes, start_ns, end_ns, links))
        return spans

    def _request_attributes(self, part: Part, traced: Traced, model: str) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {
            **self._kafka,
            "messaging.destination.name": part.topic,
            "messaging.destination.partition.id": str(part.partition),
            "messaging.message.id": traced.request_id,
            "sluice.model": model,
        }
        if traced.offset is not None:
            attributes["messaging.kafka.offset"] = traced.offset
        return attributes

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, AttributeValue],
        start_ns: int,
        end_ns: int,
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            links=links,
            kind=kind,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )


def _state(traced: Traced) -> TraceState | None:
    given = traced.tracestate
    return TraceState.from_header([given]) if given and len(given) <= TRACESTATE_CHARS_MAX else None
