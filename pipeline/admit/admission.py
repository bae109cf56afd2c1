"""The one parse: a chunk of raw requests becomes columns of typed rows, or a rejection for each bad one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from pipeline.admit.duplicates import Duplicates
from pipeline.admit.headers import HeaderColumns, HeaderReader, RequestHeaders
from pipeline.admit.scattered import Scattered
from pipeline.admit.sequences import by_length
from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.core.limits import Limits
from pipeline.intake import Chunk, RawColumns
from pipeline.models import Model
from topics.codecs import Codec
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits

__all__ = ["Admission", "Admitted", "Reject"]

IntArray = np.ndarray[Any, np.dtype[np.int64]]
Column = np.ndarray[Any, Any] | Scattered
Reject = Callable[[Chunk, Sequence[tuple[int, BadRequest]]], None]
"""Takes a chunk and its bad requests (index in the chunk, why)."""
PassOver = Callable[[Chunk, Sequence[int]], None]
"""Takes a chunk and its duplicates (indices in the chunk)."""

# Requests from this size on, on average, stay where they are, `Scattered`. To lie in one column they would be copied
# twice, into memory that is new each time: of 1 MB each it took as long as bringing them in from Kafka.
SCATTERED_BYTES = 64 * 1024

NO_DEADLINE_MS = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """Requests of one chunk and one content type, trusted from here on.

    Request ``i`` is message ``indices[i]`` of the chunk; its rows are ``row_start[i]:row_start[i+1]`` of each column.
    """

    chunk: Chunk
    columns: Mapping[str, Column]
    row_start: IntArray  # (requests + 1,)
    decoded_ns: int
    indices: Sequence[int]
    headers: HeaderColumns
    deadlines_ms: IntArray | None  # (requests,), Unix, NO_DEADLINE_MS where none; None where no request has one
    length: int | None = None  # what the rows' sequences are padded to; None where the model has none

    def __len__(self) -> int:
        return len(self.row_start) - 1

    @property
    def rows(self) -> int:
        return int(self.row_start[-1])

    @property
    def codec(self) -> Codec:
        return self.headers.common.codec

    def write(self, name: str, first: int, into: np.ndarray[Any, Any]) -> None:
        """Copy as many rows of a column as ``into`` has, from row ``first`` on."""
        column = self.columns[name]
        if isinstance(column, Scattered):
            column.write(first, into)
        else:
            into[:] = column[first : first + len(into)]


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
        """The chunk's good requests: one `Admitted` per content type and length of sequences."""
        bad: list[tuple[int, BadRequest]] = []
        admitted = [
            each
            for requests in self._alike(chunk) or self._mixed(chunk, bad)
            for each in self._decode(chunk, self._wanted(chunk, requests, bad), bad)
        ]
        if bad:
            self._reject(chunk, sorted(bad, key=itemgetter(0)))
        if self._sequences[0]:
            return [part for each in admitted for part in by_length(each, *self._sequences)]
        return admitted

    def _alike(self, chunk: Chunk) -> list[_Requests] | None:
        """All of them, read at once; None where they are not alike enough or one is bad."""
        headers = chunk.headers()
        if not isinstance(headers, RawColumns) or not self._fit(chunk.keys()):
            return None
        said = self._reader.read_columns(headers)
        return None if said is None else [_Requests.of(range(len(said)), said)]

    def _mixed(self, chunk: Chunk, bad: list[tuple[int, BadRequest]]) -> list[_Requests]:
        """Those of each content type, each read by itself."""
        keys, key_bytes_max = chunk.keys(), self._request_limits.key_bytes_max
        groups: dict[str, tuple[list[int], list[RequestHeaders]]] = {}
        for index, raw in enumerate(chunk.headers()):
            try:
                read = self._reader.read(raw)
                if (key := keys[index]) is not None and len(key) > key_bytes_max:
                    raise BadRequest(Code.TOO_LARGE, f"a key of {len(key)} bytes, over {key_bytes_max}")
            except BadRequest as error:
                bad.append((index, error.bare()))
                continue
            indices, each = groups.setdefault(read.codec.content_type, ([], []))
            indices.append(index)
            each.append(read)
        return [_Requests.of(indices, HeaderColumns.of(each)) for indices, each in groups.values()]

    def _fit(self, keys: Sequence[bytes | None]) -> bool:
        return max(map(len, filter(None, keys)), default=0) <= self._request_limits.key_bytes_max

    def _wanted(self, chunk: Chunk, requests: _Requests, bad: list[tuple[int, BadRequest]]) -> _Requests:
        """Without those whose deadline cannot be meant, and those that have been asked before."""
        requests = self._near(chunk, requests, bad)
        if self._duplicates is not None and requests.headers.says("request_id"):
            again = self._duplicates.find(chunk, requests.indices, requests.headers, slo_ms=self._slo_ms)
            if again:
                self._pass_over(chunk, [requests.indices[position] for position in again])
                requests = requests.without(again)
        return requests

    def _near(self, chunk: Chunk, requests: _Requests, bad: list[tuple[int, BadRequest]]) -> _Requests:
        deadlines_ms = requests.deadlines_ms
        if deadlines_ms is None:
            return requests
        horizon_ms, stamps_ms = self._limits.deadline_horizon_ms, chunk.timestamps_ms()
        if len(requests.indices) < len(chunk):
            stamps_ms = stamps_ms[requests.indices]
        far = (deadlines_ms != NO_DEADLINE_MS) & (abs(deadlines_ms - stamps_ms) > horizon_ms)
        positions = np.flatnonzero(far).tolist()
        for position in positions:
            reason = (
                f"deadline {deadlines_ms[position]} is over {horizon_ms} ms from the request's Kafka timestamp "
                f"{stamps_ms[position]}: is a clock wrong?"
            )
            bad.append((requests.indices[position], BadRequest(Code.BAD_DEADLINE, reason)))
        return requests.without(positions) if positions else requests

    def _decode(self, chunk: Chunk, requests: _Requests, bad: list[tuple[int, BadRequest]]) -> list[Admitted]:
        if not requests.indices:
            return []
        values = chunk.values()
        if len(requests.indices) < len(values):
            values = [values[index] for index in requests.indices]
        columns, rows, rejected = self._decoded(requests.headers.common.codec, values)
        if rejected:
            bad.extend((requests.indices[position], error) for position, error in rejected)
            refused = {position for position, _ in rejected}
            if self._duplicates is not None:
                for position in refused:
                    self._duplicates.forget(chunk, requests.indices[position], requests.headers[position])
            requests = requests.without(refused)
        if not requests.indices:
            return []
        row_start = np.zeros(len(requests.indices) + 1, np.int64)
        rows.cumsum(out=row_start[1:])
        return [Admitted(chunk, columns, row_start, self._clock.now_ns(), *requests)]

    def _decoded(
        self, codec: Codec, values: Sequence[bytes | None]
    ) -> tuple[Mapping[str, Column], IntArray, Sequence[tuple[int, BadRequest]]]:
        """The fields of `Decoded`, the columns of large requests scattered."""
        decode = partial(
            codec.decode_requests,
            inputs=self._inputs,
            limits=self._request_limits,
            allow_not_finite=self._allow_not_finite,
            model=self._model,
        )
        # A model of sequences takes them apart by their lengths anyway.
        if self._sequences[0] or sum(map(len, filter(None, values))) < SCATTERED_BYTES * len(values):
            together = decode(values)
            return together.columns, together.rows, together.rejected
        each = [decode([value]) for value in values]
        good = [one for one in each if not one.rejected]
        return (
            {tensor.name: Scattered([one.columns[tensor.name] for one in good]) for tensor in self._inputs},
            np.array([one.rows[0] for one in good], np.int64),
            [(at, why) for at, one in enumerate(each) for _, why in one.rejected],
        )


class _Requests(NamedTuple):
    """Some requests of a chunk, all of one content type."""

    indices: Sequence[int]  # in the chunk
    headers: HeaderColumns
    deadlines_ms: IntArray | None

    @classmethod
    def of(cls, indices: Sequence[int], headers: HeaderColumns) -> _Requests:
        return cls(indices, headers, _deadlines_ms(headers))

    def only(self, positions: Sequence[int]) -> _Requests:
        return _Requests.of([self.indices[at] for at in positions], self.headers.pick(positions))

    def without(self, positions: Collection[int]) -> _Requests:
        return self.only(sorted({*range(len(self.indices))} - {*positions}))


def _deadlines_ms(headers: HeaderColumns) -> IntArray | None:
    """(requests,), `NO_DEADLINE_MS` where one has none; None where none has one."""
    if not headers.says("deadline_ms"):
        return None
    said = headers.column("deadline_ms")
    return np.array([NO_DEADLINE_MS if at is None else at for at in said], np.int64)
