"""``application/vnd.apache.arrow.stream``: one record batch, a row per row of the request, a column per tensor.

Messages of one client mostly share every byte but their values. So the layout is read once (`arrow_frame`) and kept;
after that a message is recognised by comparing bytes, and its columns are views. Writing is the same turned round:
pyarrow writes one batch of each number of rows, and the others are its bytes around other values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, repeat
from typing import TypeVar

import numpy as np
import pyarrow as pa

from topics.codecs.arrow_frame import END, Frame, head_bytes, read_frame
from topics.codecs.codec import (
    RESPONSE_LIMITS,
    Array,
    Bounds,
    Decoded,
    ModelName,
    check_columns,
    check_value,
    checked,
    decode_each,
    split_rows,
)
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import ARROW
from topics.signature import Columns, Tensor, arrow_schema

__all__ = ["ArrowCodec"]

SIGNATURES_MAX = 64  # sets of tensors whose layouts are kept: two for each model a process serves
FRAMES_MAX = 256  # layouts kept of one of them: 1 MiB of heads at most
HEAD_BYTES_MAX = 4_096  # of a head that is kept; pyarrow writes about 600 for one tensor

K = TypeVar("K")
V = TypeVar("V")
Frames = dict[bytes, Frame]
Template = tuple[bytes, ...]
"""What stands before the first tensor's values, between them and after the last's."""


class ArrowCodec:
    """See the module. Keeps layouts, within the limits above; they are replaced whole, never changed."""

    content_type = ARROW

    def __init__(self) -> None:
        self._frames: dict[tuple[Tensor, ...], Frames] = {}
        self._templates: dict[tuple[Tensor, ...], dict[int, Template]] = {}

    def decode_requests(
        self,
        values: Sequence[bytes | None],
        inputs: tuple[Tensor, ...],
        limits: RequestLimits,
        *,
        allow_not_finite: bool = False,
        model: ModelName | None = None,
    ) -> Decoded:
        """`Codec.decode_requests`. Requests of one layout are gathered at once, one alone is not copied."""
        frames = _kept(self._frames, inputs)
        try:
            frame = _frame(check_value(values[0], limits), frames, inputs, limits) if values else None
        except BadRequest:
            frame = None
        if frame is not None and (len(values) == 1 or _alike(values, frame)):
            arrays = _arrays(b"".join(values), len(values), frame, inputs)  # type: ignore[arg-type]
            columns = {tensor.name: array for tensor, array in zip(inputs, arrays, strict=True)}
            rows = np.full(len(values), frame.rows, np.int64)
            return checked(columns, rows, [], allow_not_finite=allow_not_finite)
        return decode_each(
            values,
            inputs,
            limits,
            lambda value: _arrays(value, 1, _frame(value, frames, inputs, limits), inputs),
            allow_not_finite=allow_not_finite,
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
        """`Codec.encode_responses`: one record batch each."""
        templates = _kept(self._templates, tensors)
        edges = np.asarray(bounds, np.int64)
        rows = np.diff(edges).tolist()
        around = {count: _template(templates, tensors, count) for count in set(rows)}
        parts: list[Iterable[bytes]] = list(zip(*map(around.__getitem__, rows), strict=True))
        for at, tensor in enumerate(tensors if parts else ()):
            parts.insert(2 * at + 1, _values(outputs[tensor.name], edges, tensor))
        return list(map(b"".join, zip(*parts, strict=True)))

    def encode_request(self, columns: Columns, inputs: tuple[Tensor, ...], request_id: str | None = None) -> bytes:
        """`Codec.encode_request`; the id is left to the header."""
        arrays = check_columns(columns, inputs)
        outputs = {tensor.name: array for tensor, array in zip(inputs, arrays, strict=True)}
        return self.encode_responses(outputs, (0, len(arrays[0])), inputs, model="", version="", request_ids=("",))[0]

    def decode_response(self, value: bytes, outputs: tuple[Tensor, ...]) -> dict[str, Array]:
        """`Codec.decode_response`: views of ``value``."""
        decoded = self.decode_requests([value], outputs, RESPONSE_LIMITS, allow_not_finite=True)
        if decoded.rejected:
            raise ValueError(str(decoded.rejected[0][1]))
        return decoded.columns


def _kept(kept: dict[tuple[Tensor, ...], dict[K, V]], tensors: tuple[Tensor, ...]) -> dict[K, V]:
    """What is kept of the messages of ``tensors``."""
    found = kept.get(tensors)
    if found is None:
        if len(kept) >= SIGNATURES_MAX:
            kept.clear()
        found = kept.setdefault(tensors, {})
    return found


def _frame(value: bytes, frames: Frames, inputs: tuple[Tensor, ...], limits: RequestLimits) -> Frame:
    """The layout of ``value``, which it has been checked to have. Raises `BadRequest`."""
    head = value[: head_bytes(value)]
    frame = frames.get(head)
    if frame is None or frame.size != len(value) or not value.endswith(END):
        frame = read_frame(value, inputs, limits)
        if len(head) <= HEAD_BYTES_MAX:
            if len(frames) >= FRAMES_MAX:
                frames.clear()  # the next message of each layout reads it again: 100 us
            frames[head] = frame
    if frame.rows > limits.rows_max:
        raise BadRequest(Code.TOO_MANY_ROWS, f"{frame.rows} rows, at most {limits.rows_max} may be")
    unpacked_bytes = frame.rows * sum(tensor.row_bytes for tensor in inputs)
    if unpacked_bytes > limits.value_bytes_max:  # a bool is a bit here and a byte in a tensor
        raise BadRequest(Code.TOO_LARGE, f"{unpacked_bytes} bytes of values, at most {limits.value_bytes_max} may be")
    return frame


def _alike(values: Sequence[bytes | None], frame: Frame) -> bool:
    """Whether every value has the layout ``frame``, by comparing the bytes that are not values of a tensor."""
    try:
        return (
            set(map(len, values)) == {frame.size}  # type: ignore[arg-type]
            and all(map(bytes.startswith, values, repeat(frame.head)))  # type: ignore[arg-type]
            and all(map(bytes.endswith, values, repeat(END)))  # type: ignore[arg-type]
        )
    except TypeError:  # a null among them
        return False


def _arrays(joined: bytes, requests: int, frame: Frame, inputs: tuple[Tensor, ...]) -> list[Array]:
    """Each tensor's column of ``requests`` messages of one layout; of one message, views (bools are unpacked)."""
    matrix = np.frombuffer(joined, np.uint8).reshape(requests, frame.size)
    arrays = []
    for tensor, start in zip(inputs, frame.starts, strict=True):
        values = frame.rows * tensor.row_values
        if tensor.dtype.kind == "b":
            bits = matrix[:, start : start + (values + 7) // 8]
            flat = np.unpackbits(bits, axis=1, count=values, bitorder="little").view(np.bool_)
        else:
            part = matrix[:, start : start + values * tensor.dtype.itemsize]
            flat = np.ascontiguousarray(part).view(tensor.dtype)
        arrays.append(flat.reshape(requests * frame.rows, *tensor.shape))
    return arrays


def _values(column: Array, edges: Array, tensor: Tensor) -> list[bytes]:
    """The bytes of each request's values as Arrow has them: a bool is a bit."""
    if tensor.dtype.kind != "b":
        return split_rows(column, edges, tensor)
    pairs = pairwise(edges.tolist())
    return [np.packbits(column[start:end], bitorder="little").tobytes() for start, end in pairs]


def _template(templates: dict[int, Template], tensors: tuple[Tensor, ...], rows: int) -> Template:
    """The constant bytes of a message of ``rows`` rows."""
    template = templates.get(rows)
    if template is None:
        if len(templates) >= FRAMES_MAX:
            templates.clear()
        template = templates[rows] = _write(tensors, rows)
    return template


def _write(tensors: tuple[Tensor, ...], rows: int) -> Template:
    """Have pyarrow write ``rows`` rows of zeros, and take the zeros out."""
    schema, sink = arrow_schema(tensors), pa.BufferOutputStream()
    arrays = []
    for tensor, field in zip(tensors, schema, strict=True):
        flat = pa.array(np.zeros(rows * tensor.row_values, tensor.dtype))
        if tensor.shape:
            storage = pa.FixedSizeListArray.from_arrays(flat, type=field.type.storage_type)
            flat = pa.ExtensionArray.from_storage(field.type, storage)
        arrays.append(flat)
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    message = sink.getvalue().to_pybytes()
    frame = read_frame(message, tensors, RESPONSE_LIMITS)
    pieces, end = [], 0
    for tensor, start in zip(tensors, frame.starts, strict=True):
        pieces.append(message[end:start])
        values = rows * tensor.row_values
        end = start + ((values + 7) // 8 if tensor.dtype.kind == "b" else values * tensor.dtype.itemsize)
    return (*pieces, message[end:])
