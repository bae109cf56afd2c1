"""What a codec is: a chunk of Kafka values to columns of tensors, and outputs back to values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.signature import Columns, Tensor

__all__ = [
    "RESPONSE_LIMITS",
    "Array",
    "Bounds",
    "Codec",
    "Decoded",
    "ModelName",
    "check_columns",
    "check_value",
    "checked",
    "decode_each",
    "shown",
    "split_rows",
]

Array = np.ndarray[Any, Any]
Bounds = Sequence[int] | Array
"""R + 1 row numbers, ascending, around the rows of R requests."""
ModelName = tuple[str, str]
"""A model's name and version."""
_ANY = 2**31 - 1
# A client asked for what it reads.
RESPONSE_LIMITS = RequestLimits(value_bytes_max=_ANY, rows_max=_ANY, json_bytes_max=_ANY, json_values_max=_ANY)
SHOWN_CHARS_MAX = 60  # of a name that came from outside; a reason is one header of a dead letter


_CASTS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}  # kind of a tensor's dtype -> kinds a client may give


@dataclass(frozen=True, slots=True)
class Decoded:
    """The accepted requests of a chunk as columns, one request after the other, and why the others were not.

    ``columns[name]`` has shape ``(sum(rows), *tensor.shape)`` and may be a read-only view of the values. ``rows`` is
    int64, one entry (>= 1) per accepted request. ``rejected`` holds ``(index into the values, why)``, ascending; the
    accepted requests are the other indices, in order.
    """

    columns: dict[str, Array]
    rows: Array
    rejected: tuple[tuple[int, BadRequest], ...]


class Codec(Protocol):
    """One content type. Stateless to its users, and safe to call from any thread."""

    content_type: str

    def decode_requests(
        self,
        values: Sequence[bytes | None],
        inputs: tuple[Tensor, ...],
        limits: RequestLimits,
        *,
        allow_not_finite: bool = False,
        model: ModelName | None = None,
    ) -> Decoded:
        """Decode a chunk at once. Never raises for what a value holds: a bad one is in ``rejected``, alone (I7).

        A value that can name a model must name ``model`` where that is given, or none.
        """

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
        """One value per request; request i's rows are ``outputs[name][bounds[i]:bounds[i + 1]]`` (at least one)."""

    def encode_request(self, columns: Columns, inputs: tuple[Tensor, ...], request_id: str | None = None) -> bytes:
        """One request's value. Raises ``ValueError`` where ``columns`` are not rows of ``inputs``."""

    def decode_response(self, value: bytes, outputs: tuple[Tensor, ...]) -> dict[str, Array]:
        """A prediction's columns. Raises ``ValueError`` where ``value`` is not a response with ``outputs``."""


def check_value(value: bytes | None, limits: RequestLimits) -> bytes:
    """Return ``value``; raise `BadRequest` where there is nothing to decode, or more than a request may be."""
    if value is None:
        raise BadRequest(Code.NULL_VALUE, "the request has a null value")
    if not value:
        raise BadRequest(Code.EMPTY_VALUE, "the request has an empty value")
    if len(value) > limits.value_bytes_max:
        raise BadRequest(Code.TOO_LARGE, f"the value has {len(value)} bytes, at most {limits.value_bytes_max} may be")
    return value


def shown(name: str) -> str:
    """A name from outside as a reason may quote it: printable ASCII and short."""
    said = ascii(name[: SHOWN_CHARS_MAX + 1])  # in which a character may take ten
    return said if len(said) <= SHOWN_CHARS_MAX + 2 else said[:SHOWN_CHARS_MAX] + "..."


def decode_each(
    values: Sequence[bytes | None],
    inputs: tuple[Tensor, ...],
    limits: RequestLimits,
    decode: Callable[[bytes], Sequence[Array]],
    *,
    allow_not_finite: bool,
) -> Decoded:
    """Decode value by value: ``decode`` gives the arrays of one request in the order of ``inputs``."""
    parts: list[Sequence[Array]] = []
    rejected: list[tuple[int, BadRequest]] = []
    for index, value in enumerate(values):
        try:
            parts.append(decode(check_value(value, limits)))
        except BadRequest as why:
            rejected.append((index, why.bare()))
    columns = {
        tensor.name: _join([part[at] for part in parts]) if parts else tensor.empty(0)
        for at, tensor in enumerate(inputs)
    }
    rows = np.array([len(part[0]) for part in parts], np.int64)
    return checked(columns, rows, rejected, allow_not_finite=allow_not_finite)


