"""One batch's predictions: encoded, produced, and finished in the ledger when all are acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress, pairwise, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

import orjson
from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.infer import Batch, Run
from pipeline.infer.backend import bucket_of
from pipeline.models import Model
from pipeline.observe import BatchTimes, Part, Stage, Traced, continue_trace
from pipeline.publish.flight import positions_of
from pipeline.publish.producer import ANY_PARTITION, NOW, OnDelivery, is_too_large
from pipeline.publish.terminal import HeaderList, Pair, Record, rejection
from pipeline.publish.transactions import Outcome
from topics.codes import BadRequest, Code
from topics.records import Header, Status
from topics.signature import Columns

if TYPE_CHECKING:
    from pipeline.publish.publisher import Publisher

__all__ = ["Predictions"]

T = TypeVar("T")

_Own = tuple[bool, bool, bytes | None, bytes | None]
_OWN_FIELDS = ("stages", "sampled", "traceparent", "tracestate")
_own_of = attrgetter(*_OWN_FIELDS)


class Predictions:
    """Publishes what a batch answered. Lives until the broker has acknowledged all of it."""

    def __init__(
        self, publisher: Publisher, model: Model, batch: Batch, outputs: Sequence[tuple[Run, Columns]]
    ) -> None:
        self._publisher = publisher
        self._model = model
        self._batch = batch
        self._constant: HeaderList = [(str(Header.STATUS), str(Status.OK)), (str(Header.MODEL), model.label)]
        rungs = model.manifest.rungs
        self._rung = rungs[batch.rung] if rungs else None
        self._runs = [_Encoded(run, columns, model) for run, columns in outputs]
        self._ready_ns = self._produced_ns = publisher.clock.now_ns()
        self._left = len(self._runs)
        self._traces: bool | None = None  # asked for with the first sampled request
        for run in self._runs:
            settle = partial(self._settle, run)
            if publisher.transactions is not None:
                emit = partial(self._emit, run)
                publisher.transactions.add(Outcome(run.chunk, run.indices, emit, settle, run.doubts))
                continue
            record, refuse = partial(self._record, run), partial(self._refuse, run)
            flight = publisher.flight(len(run.values), settle, record, refuse)
            self._produce(run, flight.delivered, partial(publisher.send, flight))
            flight.arrived()

    def _produce(self, run: _Encoded, report: OnDelivery, slowly: Callable[[int, Record], None]) -> None:
        """Produce a run's predictions; the loop of the hot path: nothing in it that can be outside.

        What ``produce`` does not take at once goes to ``slowly``.
        """
        admitted = run.run.admitted
        produce, topic = self._publisher.produce, self._model.topics.predictions
        status, model = self._constant
        content_type = (str(Header.CONTENT_TYPE), admitted.codec.content_type)
        told = len(run.traced)
        columns = zip(run.keys(), run.values, run.request_ids, run.sources, self._more(run), strict=True)
        for position, (key, value, request_id, source, more) in enumerate(columns):
            headers: HeaderList = [("request-id", request_id), content_type, status, model, ("source", source), *more]
            try:
                produce(topic, value, key, ANY_PARTITION, report, None, NOW, headers)
            except (BufferError, KafkaException):
                slowly(position, Record(topic, value, key, headers))
        if len(run.traced) > told:
            self._publisher.observer.traced(len(run.traced) - told)
        self._produced_ns = self._publisher.clock.now_ns()

    def _emit(self, run: _Encoded) -> None:
        """Produce a run in the open transaction; as a dead letter what is found too large, now or in an earlier one."""
        if not run.refused and not run.suspects:
            self._produce(run, partial(self._reported, run), partial(self._emit_one, run))
            return
        for position in range(len(run.indices)):
            if position in run.refused:
                self._emit_rejection(run, position)
            elif (record := self._record(run, position)) is not None:
                self._emit_one(run, position, record)

    def _emit_one(self, run: _Encoded, position: int, record: Record) -> None:
        publisher = self._publisher
        try:
            if position in run.suspects:
                publisher.emit_alone(record, partial(self._reported_alone, run, position))
            else:
                publisher.emit(record, partial(self._reported, run))
        except KafkaException as error:
            if not is_too_large(error.args[0]):
                raise
            run.refuse(position, error.args[0].str())
            self._emit_rejection(run, position)

    def _emit_rejection(self, run: _Encoded, position: int) -> None:
        why = run.refused[position]
        self._publisher.emit_all(rejection(self._model, "publish", run.chunk, run.indices[position], why))

    def _reported(self, run: _Encoded, error: KafkaError | None, message: Message) -> None:
        """Where a record was too large its transaction has failed; in the next one those that may be it go alone."""
        if (refusal := self._refusal(error, message)) is not None:
            records = [self._record(run, position) for position in range(len(run.values))]
            run.suspects.update(positions_of([(refusal, message)], records))

    def _reported_alone(self, run: _Encoded, position: int, error: KafkaError | None, message: Message) -> None:
        """One that is too large by itself becomes its request's dead letter."""
        if (refusal := self._refusal(error, message)) is not None:
            run.refuse(position, refusal.str())

    def _refusal(self, error: KafkaError | None, message: Message) -> KafkaError | None:
        transactions = self._publisher.transactions
        assert transactions is not None
        return transactions.refusal(error, message)

    def _more(self, run: _Encoded) -> Iterable[Iterable[Pair]]:
        """The headers that only some predictions have: the ladder's rung, stages asked for, the trace that goes on."""
        said, count = run.headers, len(run.values)
        if said.common.stages or "stages" in said.own or said.sparse:
            rows = zip(*map(said.column, _OWN_FIELDS), strict=True)
            return [self._more_of(run, position, own) for position, own in enumerate(rows)]
        columns: list[Iterable[Pair]] = [] if self._rung is None else [repeat(("rung", self._rung), count)]
        if said.says("traceparent"):
            columns.append(zip(repeat("traceparent"), said.column("traceparent"), strict=False))
            if said.says("tracestate"):
                columns.append(zip(repeat("tracestate"), said.column("tracestate"), strict=False))
        if not columns:
            return repeat((), count)
        more: list[Iterable[Pair]] = list(zip(*columns, strict=True))
        for position in compress(range(count), said.column("sampled")):
            more[position] = self._more_of(run, position, _own_of(said[position]))
        return more

    def _more_of(self, run: _Encoded, position: int, own: _Own) -> list[Pair]:
        stages, sampled, traceparent, tracestate = own
        more: list[Pair] = [] if self._rung is None else [("rung", self._rung)]
        if stages or sampled:
            more.append(("stages", self._stages(run, position)))
        if traceparent is None:
            return more
        if sampled and self._begin_trace():
            if position not in run.traced:  # one made anew is of the same span
                run.traced[position] = Traced(
                    position,
                    run.request_ids[position],
                    traceparent,
                    tracestate,
                    continue_trace(traceparent),
                    run.chunk.offsets[run.indices[position]],
                )
            traceparent = run.traced[position].continued
        more.append(("traceparent", traceparent))
        if tracestate is not None:
            more.append(("tracestate", tracestate))
        return more

    def _begin_trace(self) -> bool:
        """Whether the batch is traced; its first sampled request decides."""
        if self._traces is None:
            self._traces = self._publisher.observer.begin_trace()
        return self._traces

    def _stages(self, run: _Encoded, position: int) -> str:
        """The stages that are over when the prediction is produced, in microseconds, as compact JSON."""
        if run.stages is None:
            run.stages = self._shared_stages(run)
        chunk = run.chunk
        dwell_us = max(0, round((chunk.polled_unix_ms - int(chunk.timestamps_ms()[run.indices[position]])) * 1000))
        return f'{{"{Stage.KAFKA_DWELL}":{dwell_us},{run.stages}'

    def _shared_stages(self, run: _Encoded) -> str:
        batch = self._batch
        moments = (
            run.chunk.polled_ns,
            run.run.admitted.decoded_ns,
            batch.planned_ns,
            batch.copied_ns,
            batch.started_ns,
            batch.computed_ns,
            self._ready_ns,
        )
        names = (Stage.DECODE, Stage.WINDOW_WAIT, Stage.COPY, Stage.DEVICE_WAIT, Stage.COMPUTE, Stage.ENCODE)
        pairs = zip(names, pairwise(moments), strict=True)
        return orjson.dumps({str(name): (b - a) // 1000 for name, (a, b) in pairs}).decode().removeprefix("{")

    def _record(self, run: _Encoded, position: int) -> Record | None:
        """A prediction made anew, for a delivery that failed; None where its assignment was lost (I3)."""
        if not self._publisher.ledger.is_current(run.chunk):
            return None
        headers: HeaderList = [
            (Header.REQUEST_ID, run.request_ids[position]),
            (Header.CONTENT_TYPE, run.run.admitted.codec.content_type),
            *self._constant,
            (Header.SOURCE, run.sources[position]),
            *self._more_of(run, position, _own_of(run.headers[position])),
        ]
        key = run.chunk.keys()[run.indices[position]]
        return Record(self._model.topics.predictions, run.values[position], key, headers)

    def _refuse(self, run: _Encoded, position: int, reason: str) -> None:
        """A prediction the broker will never take becomes a dead letter of its request."""
        why = run.refuse(position, reason)
        self._publisher.reject(self._model, "publish", run.chunk, [(run.indices[position], why)])

    def _settle(self, run: _Encoded) -> None:
        """The broker has the run: finish its requests; with the last run, account for the batch's time."""
        observer, name = self._publisher.observer, self._model.name
        if run.refused:
            self._publisher.forget(run.run.admitted, [run.run.lo + position for position in run.refused])
        self._left -= 1
        if self._left == 0:
            self._tell()
        if self._publisher.transactions is None:  # a refused one is finished by its dead letter
            observer.answered(name, run.finish(without_refused=True), self._rung)
        elif finished := run.finish():
            observer.answered(name, finished - len(run.refused), self._rung)
            observer.dead_lettered(name, len(run.refused))

    def _tell(self) -> None:
        batch, acked_ns = self._batch, self._publisher.clock.now_ns()
        if batch.acked is not None:
            batch.acked(batch, acked_ns)
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
                acked_ns=acked_ns,
                parts=tuple(run.part() for run in self._runs),
                untraced=sum(sum(run.headers.column("sampled")) for run in self._runs) if self._traces is False else 0,
            )
        )


