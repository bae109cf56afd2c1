"""``application/json``: requests and responses of the Open Inference Protocol v2, REST form.

A request is ``{"inputs": [{"name", "shape", "datatype", "data"}, ...]}``; the first dimension of a shape is the rows,
``data`` is flat in row-major order or nested as the shape says. ``model_name`` and ``model_version`` may be said, and
must then be those of the topic's model. ``id``, ``parameters``, ``outputs`` and members the protocol does not know are
ignored: the header names the request, and every output is answered. A whole float is good for an integer tensor, an
integer for a float tensor, ``true`` and ``false`` for BOOL alone.

A response has flat data. JSON has no NaN and no infinity: in a response they are ``null``, and a client reads NaN.
Parsing takes many times a value's bytes for a moment, so what it may take is bounded before (`RequestLimits`), and
nesting ends at 1,024 (orjson).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import orjson

from topics.codecs.codec import RESPONSE_LIMITS, Array, Bounds, Decoded, ModelName, check_columns, decode_each, shown
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import JSON
from topics.signature import DATATYPES, Columns, Tensor

__all__ = ["JsonCodec"]

MARKS = (b",", b":", b"[", b"{")  # before each value, list, object and key but the first stands one of them
EXACT_FLOAT_MAX = 2.0**53  # above, a float stands for several integers


class JsonCodec:
    """See the module. One parse per request: the format of people and other languages, not of the fastest clients."""

    content_type = JSON

    def decode_requests(
        self,
        values: Sequence[bytes | None],
        inputs: tuple[Tensor, ...],
        limits: RequestLimits,
        *,
        allow_not_finite: bool = False,
        model: ModelName | None = None,
    ) -> Decoded:
        """`Codec.decode_requests`. JSON cannot say NaN or infinity, so ``allow_not_finite`` allows nothing here."""
        with np.errstate(over="ignore"):  # a number too large for the dtype becomes infinity, which is refused
            return decode_each(
                values,
                inputs,
                limits,
                lambda value: _decode(value, "inputs", inputs, limits, model),
                allow_not_finite=False,
            )

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
        """`Codec.encode_responses`: every output, flat."""
        edges = np.asarray(bounds, np.int64).tolist()
        flat = [_flat(outputs[tensor.name], tensor) for tensor in tensors]
        named = {"model_name": model, "model_version": version}
        return [
            orjson.dumps(
                {**named, "id": request_id, "outputs": _tensors(tensors, flat, start, end)},
                option=orjson.OPT_SERIALIZE_NUMPY,
            )
            for request_id, (start, end) in zip(request_ids, pairwise(edges), strict=True)
        ]

    def encode_request(self, columns: Columns, inputs: tuple[Tensor, ...], request_id: str | None = None) -> bytes:
        """`Codec.encode_request`. NaN and infinity raise ``ValueError`` too: JSON cannot say them."""
        arrays = check_columns(columns, inputs)
        for tensor, array in zip(inputs, arrays, strict=True):
            if tensor.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"tensor {tensor.name!r} has NaN or infinity, which JSON cannot say: use Arrow")
        flat = [_flat(array, tensor) for tensor, array in zip(inputs, arrays, strict=True)]
        request = {} if request_id is None else {"id": request_id}
        return orjson.dumps(
            {**request, "inputs": _tensors(inputs, flat, 0, len(arrays[0]))}, option=orjson.OPT_SERIALIZE_NUMPY
        )

    def decode_response(self, value: bytes, outputs: tuple[Tensor, ...]) -> dict[str, Array]:
        """`Codec.decode_response`. ``null`` is NaN."""
        try:
            arrays = _decode(value, "outputs", outputs, RESPONSE_LIMITS, null_is_nan=True)
        except BadRequest as why:
            raise ValueError(str(why)) from why
        return {tensor.name: array for tensor, array in zip(outputs, arrays, strict=True)}


def _flat(array: Array, tensor: Tensor) -> Array:
    return np.ascontiguousarray(array, tensor.dtype).reshape(-1)


def _tensors(tensors: tuple[Tensor, ...], flat: list[Array], start: int, end: int) -> list[dict[str, Any]]:
    """Rows ``start`` to ``end`` as the protocol's list of tensors."""
    return [
        {
            "name": tensor.name,
            "shape": [end - start, *tensor.shape],
            "datatype": tensor.datatype,
            "data": values[start * tensor.row_values : end * tensor.row_values],
        }
        for tensor, values in zip(tensors, flat, strict=True)
    ]


def _decode(
    value: bytes,
    side: str,
    tensors: tuple[Tensor, ...],
    limits: RequestLimits,
    model: ModelName | None = None,
    *,
    null_is_nan: bool = False,
) -> list[Array]:
    """The arrays of one message, in the order of ``tensors``. Raises `BadRequest`."""
    items = _items(value, side, limits, model)
    index = {tensor.name: at for at, tensor in enumerate(tensors)}
    arrays: dict[int, Array] = {}
    for item in items:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise _malformed(f"one of the {side} has no name")
        at = index.get(name)
        if at is None:
            raise BadRequest(Code.UNKNOWN_INPUT, f"{shown(name)} is no tensor of the model")
        if at in arrays:
            raise BadRequest(Code.DUPLICATE_INPUT, f"two tensors {shown(name)}")
        arrays[at] = _array(item, tensors[at], limits, null_is_nan=null_is_nan)
    missing = [tensor.name for at, tensor in enumerate(tensors) if at not in arrays]
    if missing:
        raise BadRequest(Code.MISSING_INPUT, f"no tensor {shown(missing[0])}")
    if len({len(array) for array in arrays.values()}) != 1:
        raise BadRequest(Code.WRONG_SHAPE, f"the {side} differ in rows")
    return [arrays[at] for at in range(len(tensors))]


