"""One batch's predictions: encoded, produced, and finished in the ledger when all are acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress, pairwise, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

import orjson
from confluent_kafka import KafkaException

from pipeline.infer import Batch, Run
from pipeline.infer.backend import bucket_of
from pipeline.models import Model
from pipeline.observe import BatchTimes, Part, Stage, Traced, continue_trace
from pipeline.publish.emission import Emission
from pipeline.publish.producer import ANY_PARTITION, NOW, OnDelivery
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
            settle, record = partial(self._settle, run), partial(self._record, run)
            if publisher.transactions is not None:
                refuse, instead = partial(self._too_large, run), partial(self._emit_rejection, run)
                emission = Emission(publisher, len(run.values), record, refuse, instead)
                emit, doubts = partial(self._emit, run, emission), partial(self._doubts, run, emission)
                publisher.transactions.add(Outcome(run.chunk, run.indices, emit, settle, doubts, lost=settle))
                continue
            flight = publisher.flight(len(run.values), settle, record, partial(self._refuse, run))
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
        if len(run.traced) > told:  # before the loop: a transaction that has failed takes none
            self._publisher.observer.traced(len(run.traced) - told)
        for position, (key, value, request_id, source, more) in enumerate(columns):
            headers: HeaderList = [("request-id", request_id), content_type, status, model, ("source", source), *more]
            try:
                produce(topic, value, key, ANY_PARTITION, report, None, NOW, headers)
            except (BufferError, KafkaException):
                slowly(position, Record(topic, value, key, headers))
        self._produced_ns = self._publisher.clock.now_ns()

    def _emit(self, run: _Encoded, emission: Emission) -> None:
        """Produce a run in the open transaction; with dead letters for what was found too large in an earlier one."""
        if emission.doubts():
            emission.emit()
        else:
            self._produce(run, emission.reported, emission.emit_one)

    def _emit_rejection(self, run: _Encoded, position: int) -> None:
        if position not in run.rejections:
            records = rejection(self._model, "publish", run.chunk, run.indices[position], run.refused[position])
            run.rejections[position] = self._publisher.emission(records, self._publisher.rejection_refused)
        run.rejections[position].emit()

    def _doubts(self, run: _Encoded, emission: Emission) -> int:
        return emission.doubts() + sum(rejected.doubts() for rejected in run.rejections.values())

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
        """A prediction made anew, for a delivery that failed; None where it is refused, or its assignment lost (I3)."""
        if position in run.refused or not self._publisher.ledger.is_current(run.chunk):
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
        why = self._too_large(run, position, reason)
        self._publisher.reject(self._model, "publish", run.chunk, [(run.indices[position], why)])

    def _too_large(self, run: _Encoded, position: int, reason: str) -> BadRequest:
        self._publisher.forget(run.run.admitted, [run.run.lo + position])  # before anybody can read of it
        return run.refuse(position, reason)

    def _settle(self, run: _Encoded) -> None:
        """The broker has the run: finish its requests; with the last run, account for the batch's time."""
        observer, name = self._publisher.observer, self._model.name
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
        # What was lost since is committed by its new owner, and what is refused is no answer.
        current = self._publisher.ledger.is_current
        told = [run for run in self._runs if len(run.refused) < len(run.indices) and current(run.chunk)]
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
                parts=tuple(run.part() for run in told),
                untraced=sum(sum(run.headers.column("sampled")) for run in told) if self._traces is False else 0,
            )
        )


class _Encoded:
    """One run's predictions as bytes, with what names them."""

    __slots__ = (
        "chunk", "headers", "indices", "refused", "rejections", "request_ids", "run", "sources", "stages", "traced",
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
        self.rejections: dict[int, Emission] = {}  # in transactions, of those
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

    def part(self) -> Part:
        """What the observer keeps of the run."""
        admitted = self.run.admitted
        chunk = admitted.chunk
        stamps_ms, traced = chunk.timestamps_ms()[self._span()], tuple(self.traced.values())
        if self.refused:
            kept = [position for position in range(len(self.indices)) if position not in self.refused]
            stamps_ms = stamps_ms[kept]
            traced = tuple(self.traced[p]._replace(position=at) for at, p in enumerate(kept) if p in self.traced)
        return Part(
            topic=chunk.topic,
            partition=chunk.partition,
            last_offset=chunk.offsets[self.indices[-1]],
            timestamps_ms=stamps_ms,
            polled_unix_ms=chunk.polled_unix_ms,
            polled_ns=chunk.polled_ns,
            decoded_ns=admitted.decoded_ns,
            traced=traced,
        )

    def finish(self, *, without_refused: bool = False) -> int:
        """Finish the requests, return how many this was: none where the assignment was lost."""
        if self.refused and without_refused:
            return self.chunk.finish([index for p, index in enumerate(self.indices) if p not in self.refused])
        return self.chunk.finish(self._span())

    def _span(self) -> slice | list[int]:
        indices = self.indices
        return slice(indices.start, indices.stop) if isinstance(indices, range) else list(indices)
