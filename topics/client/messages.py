"""What a caller holds, as a request's columns and bytes; a terminal record, as the caller's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from topics.codecs import codec_for
from topics.codes import BadRequest
from topics.errors import Expired, InputError, Rejected, TopicsError
from topics.records import ARROW, JSON, RAW, Status, Terminal
from topics.signature import DATATYPES, Columns, Signature, Tensor

__all__ = ["Inputs", "columns_of", "content_type_of", "encode", "notice_of", "outputs_of", "tensors_of"]

Inputs = Columns | Mapping[str, Any] | np.ndarray[Any, Any] | Sequence[Any]
"""Columns by input name, or one array (or nested lists) where the model has one input; with or without rows."""

# What NumPy and pyarrow let through of what is none of theirs.
NOT_ARROWS = (pa.ArrowException, NotImplementedError, OSError, OverflowError)

_SHORT = {"json": JSON, "arrow": ARROW, "raw": RAW}
_DTYPES = {datatype: name for name, datatype in DATATYPES.items()}


def content_type_of(name: str) -> str:
    """The content type of ``json``, ``arrow``, ``raw``, or ``name`` itself. Raises `InputError` for an unknown one."""
    full = _SHORT.get(name.lower(), name)
    try:
        codec_for(full)
    except BadRequest as error:
        raise InputError(f"content type {name!r}: use json, arrow or raw") from error
    return full


def tensors_of(columns: Columns) -> tuple[Tensor, ...]:
    """The tensors that ``columns`` of shape ``(rows, *shape)`` are rows of. Raises `InputError`."""
    try:
        return tuple(Tensor(name, array.dtype, array.shape[1:]) for name, array in columns.items())
    except ValueError as error:
        raise InputError(str(error)) from error


def columns_of(inputs: Inputs, tensors: tuple[Tensor, ...] | None) -> dict[str, np.ndarray[Any, Any]]:
    """``inputs`` as columns ``(rows, *shape)`` of the declared dtype; one row may come without its row dimension.

    Without ``tensors`` the inputs must be named and bring their own row dimension. Raises `InputError`.
    """
    if not isinstance(inputs, Mapping):
        if tensors is None or len(tensors) != 1:
            names = "unknown" if tensors is None else ", ".join(t.name for t in tensors)
            raise InputError(f"one array given, inputs are {names}: give a mapping of name to array")
        inputs = {tensors[0].name: inputs}
    if tensors is None:
        columns = {name: np.asarray(value) for name, value in inputs.items()}
        if scalars := [name for name, array in columns.items() if not array.ndim]:
            raise InputError(f"input {scalars[0]!r}: a scalar has no rows; give an array of shape (rows, ...)")
    else:
        if inputs.keys() != {t.name for t in tensors}:
            raise InputError(f"inputs {sorted(inputs)} given, the model takes {sorted(t.name for t in tensors)}")
        columns = {t.name: _column(t, inputs[t.name]) for t in tensors}
    rows = {len(array) for array in columns.values()}
    if len(rows) != 1 or 0 in rows:
        raise InputError(f"inputs need the same number of rows, at least 1: {sorted(rows)}")
    return columns


def encode(columns: Columns, content_type: str, tensors: tuple[Tensor, ...] | None, request_id: str | None) -> bytes:
    """A request's value. Raises `InputError` where the codec cannot carry these columns."""
    try:
        return codec_for(content_type).encode_request(columns, tensors or tensors_of(columns), request_id)
    except (BadRequest, ValueError) as error:
        raise InputError(f"cannot write the request as {content_type}: {error}") from error


def outputs_of(record: Terminal, signature: Signature | None) -> dict[str, np.ndarray[Any, Any]]:
    """A prediction's outputs, each ``(rows, *shape)``.

    Raises `Expired` or `Rejected` for a notice, `TopicsError` where the value is not what its content type says.
    Without ``signature`` the value must describe itself (JSON, Arrow).
    """
    if record.status is not Status.OK:
        code, reason = notice_of(record)
        raise (Expired if record.status is Status.EXPIRED else Rejected)(code, reason, record.request_id)
    value = record.value or b""
    try:
        tensors = signature.outputs if signature else _described(value, record.content_type)
        return codec_for(record.content_type).decode_response(value, tensors)
    except (BadRequest, ValueError, KeyError, TypeError, *NOT_ARROWS) as error:
        raise TopicsError(f"cannot read prediction {record.request_id} ({record.content_type}): {error}") from error


def notice_of(record: Terminal) -> tuple[str, str]:
    """Code and reason of an ``expired`` or ``rejected`` record, from its headers or its JSON value."""
    if record.error_code is not None:
        return record.error_code, record.error_reason or ""
    try:
        said = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        return "unknown", "the notice says no reason"
    return str(said.get("code", "unknown")), str(said.get("reason", ""))


def _column(tensor: Tensor, value: Any) -> np.ndarray[Any, Any]:
    try:
        given = np.asarray(value)
        column = given.astype(tensor.dtype, copy=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"input {tensor.name!r}: {error}") from error
    if not np.can_cast(given.dtype, tensor.dtype, "same_kind") and not np.array_equal(given, column):
        raise InputError(f"input {tensor.name!r}: {given.dtype} values do not fit {tensor.dtype}")
    if column.shape == tensor.shape:
        column = column[np.newaxis]
    if column.shape[1:] != tensor.shape or column.ndim != len(tensor.shape) + 1:
        raise InputError(f"input {tensor.name!r}: shape {list(given.shape)}, rows have shape {list(tensor.shape)}")
    return np.ascontiguousarray(column)


def _described(value: bytes, content_type: str) -> tuple[Tensor, ...]:
    """The tensors a response says it holds."""
    if content_type == JSON:
        outputs = orjson.loads(value)["outputs"]
        return tuple(Tensor(o["name"], np.dtype(_DTYPES[o["datatype"]]), tuple(o["shape"][1:])) for o in outputs)
    if content_type == ARROW:
        with pa.ipc.open_stream(value) as stream:
            return tuple(_tensor(field) for field in stream.schema)
    raise ValueError("only the model's signature says what raw bytes mean")


def _tensor(field: pa.Field) -> Tensor:
    shape: tuple[int, ...] = ()
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType):
        shape, kind = tuple(kind.shape), kind.value_type
    return Tensor(field.name, np.dtype(kind.to_pandas_dtype()), shape)
