"""One batch's predictions: encoded, produced, and finished in the ledger when all are acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import orjson
from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.infer import Batch, Run
from pipeline.infer.backend import bucket_of
from pipeline.models import Model
from pipeline.observe import BatchTimes, Part, Stage, Traced, continue_trace
from pipeline.publish.terminal import HeaderList, Record, rejection
from pipeline.publish.transactions import Outcome
from topics.codes import BadRequest, Code
from topics.records import Header, Status
from topics.signature import Columns

if TYPE_CHECKING:
    from pipeline.publish.publisher import Publisher

__all__ = ["Predictions", "Report"]

T = TypeVar("T")
Report = Callable[[int, KafkaError | None, Message], None]
"""Takes a record's position and librdkafka's delivery report."""


class Predictions:
    """Publishes what a batch answered. Lives until the broker has acknowledged all of it."""

    def __init__(
        self, publisher: Publisher, model: Model, batch: Batch, outputs: Sequence[tuple[Run, Columns]]
    ) -> None:
        self._publisher = publisher
        self._model = model
        self._batch = batch
        self._constant: HeaderList = [(str(Header.STATUS), str(Status.OK)), (str(Header.MODEL), model.label)]
        self._runs = [_Encoded(run, columns, model) for run, columns in outputs]
        self._ready_ns = self._produced_ns = publisher.clock.now_ns()
        self._left = len(self._runs)
        for run in self._runs:
            settle = partial(self._settle, run)
            if publisher.transactions is not None:
                publisher.transactions.add(Outcome(run.chunk, run.indices, partial(self._emit, run), settle))
                continue
            # One more than there are: it settles only when all are produced, though the last may be refused at once.
            record, refuse = partial(self._record, run), partial(self._refuse, run)
            flight = publisher.flight(len(run.values) + 1, settle, record, refuse)
            self._produce(run, flight.delivered, partial(publisher.send, flight))
            flight.arrived()

    def _produce(self, run: _Encoded, report: Report, slowly: Callable[[int, Record], None]) -> None:
        """Produce a run's predictions; the loop of the hot path: nothing in it that can be outside.

        What ``produce`` does not take at once goes to ``slowly``.
        """
        admitted = run.run.admitted
        produce, topic = self._publisher.produce, self._model.topics.predictions
        status, model = self._constant
        content_type = (str(Header.CONTENT_TYPE), admitted.codec.content_type)
        uniform = admitted.uniform
        plain = uniform is not None and uniform.traceparent is None and not uniform.stages
        run.traced.clear()
        messages = run.messages()
        columns = zip(range(len(messages)), messages, run.values, run.request_ids, run.sources, strict=True)
        for position, message, value, request_id, source in columns:
            headers: HeaderList = [
                ("request-id", request_id),
                content_type,
                status,
                model,
                ("source", source),
            ]
            if not plain:
                self._extend(headers, run, position)
            try:
                produce(topic, value, message.key(), headers=headers, on_delivery=partial(report, position))
            except (BufferError, KafkaException):
                slowly(position, Record(topic, value, message.key(), headers))
        self._produced_ns = self._publisher.clock.now_ns()

    def _emit(self, run: _Encoded) -> None:
        """Produce a run in the open transaction; as a dead letter what is found too large, now or in an earlier one."""
        publisher, model = self._publisher, self._model
        report = partial(self._undelivered, run)

        def emit(position: int, record: Record) -> None:
            try:
                publisher.emit(position, record, report)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                    raise
                run.refused[position] = run.too_large(position, str(error.args[0].str()))
                reject(position)

        def reject(position: int) -> None:
            why = run.refused[position]
            publisher.emit_all(rejection(model, "publish", run.chunk, run.indices[position], why))

        if not run.refused:
            self._produce(run, report, emit)
            return
        for position in range(len(run.indices)):
            if position in run.refused:
                reject(position)
            elif (record := self._record(run, position)) is not None:
                emit(position, record)

    def _undelivered(self, run: _Encoded, position: int, error: KafkaError | None, message: Message) -> None:
        """A record failed, and with it its transaction; one that is too large is not tried again."""
        if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            run.refused[position] = run.too_large(position, error.str())

    def _extend(self, headers: HeaderList, run: _Encoded, position: int) -> None:
        """Headers only some requests ask for: their stages, and the trace that goes on."""
        read = run.run.admitted.headers(run.run.lo + position)
        if read.stages or read.sampled:
            headers.append((Header.STAGES, self._stages(run, position)))
        if read.traceparent is None:
            return
        traceparent = read.traceparent
        if read.sampled and self._publisher.observer.tracing:  # else nobody exports the span it would name
            continued = continue_trace(traceparent)
            offset = run.chunk.offsets[run.indices[position]]
            run.traced.append(
                Traced(
                    position,
                    run.request_ids[position],
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

    def _stages(self, run: _Encoded, position: int) -> str:
        """The stages that are over when the prediction is produced, in microseconds, as compact JSON."""
        admitted, batch = run.run.admitted, self._batch
        chunk = admitted.chunk
        stamp_ms = int(chunk.timestamps_ms()[run.indices[position]])
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

    def _record(self, run: _Encoded, position: int) -> Record | None:
        """A prediction made anew, for a delivery that failed; None where its assignment was lost (I3)."""
        if not self._publisher.ledger.is_current(run.chunk):
            return None
        headers: HeaderList = [
            (Header.REQUEST_ID, run.request_ids[position]),
            (Header.CONTENT_TYPE, run.run.admitted.codec.content_type),
            *self._constant,
            (Header.SOURCE, run.sources[position]),
        ]
        self._extend(headers, run, position)
        key = run.chunk.messages[run.indices[position]].key()
        return Record(self._model.topics.predictions, run.values[position], key, headers)

    def _refuse(self, run: _Encoded, position: int, reason: str) -> None:
        """A prediction the broker will never take becomes a dead letter of its request."""
        why = run.refused[position] = run.too_large(position, reason)
        self._publisher.reject(self._model, "publish", run.chunk, [(run.indices[position], why)])

    def _settle(self, run: _Encoded) -> None:
        """The broker has the run: finish its requests; with the last run, account for the batch's time."""
        observer, name = self._publisher.observer, self._model.name
        self._left -= 1
        if self._left == 0:
            self._tell()
        if self._publisher.transactions is None:  # a refused one is finished by its dead letter
            observer.answered(name, run.finish(without_refused=True))
        elif finished := run.finish():
            observer.answered(name, finished - len(run.refused))
            observer.dead_lettered(name, len(run.refused))

    def _tell(self) -> None:
        batch = self._batch
        self._publisher.observer.batch_acked(
            BatchTimes(
                model=self._model.label,
                rows=batch.rows,
                padded_rows=bucket_of(batch.rows, self._model.manifest.buckets),
                planned_ns=batch.planned_ns,
                copied_ns=batch.copied_ns,
                started_ns=batch.started_ns,
                computed_ns=batch.computed_ns,
                encoded_ns=self._produced_ns,
                acked_ns=self._publisher.clock.now_ns(),
                parts=tuple(run.part() for run in self._runs),
            )
        )


