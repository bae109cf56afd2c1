"""Where the tensors lie in an Arrow IPC stream of one record batch, read from its metadata alone.

The layout is Arrow's columnar format, "Encapsulated message format" and Schema.fbs / Message.fbs: a message is a
marker, a length, a flatbuffer and a body; a stream is a schema message, here exactly one record batch message, and an
end-of-stream marker. Nothing is decoded by a library: each field of the flatbuffers is read with its bounds checked,
only the few types a tensor may have are let through, and every buffer must lie in the body, in order and without
overlap. So what a message can make us allocate is bounded by its own size, whatever it claims.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import orjson

from topics.codecs.codec import shown
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.signature import RANK_MAX, Tensor

__all__ = ["END", "Frame", "head_bytes", "read_frame"]

END = b"\xff\xff\xff\xff\0\0\0\0"
MARKER = b"\xff\xff\xff\xff"
METADATA_BYTES_MAX = 256 * 1024  # of one message; a schema of 64 tensors takes about 20 kB, and people add notes
PAIRS_MAX = 32  # of one field's metadata; an extension type takes two
TEXT_BYTES_MAX = 4_096  # of a name: many may point to the same bytes, which would be read again for each

_U8, _U16, _I16, _I32, _U32, _I64 = (struct.Struct("<" + code) for code in "BHhiIq")
_SCHEMA, _RECORD_BATCH = 1, 3  # MessageHeader
_INT, _FLOAT, _BOOL, _FIXED_SIZE_LIST = 2, 3, 6, 16  # Type
_VERSIONS = (3, 4)  # V4 and V5 differ in unions alone


@dataclass(frozen=True, slots=True)
class Frame:
    """The layout that every message with the same ``head`` shares.

    ``head`` is the message up to its body, ``size`` the bytes of the whole message, ``starts`` the byte where each
    tensor's values begin, in the order of the tensors. All are multiples of 8.
    """

    head: bytes
    size: int
    rows: int
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    """A field of the schema: its tensor's index and, level by level, the array elements per row."""

    tensor: int
    elements: tuple[int, ...]


def head_bytes(value: bytes) -> int:
    """Bytes before the body of the record batch. Raises `BadRequest` where no schema and batch are announced."""
    schema_end = _message_end(value, 0, "a schema")
    return _message_end(value, schema_end, "a record batch")


def _message_end(value: bytes, start: int, what: str) -> int:
    if value[start : start + 4] != MARKER or len(value) < start + 8:
        raise _malformed(f"no Arrow IPC stream: {what} is missing or truncated")
    length = _I32.unpack_from(value, start + 4)[0]
    if not length:
        raise _malformed(f"the Arrow stream ends before {what}")
    if length < 0 or length % 8 or length > METADATA_BYTES_MAX or start + 8 + length > len(value):
        raise _malformed(f"metadata of {length} bytes: truncated, unaligned or over {METADATA_BYTES_MAX}")
    return int(start + 8 + length)


def read_frame(value: bytes, tensors: tuple[Tensor, ...], limits: RequestLimits) -> Frame:
    """The layout of ``value``. Raises `BadRequest` unless it is one batch of exactly ``tensors``, ended and whole.

    The number of rows is not limited here, but their values are in the message: it is no larger than the body.
    """
    schema_end = _message_end(value, 0, "a schema")
    head = _message_end(value, schema_end, "a record batch")
    schema, body_bytes = _header(value[8:schema_end], _SCHEMA)
    if body_bytes:
        raise _malformed("a schema with a body")
    columns = _columns(schema, tensors, limits)
    batch, body_bytes = _header(value[schema_end + 8 : head], _RECORD_BATCH)
    size = head + body_bytes + len(END)
    if size > len(value):
        raise _malformed(f"truncated: {len(value)} bytes, the record batch and the end-of-stream marker need {size}")
    if value[head + body_bytes : size] != END or len(value) != size:
        raise _malformed("something other than an end-of-stream marker follows the record batch: send exactly one")
    rows, at = _batch(batch, columns, tensors, body_bytes)
    return Frame(value[:head], size, rows, tuple(head + offset for offset in at))


def _header(metadata: bytes, kind: int) -> tuple[_Table, int]:
    """The schema or record batch of a message, and the bytes of its body."""
    message = _Table(metadata, _read(metadata, _U32, 0))
    if message.number(0, _I16) not in _VERSIONS:
        raise _malformed("unknown version of Arrow's metadata")
    header, body_bytes = message.table(2), message.number(3, _I64)
    if message.number(1, _U8) != kind or header is None:
        raise _malformed("the Arrow stream is not a schema and one record batch")
    if body_bytes < 0 or body_bytes % 8:
        raise _malformed(f"a body of {body_bytes} bytes")
    return header, body_bytes


