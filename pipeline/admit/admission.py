"""The one parse: a chunk of raw requests becomes columns of typed rows, or a rejection for each bad one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.admit.duplicates import Duplicates
from pipeline.admit.headers import HeaderReader, RequestHeaders
from pipeline.admit.sequences import by_length
from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.core.limits import Limits
from pipeline.intake import Chunk, RawHeaders
from pipeline.models import Model
from topics.codecs import Codec
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.signature import Columns

__all__ = ["Admission", "Admitted", "Reject"]

IntArray = np.ndarray[Any, np.dtype[np.int64]]
Reject = Callable[[Chunk, Sequence[tuple[int, BadRequest]]], None]
"""Takes a chunk and its bad requests (index in the chunk, why)."""
PassOver = Callable[[Chunk, Sequence[int]], None]
"""Takes a chunk and its duplicates (indices in the chunk)."""

Group = tuple[Sequence[int], Sequence[RequestHeaders]]
"""Requests of one content type: their indices in the chunk, and what their headers say."""

# Requests from this size on, on average, are decoded alone: views of their bytes. To lie in one column they would be
# copied twice, into memory that is new each time: of 1 MB each it took as long as bringing them in from Kafka.
ALONE_BYTES = 64 * 1024

NO_DEADLINE_MS = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """Requests of one chunk and one content type, trusted from here on.

    Request ``i`` is message ``indices[i]`` of the chunk; its rows are ``columns[name][row_start[i]:row_start[i+1]]``.
    """

    chunk: Chunk
    codec: Codec
    columns: Columns
    row_start: IntArray  # (requests + 1,)
    indices: Sequence[int]
    decoded_ns: int
    uniform: RequestHeaders | None  # one reading that holds for every request, else
    each: Sequence[RequestHeaders]  # one per request
    deadlines_ms: IntArray | None  # (requests,), Unix, NO_DEADLINE_MS where none; None where no request has one
    length: int | None = None  # what the rows' sequences are padded to; None where the model has none

    def __len__(self) -> int:
        return len(self.row_start) - 1

    @property
    def rows(self) -> int:
        return int(self.row_start[-1])

    def headers(self, request: int) -> RequestHeaders:
        """What the headers of request ``request`` say."""
        return self.uniform or self.each[request]


class Admission:
    """Decodes and validates chunks of one model; bad requests go to ``reject`` and harm no neighbour (I7).

    With ``duplicates``, requests that have been asked before go to ``pass_over`` undecoded.
    """

    def __init__(
        self,
        model: Model,
        limits: Limits,
        request_limits: RequestLimits,
        *,
        reject: Reject,
        duplicates: Duplicates | None = None,
        pass_over: PassOver = lambda chunk, indices: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._inputs = model.signature.inputs
        self._allow_not_finite = model.manifest.allow_not_finite
        self._limits = limits
        self._request_limits = request_limits
        self._model = (model.name, model.version)
        self._reader = HeaderReader(request_limits, self._model)
        self._reject = reject
        self._duplicates = duplicates
        self._slo_ms = model.manifest.slo_ms
        self._pass_over = pass_over
        self._clock = clock
        self._sequences = (model.manifest.sequences, model.manifest.lengths)

    def __call__(self, chunk: Chunk) -> list[Admitted]:
        """The chunk's good requests: one `Admitted` per content type and length of sequences, or per large request."""
        bad: list[tuple[int, BadRequest]] = []
        headers = chunk.headers()
        admitted = self._uniform(chunk, headers, bad) if _are_equal(headers) else None
        if admitted is None:
            admitted = self._apart(chunk, headers, bad)
        if bad:
            self._reject(chunk, bad)
        if self._sequences[0]:
            return [part for each in admitted for part in by_length(each, *self._sequences)]
        return admitted

    def _uniform(
        self, chunk: Chunk, headers: Sequence[RawHeaders], bad: list[tuple[int, BadRequest]]
    ) -> list[Admitted] | None:
        """All headers are equal: read once. None where they name something each request must have of its own."""
        try:
            one = self._reader.read(headers[0])
        except BadRequest as error:
            bad.extend((index, error.bare()) for index in range(len(chunk)))
            return []
        if one.request_id is not None or one.deadline_ms is not None:
            return None
        if not self._fit(chunk.keys()):
            return None
        return self._decode(chunk, one.codec, range(len(chunk)), one, (), None, bad)

    def _apart(self, chunk: Chunk, headers: Sequence[RawHeaders], bad: list[tuple[int, BadRequest]]) -> list[Admitted]:
        """Each request has headers of its own."""
        admitted: list[Admitted] = []
        for group in self._alike(chunk, headers) or self._mixed(chunk, headers, bad):
            indices, each = group if self._duplicates is None else self._without(self._duplicates, chunk, *group)
            if not indices:
                continue
            admitted += self._decode(chunk, each[0].codec, indices, None, each, _deadlines_ms(each), bad)
        return admitted

    def _alike(self, chunk: Chunk, headers: Sequence[RawHeaders]) -> list[Group] | None:
        """One group of all, read at once; None where they are not alike enough or one is bad."""
        each = self._reader.read_alike(headers)
        if each is None or not self._fit(chunk.keys()):
            return None
        deadlines, horizon_ms = _deadlines_ms(each), self._limits.deadline_horizon_ms  # all have one, or none has
        if deadlines is not None and (abs(deadlines - chunk.timestamps_ms()) > horizon_ms).any():
            return None
        return [(range(len(each)), each)]

    def _mixed(self, chunk: Chunk, headers: Sequence[RawHeaders], bad: list[tuple[int, BadRequest]]) -> list[Group]:
        """One group for each content type, each request read by itself."""
        stamps, keys, key_bytes_max = chunk.timestamps_ms(), chunk.keys(), self._request_limits.key_bytes_max
        groups: dict[str, tuple[list[int], list[RequestHeaders]]] = {}
        for index, raw in enumerate(headers):
            try:
                read = self._reader.read(raw)
                if (key := keys[index]) is not None and len(key) > key_bytes_max:
                    raise BadRequest(Code.TOO_LARGE, f"a key of {len(key)} bytes, over {key_bytes_max}")
                if read.deadline_ms is not None:
                    self._check_deadline(read.deadline_ms, int(stamps[index]))
            except BadRequest as error:
                bad.append((index, error.bare()))
                continue
            indices, each = groups.setdefault(read.codec.content_type, ([], []))
            indices.append(index)
            each.append(read)
        return [*groups.values()]

    def _fit(self, keys: Sequence[bytes | None]) -> bool:
        return max(map(len, filter(None, keys)), default=0) <= self._request_limits.key_bytes_max

    def _without(
        self, duplicates: Duplicates, chunk: Chunk, indices: Sequence[int], each: Sequence[RequestHeaders]
    ) -> Group:
        again = duplicates.find(chunk, indices, each, slo_ms=self._slo_ms)
        if not again:
            return indices, each
        self._pass_over(chunk, [indices[position] for position in again])
        kept = sorted({*range(len(indices))} - {*again})
        return [indices[position] for position in kept], [each[position] for position in kept]

    def _check_deadline(self, deadline_ms: int, stamp_ms: int) -> None:
        if abs(deadline_ms - stamp_ms) > self._limits.deadline_horizon_ms:
            raise BadRequest(
                Code.BAD_DEADLINE,
                f"deadline {deadline_ms} is over {self._limits.deadline_horizon_ms} ms from the "
                f"request's Kafka timestamp {stamp_ms}: is a clock wrong?",
            )

    def _decode(
        self,
        chunk: Chunk,
        codec: Codec,
        indices: Sequence[int],
        uniform: RequestHeaders | None,
        each: Sequence[RequestHeaders],
        deadlines: IntArray | None,
        bad: list[tuple[int, BadRequest]],
    ) -> list[Admitted]:
        values = chunk.values()
        if len(indices) < len(values):
            values = [values[index] for index in indices]
        if len(values) > 1 and sum(map(len, filter(None, values))) >= ALONE_BYTES * len(values):
            return [
                admitted
                for at, index in enumerate(indices)
                for admitted in self._decode(
                    chunk,
                    codec,
                    [index],
                    uniform,
                    each[at : at + 1],
                    None if deadlines is None else deadlines[at : at + 1],
                    bad,
                )
            ]
        decoded = codec.decode_requests(
            values,
            self._inputs,
            self._request_limits,
            allow_not_finite=self._allow_not_finite,
            model=self._model,
        )
        if decoded.rejected:
            bad.extend((indices[position], error) for position, error in decoded.rejected)
            refused = {position for position, _ in decoded.rejected}
            if self._duplicates is not None and uniform is None:
                for position in refused:
                    self._duplicates.forget(chunk, indices[position], each[position])
            kept = [position for position in range(len(indices)) if position not in refused]
            indices = [indices[position] for position in kept]
            each = [each[position] for position in kept] if uniform is None else ()
            deadlines = None if deadlines is None else deadlines[kept]
        if not indices:
            return []
        row_start = np.zeros(len(indices) + 1, np.int64)
        decoded.rows.cumsum(out=row_start[1:])
        return [
            Admitted(chunk, codec, decoded.columns, row_start, indices, self._clock.now_ns(), uniform, each, deadlines)
        ]


def _are_equal(headers: Sequence[RawHeaders]) -> bool:
    # Where each has an id or a trace of its own, the last one tells at once.
    return headers[0] == headers[-1] and headers.count(headers[0]) == len(headers)


def _deadlines_ms(each: Sequence[RequestHeaders]) -> IntArray | None:
    """(requests,), `NO_DEADLINE_MS` where one has none; None where none has one."""
    if all(read.deadline_ms is None for read in each):
        return None
    return np.array([NO_DEADLINE_MS if (at := read.deadline_ms) is None else at for read in each], np.int64)
