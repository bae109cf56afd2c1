"""What must hold of any bytes a stranger may send as a request, however they came about."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tests.hostile.cases import IMAGE
from topics.codecs import Decoded, codec_for
from topics.limits import RequestLimits
from topics.signature import Columns, Tensor

__all__ = ["LIMITS", "SIGNATURES", "assert_alike", "assert_as_pyarrow", "assert_sound", "ones"]

Array = np.ndarray[Any, Any]
LIMITS = RequestLimits()
REASON_CHARS_MAX = 400  # two names as they are shown, and a shape of eight dimensions
SIGNATURES: tuple[tuple[Tensor, ...], ...] = (
    (IMAGE,),
    (
        Tensor("flag", np.dtype("bool"), (3,)),
        Tensor("weight", np.dtype("int16"), (2, 2)),
        Tensor("id", np.dtype("uint64"), ()),
        Tensor("half", np.dtype("float16"), ()),
    ),
)
"""One tensor, and several whose dtypes each codec has ways of its own for."""


def ones(tensors: tuple[Tensor, ...], rows: int = 1) -> dict[str, Array]:
    """Rows of ones, as columns."""
    return {tensor.name: np.ones((rows, *tensor.shape), tensor.dtype) for tensor in tensors}


def assert_sound(decoded: Decoded, requests: int, tensors: tuple[Tensor, ...]) -> None:
    """What any answer of a codec must be."""
    rejected = [index for index, _ in decoded.rejected]
    assert rejected == sorted(set(rejected)), rejected
    assert len(decoded.rows) + len(rejected) == requests
    assert (decoded.rows >= 1).all()
    for tensor in tensors:
        column = decoded.columns[tensor.name]
        assert column.shape == (decoded.rows.sum(), *tensor.shape)
        assert column.dtype == tensor.dtype
        assert column.dtype.kind != "f" or np.isfinite(column).all()
        assert column.dtype.kind != "b" or (column.view(np.uint8) <= 1).all()
    for _, why in decoded.rejected:
        assert why.reason.isprintable() and why.reason.isascii() and len(why.reason) <= REASON_CHARS_MAX, why.reason


def assert_alike(content_type: str, value: bytes, tensors: tuple[Tensor, ...]) -> Columns:
    """``value`` is decoded or refused, the same alone and between two good requests, which are both decoded (I7).

    Returns what it is alone: no rows where it is refused.
    """
    codec = codec_for(content_type)
    alone = codec.decode_requests([value], tensors, LIMITS)
    assert_sound(alone, 1, tensors)
    good = codec.encode_request(ones(tensors), tensors)
    among = codec.decode_requests([good, value, good], tensors, LIMITS)
    assert_sound(among, 3, tensors)
    assert [(index + 1, why.code, why.reason) for index, why in alone.rejected] == [
        (index, why.code, why.reason) for index, why in among.rejected
    ]
    for tensor in tensors:
        column = among.columns[tensor.name]
        assert (column[[0, -1]] == 1).all()
        assert column[1:-1].tobytes() == alone.columns[tensor.name].tobytes()
    return alone.columns


def assert_as_pyarrow(value: bytes, tensors: tuple[Tensor, ...], columns: Columns) -> None:
    """The ``columns`` that were read of ``value`` are those that pyarrow reads, where it reads a plain valid batch.

    What was refused is not looked at: a tensor is less than Arrow may say.
    """
    if len(columns[tensors[0].name]) == 0:
        return
    try:
        with pa.ipc.open_stream(value) as reader:
            batch = reader.read_next_batch()
            batch.validate(full=True)
        found = {tensor.name: _flat(batch.column(tensor.name)) for tensor in tensors}
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return
    for tensor in tensors:
        flat, column = found[tensor.name], columns[tensor.name]
        if flat.type == pa.from_numpy_dtype(tensor.dtype) and not flat.null_count and len(flat) == column.size:
            assert flat.to_numpy(zero_copy_only=False).tobytes() == column.tobytes(), tensor.name


def _flat(column: pa.Array) -> pa.Array:
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    while pa.types.is_fixed_size_list(storage.type):
        storage = storage.flatten()
    return storage