def _items(value: bytes, side: str, limits: RequestLimits, model: ModelName | None) -> list[Any]:
    """A message's list of inputs or outputs."""
    if len(value) > limits.json_bytes_max:
        raise BadRequest(
            Code.TOO_LARGE, f"{len(value)} bytes of JSON, at most {limits.json_bytes_max} may be: use Arrow"
        )
    # A short value cannot hold too many: only a long one is looked through.
    if len(value) > limits.json_values_max and sum(map(value.count, MARKS)) >= limits.json_values_max:
        raise BadRequest(Code.TOO_LARGE, f"over {limits.json_values_max} JSON values, lists and keys: use Arrow")
    try:
        message = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _malformed(f"no JSON: {error.msg} at byte {error.pos}") from error
    items = message.get(side) if isinstance(message, dict) else None
    if not isinstance(items, list):
        raise _malformed(f"not an inference message with a list of {side}")
    for member, ours in zip(("model_name", "model_version"), model or (), strict=False):
        if message.get(member) not in (None, "", ours):
            raise BadRequest(Code.UNKNOWN_MODEL, f"{member} is not {shown(ours)}, whose topic this is")
    if len(items) > limits.tensors_max:
        raise BadRequest(Code.TOO_LARGE, f"{len(items)} {side}, at most {limits.tensors_max} may be")
    return items


def _array(item: dict[str, Any], tensor: Tensor, limits: RequestLimits, *, null_is_nan: bool) -> Array:
    """One tensor of a message."""
    name, datatype, shape, data = tensor.name, item.get("datatype"), item.get("shape"), item.get("data")
    if not isinstance(datatype, str) or not isinstance(data, list):
        raise _malformed(f"{name!r} has no datatype or no list of data")
    if datatype != tensor.datatype:
        code = Code.WRONG_DTYPE if datatype in DATATYPES.values() else Code.UNSUPPORTED_TYPE
        raise BadRequest(code, f"{name!r} is {shown(datatype)}, needs {tensor.datatype}")
    if not isinstance(shape, list) or not shape or type(shape[0]) is not int or shape[1:] != list(tensor.shape):
        raise BadRequest(Code.WRONG_SHAPE, f"{name!r} needs a shape of rows and {list(tensor.shape)}")
    rows = shape[0]
    if rows < 1:
        raise BadRequest(Code.NO_ROWS if rows == 0 else Code.WRONG_SHAPE, f"{name!r} has {rows} rows")
    if rows > limits.rows_max:
        raise BadRequest(Code.TOO_MANY_ROWS, f"{rows} rows, at most {limits.rows_max} may be")
    values = _values(data, (rows, *tensor.shape)) if data and isinstance(data[0], list) else data
    if len(values) != rows * tensor.row_values:
        raise BadRequest(Code.WRONG_SHAPE, f"{name!r} has {len(values)} values, its shape {rows * tensor.row_values}")
    return _numbers(values, tensor, null_is_nan=null_is_nan).reshape(rows, *tensor.shape)


def _values(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """Nested data made flat, each level of it as long as the shape says."""
    if len(data) != shape[0]:
        raise BadRequest(Code.WRONG_SHAPE, f"data of {len(data)} rows where the shape has {shape[0]}")
    for dim in shape[1:]:
        if set(map(type, data)) != {list} or set(map(len, data)) != {dim}:
            raise BadRequest(Code.WRONG_SHAPE, "nested data that is not of the shape")
        data = list(chain.from_iterable(data))
    return data


def _numbers(values: list[Any], tensor: Tensor, *, null_is_nan: bool) -> Array:
    """Parsed values as an array of the tensor's dtype; none is rounded but floats to floats."""
    name, dtype, types = tensor.name, tensor.dtype, set(map(type, values))
    if type(None) in types:
        if not null_is_nan or dtype.kind != "f":
            raise BadRequest(Code.NULLS, f"{name!r} has nulls")
        values, types = [np.nan if value is None else value for value in values], types - {type(None)}
    if list in types:
        raise BadRequest(Code.WRONG_SHAPE, f"{name!r} has lists among its values")
    if not types <= ({bool} if dtype.kind == "b" else {int, float}):
        raise BadRequest(Code.WRONG_DTYPE, f"{name!r} has values that are no {tensor.datatype}")
    if dtype.kind == "b":
        return np.array(values, dtype)
    if dtype.kind == "f":
        return np.array(values, np.float64).astype(dtype, copy=False)
    if float in types:
        if not all(type(v) is int or (v.is_integer() and abs(v) <= EXACT_FLOAT_MAX) for v in values):
            raise BadRequest(Code.WRONG_DTYPE, f"{name!r} has values that are no {tensor.datatype}")
        values = [int(value) for value in values]
    kind = np.iinfo(dtype)
    if min(values) < kind.min or max(values) > kind.max:
        raise BadRequest(Code.WRONG_DTYPE, f"{name!r} has values out of range for {tensor.datatype}")
    return np.array(values, dtype)


def _malformed(reason: str) -> BadRequest:
    return BadRequest(Code.MALFORMED, reason)