class _Encoded:
    """One run's predictions as bytes, with what names them."""

    __slots__ = ("chunk", "indices", "refused", "request_ids", "run", "sources", "traced", "values")

    def __init__(self, run: Run, columns: Columns, model: Model) -> None:
        admitted = run.admitted
        chunk = self.chunk = admitted.chunk
        self.run = run
        self.indices: Sequence[int] = admitted.indices[run.lo : run.hi]
        prefix = f"{chunk.topic}/{chunk.partition}/"
        self.sources = [prefix + str(offset) for offset in self._of(chunk.offsets)]
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
        self.refused: dict[int, BadRequest] = {}
        self.traced: list[Traced] = []

    def messages(self) -> Sequence[Message]:
        """The run's requests."""
        return self._of(self.chunk.messages)

    def _of(self, column: Sequence[T]) -> Sequence[T]:
        span = self._span()
        return column[span] if isinstance(span, slice) else [column[index] for index in span]

    def too_large(self, position: int, reason: str) -> BadRequest:
        """Why a prediction is a dead letter instead."""
        size = len(self.values[position])
        return BadRequest(Code.PREDICTION_TOO_LARGE, f"a prediction of {size} bytes: {reason}")

    def part(self) -> Part:
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
            traced=tuple(self.traced),
        )

    def finish(self, *, without_refused: bool = False) -> int:
        """Finish the requests, return how many this was: none where the assignment was lost."""
        if self.refused and without_refused:
            return self.chunk.finish([index for p, index in enumerate(self.indices) if p not in self.refused])
        return self.chunk.finish(self._span())

    def _span(self) -> slice | list[int]:
        indices = self.indices
        return slice(indices.start, indices.stop) if isinstance(indices, range) else list(indices)
