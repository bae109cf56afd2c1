"""One batch's predictions: encoded, produced, and finished in the ledger when all are acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import orjson
from confluent_kafka import KafkaException

from pipeline.infer import Batch, Run
from pipeline.infer.backend import bucket_of
from pipeline.models import Model
from pipeline.observe import BatchTimes, Part, Stage, Traced, continue_trace
from pipeline.publish.flight import Flight, Record
from pipeline.publish.terminal import HeaderList
from topics.codes import BadRequest, Code
from topics.records import Header, Status
from topics.signature import Columns

if TYPE_CHECKING:
    from pipeline.publish.publisher import Publisher

__all__ = ["Predictions"]


class Predictions:
    """Publishes what a batch answered. Lives until the broker has acknowledged all of it."""

    def __init__(
        self, publisher: Publisher, model: Model, batch: Batch, outputs: Sequence[tuple[Run, Columns]]
    ) -> None:
        self._publisher = publisher
        self._model = model
        self._batch = batch
        self._runs = [run for run, _ in outputs]
        self._constant: HeaderList = [(str(Header.STATUS), str(Status.OK)), (str(Header.MODEL), model.label)]
        self._encoded = [_Encoded(run, columns, model) for run, columns in outputs]
        self._ready_ns = publisher.clock.now_ns()
        self._traced: list[tuple[Traced, ...]] = []
        count = sum(map(len, self._runs))
        if count:
            # One more than there are: it settles only when all are produced, though the last may be refused at once.
            flight = Flight(count + 1, self._settle, self._record, self._refused)
            first = 0
            for encoded in self._encoded:
                self._traced.append(self._produce(flight, encoded, first))
                first += len(encoded.values)
            self._produced_ns = publisher.clock.now_ns()
            flight.arrived()

    def _produce(self, flight: Flight, encoded: _Encoded, first: int) -> tuple[Traced, ...]:
        """Produce a run's predictions; the loop of the hot path: nothing in it that can be outside."""
        admitted = encoded.run.admitted
        chunk, codec = admitted.chunk, admitted.codec
        publisher, topic = self._publisher, self._model.topics.predictions
        produce, delivered = publisher.produce, publisher.delivered
        status, model = self._constant
        content_type = (str(Header.CONTENT_TYPE), codec.content_type)
        uniform = admitted.uniform
        plain = uniform is not None and uniform.traceparent is None and not uniform.stages
        traced: list[Traced] = []
        messages = [chunk.messages[index] for index in encoded.indices]
        slow = 0
        for position, (message, value, request_id, source) in enumerate(
            zip(messages, encoded.values, encoded.request_ids, encoded.sources, strict=True)
        ):
            headers: HeaderList = [
                ("request-id", request_id),
                content_type,
                status,
                model,
                ("source", source),
            ]
            if not plain:
                self._extend(headers, encoded, position, traced)
            try:
                produce(
                    topic,
                    value,
                    message.key(),
                    headers=headers,
                    on_delivery=partial(delivered, flight, first + position),
                )
            except (BufferError, KafkaException):
                publisher.send(flight, first + position, Record(topic, value, message.key(), headers))
                slow += 1
        publisher.unacked += len(messages) - slow
        return tuple(traced)

    def _extend(self, headers: HeaderList, encoded: _Encoded, position: int, traced: list[Traced]) -> None:
        """Headers only some requests ask for: their stages, and the trace that goes on."""
        read = encoded.run.admitted.headers(encoded.run.lo + position)
        if read.stages or read.sampled:
            headers.append((Header.STAGES, self._stages(encoded, position)))
        if read.traceparent is None:
            return
        traceparent = read.traceparent
        if read.sampled and self._publisher.observer.tracing:  # else nobody exports the span it would name
            continued = continue_trace(traceparent)
            offset = encoded.run.admitted.chunk.offsets[encoded.indices[position]]
            traced.append(
                Traced(
                    position,
                    encoded.request_ids[position],
                    traceparent,
                    read.tracestate,
                    continued.span_id,
                    offset,
                )
            )
            traceparent = continued.traceparent
        headers.append((Header.TRACEPARENT, traceparent))
        if read.tracestate is not None:
            headers.append((Header.TRACESTATE, read.tracestate))

    def _stages(self, encoded: _Encoded, position: int) -> str:
        """The stages that are over when the prediction is produced, in microseconds, as compact JSON."""
        admitted, batch = encoded.run.admitted, self._batch
        chunk = admitted.chunk
        stamp_ms = int(chunk.timestamps_ms()[encoded.indices[position]])
        moments = (
            chunk.polled_ns,
            admitted.decoded_ns,
            batch.planned_ns,
            batch.copied_ns,
            batch.started_ns,
            batch.computed_ns,
            self._ready_ns,
        )
        names = (Stage.DECODE, Stage.WINDOW_WAIT, Stage.COPY, Stage.DEVICE_WAIT, Stage.COMPUTE, Stage.ENCODE)
        dwell_us = max(0, round((chunk.polled_unix_ms - stamp_ms) * 1000))
        pairs = zip(names, moments, moments[1:], strict=False)
        return orjson.dumps(
            {str(Stage.KAFKA_DWELL): dwell_us, **{str(n): (b - a) // 1000 for n, a, b in pairs}}
        ).decode()

    def _record(self, position: int) -> Record | None:
        """A prediction made anew, for a delivery that failed."""
        encoded, position = self._locate(position)
        if not self._publisher.ledger.is_current(encoded.run.admitted.chunk):
            return None
        index = encoded.indices[position]
        headers: HeaderList = [
            (Header.REQUEST_ID, encoded.request_ids[position]),
            (Header.CONTENT_TYPE, encoded.run.admitted.codec.content_type),
            *self._constant,
            (Header.SOURCE, encoded.sources[position]),
        ]
        self._extend(headers, encoded, position, [])
        key = encoded.run.admitted.chunk.messages[index].key()
        return Record(self._model.topics.predictions, encoded.values[position], key, headers)

    def _refused(self, position: int, reason: str) -> None:
        """A prediction the broker will never take becomes a dead letter of its request."""
        encoded, position = self._locate(position)
        admitted = encoded.run.admitted
        size = len(encoded.values[position])
        why = BadRequest(Code.PREDICTION_TOO_LARGE, f"a prediction of {size} bytes: {reason}")
        encoded.refused.add(position)
        self._publisher.reject(self._model, "publish", admitted.chunk, [(encoded.indices[position], why)])

    def _locate(self, position: int) -> tuple[_Encoded, int]:
        for encoded in self._encoded:
            if position < len(encoded.values):
                return encoded, position
            position -= len(encoded.values)
        raise AssertionError("no such position")

    def _settle(self) -> None:
        """The broker has them all: finish the requests, and account for their time."""
        publisher, batch = self._publisher, self._batch
        acked_ns = publisher.clock.now_ns()
        parts = []
        for encoded, traced in zip(self._encoded, self._traced, strict=True):
            parts.append(encoded.part(traced))
        publisher.observer.batch_acked(
            BatchTimes(
                model=self._model.label,
                rows=batch.rows,
                padded_rows=bucket_of(batch.rows, self._model.manifest.buckets),
                planned_ns=batch.planned_ns,
                copied_ns=batch.copied_ns,
                started_ns=batch.started_ns,
                computed_ns=batch.computed_ns,
                encoded_ns=self._produced_ns,
                acked_ns=acked_ns,
                parts=tuple(parts),
            )
        )
        for encoded in self._encoded:
            publisher.observer.answered(self._model.name, encoded.finish())


class _Encoded:
    """One run's predictions as bytes, with what names them."""

    __slots__ = ("indices", "refused", "request_ids", "run", "sources", "values")

    def __init__(self, run: Run, columns: Columns, model: Model) -> None:
        admitted = run.admitted
        chunk = admitted.chunk
        self.run = run
        self.indices: Sequence[int] = admitted.indices[run.lo : run.hi]
        prefix = f"{chunk.topic}/{chunk.partition}/"
        offsets = chunk.offsets
        self.sources = [prefix + str(offsets[index]) for index in self.indices]
        if admitted.uniform is not None and admitted.uniform.request_id is None:
            self.request_ids: Sequence[str] = self.sources
        else:
            self.request_ids = [
                admitted.headers(request).request_id or source
                for request, source in zip(range(run.lo, run.hi), self.sources, strict=True)
            ]
        bounds = admitted.row_start[run.lo : run.hi + 1] - admitted.row_start[run.lo]
        self.values: Sequence[bytes] = admitted.codec.encode_responses(
            columns,
            bounds,
            model.signature.outputs,
            model=model.name,
            version=model.version,
            request_ids=self.request_ids,
        )
        self.refused: set[int] = set()

    def part(self, traced: tuple[Traced, ...]) -> Part:
        """What the observer keeps of the run."""
        admitted = self.run.admitted
        chunk = admitted.chunk
        return Part(
            topic=chunk.topic,
            partition=chunk.partition,
            last_offset=chunk.offsets[self.indices[-1]],
            timestamps_ms=chunk.timestamps_ms()[self._span()],
            polled_unix_ms=chunk.polled_unix_ms,
            polled_ns=chunk.polled_ns,
            decoded_ns=admitted.decoded_ns,
            traced=traced,
        )

    def finish(self) -> int:
        """Finish the requests, return how many this was; that of a refused prediction ends with its dead letter."""
        if self.refused:
            return self.run.admitted.chunk.finish([x for p, x in enumerate(self.indices) if p not in self.refused])
        return self.run.admitted.chunk.finish(self._span())

    def _span(self) -> slice | list[int]:
        indices = self.indices
        return slice(indices.start, indices.stop) if isinstance(indices, range) else list(indices)