def _join(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def checked(
    columns: dict[str, Array], rows: Array, rejected: list[tuple[int, BadRequest]], *, allow_not_finite: bool
) -> Decoded:
    """Decoded requests, less those whose values a tensor may not hold: NaN, infinity, a bool that is neither 0 nor 1.

    A whole chunk is looked at in one pass; only a chunk with a bad value pays for finding whose it is.
    """
    faults: dict[int, BadRequest] = {}
    for name, column in columns.items():
        if column.dtype.kind == "f" and not allow_not_finite:
            good, code, fault = np.isfinite(column), Code.NOT_FINITE, "NaN or infinity"
        elif column.dtype.kind == "b":
            good, code, fault = column.view(np.uint8) <= 1, Code.WRONG_DTYPE, "a bool that is neither 0 nor 1"
        else:
            continue
        if not good.all():
            why = BadRequest(code, f"input {shown(name)} has {fault}")
            bad_rows = ~good.reshape(len(good), -1).all(axis=1)
            for request in np.flatnonzero(np.logical_or.reduceat(bad_rows, np.cumsum(rows) - rows)).tolist():
                faults.setdefault(request, why)
    if faults:
        before = {index for index, _ in rejected}
        accepted = [index for index in range(len(rows) + len(before)) if index not in before]
        rejected = rejected + [(accepted[request], why) for request, why in faults.items()]
        kept = ~np.isin(np.arange(len(rows)), list(faults))
        columns = {name: column[np.repeat(kept, rows)] for name, column in columns.items()}
        rows = rows[kept]
    return Decoded(columns, rows, tuple(sorted(rejected, key=lambda pair: pair[0])))


def split_rows(column: Array, bounds: Bounds, tensor: Tensor) -> list[bytes]:
    """The packed little-endian bytes of each request's rows of ``column`` (`Codec.encode_responses`)."""
    first, requests = int(bounds[0]), len(bounds) - 1
    data = np.ascontiguousarray(column[first : int(bounds[-1])], tensor.dtype)
    # No request is without rows, so as many rows as requests means one each: one C loop makes all the bytes.
    if len(data) == requests > 0:
        one_each: list[bytes] = data.reshape(requests, -1).view(f"V{tensor.row_bytes}").ravel().tolist()
        return one_each
    packed = data.tobytes()
    edges = ((np.asarray(bounds, np.int64) - first) * tensor.row_bytes).tolist()
    return [packed[start:end] for start, end in pairwise(edges)]


def check_columns(columns: Columns, tensors: tuple[Tensor, ...]) -> list[Array]:
    """``columns`` as C-contiguous arrays of the declared dtypes, in the order of ``tensors``.

    Floats become other floats, integers become floats and other integers that hold them. Raises ``ValueError`` for
    names, shapes, dtypes, values and row counts that do not fit.
    """
    unknown = sorted(set(columns) - {tensor.name for tensor in tensors})
    if unknown:
        raise ValueError(f"no such tensor: {', '.join(unknown)}")
    arrays = []
    for tensor in tensors:
        if tensor.name not in columns:
            raise ValueError(f"tensor {tensor.name!r} is missing")
        array = np.asarray(columns[tensor.name])
        if array.shape[1:] != tensor.shape or array.ndim != len(tensor.shape) + 1 or not len(array):
            raise ValueError(f"tensor {tensor.name!r}: shape {array.shape}, needs (rows, *{tensor.shape}), rows > 0")
        arrays.append(_cast(array, tensor))
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"tensors differ in rows: {[len(array) for array in arrays]}")
    return arrays


def _cast(array: Array, tensor: Tensor) -> Array:
    """``array`` in the tensor's dtype, integers only where every value survives."""
    if array.dtype.kind not in _CASTS[tensor.dtype.kind]:
        raise ValueError(f"tensor {tensor.name!r}: {array.dtype} is no {tensor.dtype}")
    if tensor.dtype.kind in "iu":
        kind = np.iinfo(tensor.dtype)
        if int(array.min()) < kind.min or int(array.max()) > kind.max:
            raise ValueError(f"tensor {tensor.name!r}: a value does not fit {tensor.dtype}")
    return np.ascontiguousarray(array, tensor.dtype)