def _columns(schema: _Table, tensors: tuple[Tensor, ...], limits: RequestLimits) -> list[_Column]:
    """The fields, in their order; each tensor exactly once."""
    if schema.number(0, _I16):
        raise BadRequest(Code.UNSUPPORTED_TYPE, "big-endian columns")
    fields = schema.tables(1, limits.tensors_max, Code.TOO_LARGE)
    index = {tensor.name: at for at, tensor in enumerate(tensors)}
    columns: list[_Column] = []
    for field in fields:
        name = field.text(0)
        if name not in index:
            raise BadRequest(Code.UNKNOWN_INPUT, f"column {shown(name)} is no tensor of the model")
        if any(column.tensor == index[name] for column in columns):
            raise BadRequest(Code.DUPLICATE_INPUT, f"two columns {shown(name)}")
        columns.append(_Column(index[name], _elements(field, tensors[index[name]])))
    missing = index.keys() - {tensors[column.tensor].name for column in columns}
    if missing:
        raise BadRequest(Code.MISSING_INPUT, f"no column {shown(min(missing))}")
    return columns


def _elements(field: _Table, tensor: Tensor) -> tuple[int, ...]:
    """Check that a field is ``tensor`` in one of its three forms; elements per row at each level, 1 first."""
    name, shape = shown(tensor.name), _extension_shape(field)
    dims: list[int] = []
    while field.number(2, _U8) == _FIXED_SIZE_LIST and field.table(4) is None and len(dims) <= RANK_MAX:
        layout, children = field.table(3), field.tables(5, 1, Code.MALFORMED)
        if layout is None or not children:
            raise _malformed(f"column {name}: a list of nothing")
        dims.append(layout.number(0, _I32))
        field = children[0]
        if _extension_shape(field) is not None:
            raise BadRequest(Code.UNSUPPORTED_TYPE, f"column {name}: a list of extension types")
    dtype = _dtype(field)
    if dtype is None or field.table(4) is not None:
        raise BadRequest(Code.UNSUPPORTED_TYPE, f"column {name}: needs {tensor.dtype} or fixed-size lists of it")
    if dtype != tensor.dtype.name:
        raise BadRequest(Code.WRONG_DTYPE, f"column {name}: {dtype}, needs {tensor.dtype}")
    flat = [tensor.row_values] if tensor.shape else []
    if (dims != flat and (dims != list(tensor.shape) or shape)) or (shape is not None and shape != list(tensor.shape)):
        raise BadRequest(Code.WRONG_SHAPE, f"column {name}: rows of {shape or dims}, needs {list(tensor.shape)}")
    elements = [1]
    for dim in dims:
        elements.append(elements[-1] * dim)
    return tuple(elements)


def _extension_shape(field: _Table) -> list[int] | None:
    """The shape of a fixed-shape tensor field, None for a plain field."""
    pairs = {pair.text(0): pair for pair in field.tables(6, PAIRS_MAX, Code.TOO_LARGE)}
    name = pairs["ARROW:extension:name"].text(1) if "ARROW:extension:name" in pairs else None
    if name is None:
        return None
    if name != "arrow.fixed_shape_tensor":
        raise BadRequest(Code.UNSUPPORTED_TYPE, f"extension type {shown(name)}")
    try:
        about = orjson.loads(pairs["ARROW:extension:metadata"].text(1) if "ARROW:extension:metadata" in pairs else "")
    except orjson.JSONDecodeError as error:
        raise _malformed("a fixed-shape tensor whose metadata is no JSON") from error
    shape = about.get("shape") if isinstance(about, dict) else None
    if not isinstance(shape, list) or not 0 < len(shape) <= RANK_MAX or {type(dim) for dim in shape} != {int}:
        raise _malformed("a fixed-shape tensor without a shape")
    if (about.get("permutation") or list(range(len(shape)))) != list(range(len(shape))):
        raise BadRequest(Code.UNSUPPORTED_TYPE, "a fixed-shape tensor that is not in row-major order")
    return shape


def _dtype(field: _Table) -> str | None:
    """The NumPy name of a field of integers, floats or bools, None for any other."""
    kind, layout = field.number(2, _U8), field.table(3)
    if layout is None or kind not in (_INT, _FLOAT, _BOOL):
        return None
    if kind == _INT:
        return f"{'int' if layout.number(1, _U8) else 'uint'}{layout.number(0, _I32)}"
    return "bool" if kind == _BOOL else {0: "float16", 1: "float32", 2: "float64"}.get(layout.number(0, _I16))