class _Encoded:
    """One run's predictions as bytes, with what names them."""

    __slots__ = (
        "chunk", "headers", "indices", "refused", "request_ids", "run", "sources", "stages", "suspects", "traced",
        "values",
    )  # fmt: skip

    def __init__(self, run: Run, columns: Columns, model: Model) -> None:
        admitted = run.admitted
        chunk = self.chunk = admitted.chunk
        self.run = run
        self.indices: Sequence[int] = admitted.indices[run.lo : run.hi]
        self.headers = admitted.headers[run.lo : run.hi]
        prefix = f"{chunk.topic}/{chunk.partition}/"
        self.sources = [prefix + str(offset) for offset in self._of(chunk.offsets)]
        self.request_ids: Sequence[str] = self.sources
        if self.headers.says("request_id"):
            own = zip(self.headers.column("request_id"), self.sources, strict=True)
            self.request_ids = [request_id or source for request_id, source in own]
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
        self.suspects: set[int] = set()  # in a transaction that failed by a size, theirs or a neighbour's
        self.stages: str | None = None  # those all its requests share, as JSON without its beginning
        self.traced: dict[int, Traced] = {}  # by position

    def keys(self) -> Sequence[bytes | None]:
        """The requests' keys."""
        return self._of(self.chunk.keys())

    def _of(self, column: Sequence[T]) -> Sequence[T]:
        span = self._span()
        return column[span] if isinstance(span, slice) else [column[index] for index in span]

    def refuse(self, position: int, reason: str) -> BadRequest:
        """Note and return why a prediction is a dead letter instead."""
        size = len(self.values[position])
        why = self.refused[position] = BadRequest(Code.PREDICTION_TOO_LARGE, f"a prediction of {size} bytes: {reason}")
        return why

    def doubts(self) -> int:
        """How many of its predictions are known to be too large, or suspected."""
        return len(self.suspects) + len(self.refused)

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
            traced=tuple(self.traced.values()),
        )

    def finish(self, *, without_refused: bool = False) -> int:
        """Finish the requests, return how many this was: none where the assignment was lost."""
        if self.refused and without_refused:
            return self.chunk.finish([index for p, index in enumerate(self.indices) if p not in self.refused])
        return self.chunk.finish(self._span())

    def _span(self) -> slice | list[int]:
        indices = self.indices
        return slice(indices.start, indices.stop) if isinstance(indices, range) else list(indices)
