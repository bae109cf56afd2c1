"""``application/octet-stream``: the tensors' bytes, row-major and little-endian, and nothing else.

A request is all rows of the first input, then all rows of the second, and so on; the number of rows is the length
over the bytes of one row of all inputs. A response is the rows of the first output. A bool is one byte, 0 or 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import compress

import numpy as np

from topics.codecs.codec import Array, Bounds, Decoded, ModelName, check_columns, check_value, checked, split_rows
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import RAW
from topics.signature import Columns, Tensor

__all__ = ["RawCodec"]

assert sys.byteorder == "little", "tensors travel as they lie in memory: little-endian machines only"


class RawCodec:
    """See the module. Nothing is done per row, and per request only where requests differ in length."""

    content_type = RAW

    def decode_requests(
        self,
        values: Sequence[bytes | None],
        inputs: tuple[Tensor, ...],
        limits: RequestLimits,
        *,
        allow_not_finite: bool = False,
        model: ModelName | None = None,
    ) -> Decoded:
        """`Codec.decode_requests`. A value of any other length than whole rows is ``WRONG_SHAPE``."""
        lengths = _lengths(values)
        row_bytes = sum(tensor.row_bytes for tensor in inputs)
        rows, rest = np.divmod(lengths, row_bytes)
        good = (rest == 0) & (rows > 0) & (rows <= limits.rows_max) & (lengths <= limits.value_bytes_max)
        rejected: list[tuple[int, BadRequest]] = []
        if not good.all():
            rejected = [(index, _why(values[index], row_bytes, limits)) for index in np.flatnonzero(~good).tolist()]
            values, rows = list(compress(values, good.tolist())), rows[good]
        columns = _columns(values, rows, inputs)  # type: ignore[arg-type]  # no null among the good ones
        return checked(columns, rows, rejected, allow_not_finite=allow_not_finite)

    def encode_responses(
        self,
        outputs: Columns,
        bounds: Bounds,
        tensors: tuple[Tensor, ...],
        *,
        model: str,
        version: str,
        request_ids: Sequence[str],
    ) -> list[bytes]:
        """`Codec.encode_responses`: the first output alone."""
        return split_rows(outputs[tensors[0].name], bounds, tensors[0])

    def encode_request(self, columns: Columns, inputs: tuple[Tensor, ...], request_id: str | None = None) -> bytes:
        """`Codec.encode_request`; the id is left to the header."""
        return b"".join(array.tobytes() for array in check_columns(columns, inputs))

    def decode_response(self, value: bytes, outputs: tuple[Tensor, ...]) -> dict[str, Array]:
        """`Codec.decode_response`: the first output alone."""
        tensor = outputs[0]
        rows, rest = divmod(len(value), tensor.row_bytes)
        if rest or not rows:
            raise ValueError(f"{len(value)} bytes are not whole rows of {tensor.row_bytes} bytes")
        return _columns([value], np.array([rows]), (tensor,))


def _lengths(values: Sequence[bytes | None]) -> Array:
    """Bytes of each value, -1 for null."""
    try:
        return np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]
    except TypeError:  # None has no length: the rare chunk with a null value
        return np.array([-1 if value is None else len(value) for value in values], np.int64)


def _why(value: bytes | None, row_bytes: int, limits: RequestLimits) -> BadRequest:
    """Why a value is not whole rows within the limits."""
    try:
        length = len(check_value(value, limits))
    except BadRequest as why:
        return why.bare()
    if length % row_bytes:
        return BadRequest(Code.WRONG_SHAPE, f"{length} bytes are not whole rows of {row_bytes} bytes")
    return BadRequest(Code.TOO_MANY_ROWS, f"{length // row_bytes} rows, at most {limits.rows_max} may be")


def _columns(values: Sequence[bytes], rows: Array, inputs: tuple[Tensor, ...]) -> dict[str, Array]:
    """The columns of values of ``rows`` rows each: one join for one input or requests alike, else value by value."""
    if not values:
        return {tensor.name: tensor.empty(0) for tensor in inputs}
    if len(inputs) == 1:
        (tensor,) = inputs
        return {tensor.name: np.frombuffer(b"".join(values), tensor.dtype).reshape(-1, *tensor.shape)}
    if rows.min() != rows.max():
        parts = [_columns([value], rows[at : at + 1], inputs) for at, value in enumerate(values)]
        return {tensor.name: np.concatenate([part[tensor.name] for part in parts]) for tensor in inputs}
    each = int(rows[0])
    matrix, start, columns = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1), 0, {}
    for tensor in inputs:
        # A copy even of one request: where an input of bytes comes first, a view of the next would be unaligned.
        part = matrix[:, start : start + each * tensor.row_bytes].copy()
        columns[tensor.name] = part.view(tensor.dtype).reshape(-1, *tensor.shape)
        start += each * tensor.row_bytes
    return columns