def _batch(
    batch: _Table, columns: list[_Column], tensors: tuple[Tensor, ...], body_bytes: int
) -> tuple[int, tuple[int, ...]]:
    """Rows, and where in the body each tensor's values begin."""
    if batch.table(3) is not None:
        raise BadRequest(Code.COMPRESSED, "a compressed record batch: write it without compression")
    rows = batch.number(0, _I64)
    if rows == 0:
        raise BadRequest(Code.NO_ROWS, "the record batch has no rows")
    nodes, buffers = batch.pairs(1), batch.pairs(2)
    elements = [count for column in columns for count in column.elements]
    if rows < 0 or len(nodes) != len(elements) or len(buffers) != len(elements) + len(columns):
        raise _malformed("the record batch is not one of its schema")
    for count, (length, nulls) in zip(elements, nodes, strict=True):
        if length != rows * count or nulls < 0:
            raise _malformed(f"a column of {length} values and {nulls} nulls where {rows * count} values belong")
        if nulls:
            raise BadRequest(Code.NULLS, f"{nulls} nulls: a tensor has none")
    _check_apart(buffers, body_bytes)
    at, starts = 0, [0] * len(tensors)
    for column in columns:
        at += len(column.elements)  # one validity buffer per level, which no nulls make needless
        offset, length = buffers[at]
        tensor = tensors[column.tensor]
        bits = rows * tensor.row_values * (1 if tensor.dtype.kind == "b" else 8 * tensor.dtype.itemsize)
        if length * 8 < bits:
            raise _malformed(f"column {shown(tensor.name)}: {length} bytes are too few for {rows} rows")
        starts[column.tensor] = offset
        at += 1
    return rows, tuple(starts)


def _check_apart(buffers: list[tuple[int, int]], body_bytes: int) -> None:
    """Buffers lie in the body, in order, as every writer lays them: so none claims another's bytes again."""
    end = 0
    for offset, length in buffers:
        if offset % 8 or length < 0 or offset < end or offset + length > body_bytes:
            raise _malformed(f"a buffer of {length} bytes at {offset} in a body of {body_bytes}")
        end = offset + length


class _Table:
    """A table of a flatbuffer. Every read is checked against the end of the data; what is absent has a default."""

    __slots__ = ("at", "data", "slots", "vtable")

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self.vtable = at - _read(data, _I32, at)
        self.slots = (_read(data, _U16, self.vtable) - 4) // 2

    def _field(self, slot: int) -> int:
        """Where a field lies, 0 where it is absent."""
        offset = _read(self.data, _U16, self.vtable + 4 + 2 * slot) if slot < self.slots else 0
        return self.at + offset if offset else 0

    def number(self, slot: int, kind: struct.Struct) -> int:
        at = self._field(slot)
        return _read(self.data, kind, at) if at else 0

    def table(self, slot: int) -> _Table | None:
        at = self._field(slot)
        return _Table(self.data, at + _read(self.data, _U32, at)) if at else None

    def _vector(self, slot: int, item_bytes: int) -> tuple[int, int]:
        """First byte and length of a vector that lies in the data."""
        at = self._field(slot)
        if not at:
            return 0, 0
        start = at + _read(self.data, _U32, at) + 4
        count = _read(self.data, _U32, start - 4)
        if start + count * item_bytes > len(self.data):
            raise _malformed("Arrow metadata points past its end")
        return start, count

    def tables(self, slot: int, count_max: int, code: Code) -> list[_Table]:
        start, count = self._vector(slot, 4)
        if count > count_max:
            raise BadRequest(code, f"Arrow metadata lists {count} where at most {count_max} may be")
        return [_Table(self.data, at + _read(self.data, _U32, at)) for at in range(start, start + 4 * count, 4)]

    def pairs(self, slot: int) -> list[tuple[int, int]]:
        """A vector of structs of two int64."""
        start, count = self._vector(slot, 16)
        return list(struct.iter_unpack("<qq", self.data[start : start + 16 * count]))

    def text(self, slot: int) -> str:
        start, count = self._vector(slot, 1)
        if count > TEXT_BYTES_MAX:
            raise _malformed(f"a name of {count} bytes in Arrow metadata, over {TEXT_BYTES_MAX}")
        try:
            return self.data[start : start + count].decode()
        except UnicodeDecodeError as error:
            raise _malformed("a name in Arrow metadata is not UTF-8") from error


def _read(data: bytes, kind: struct.Struct, at: int) -> int:
    if at < 0 or at + kind.size > len(data):
        raise _malformed("Arrow metadata points past its end")
    return int(kind.unpack_from(data, at)[0])


def _malformed(reason: str) -> BadRequest:
    return BadRequest(Code.MALFORMED, reason)
