"""Malformed requests for the digit model's input, each with the code of its dead letter."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from topics.codes import Code
from topics.limits import RequestLimits
from topics.records import ARROW, JSON, RAW
from topics.signature import Tensor

__all__ = ["IMAGE", "SMALL_LIMITS", "HostileCase", "good_request", "hostile_cases"]

IMAGE = Tensor("image", np.dtype("float32"), (1, 8, 8))
SMALL_LIMITS = RequestLimits(value_bytes_max=65_536, rows_max=64)
FLAT = pa.list_(pa.float32(), 64)
END = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True, slots=True)
class HostileCase:
    """One message that must become a dead letter with ``code``; ``small_limits``: only under `SMALL_LIMITS`.

    ``headers`` come after the content type's, which an empty ``content_type`` leaves out.
    """

    id: str
    content_type: str
    value: bytes | None
    code: Code
    small_limits: bool = False
    headers: tuple[tuple[str, bytes | None], ...] = ()
    key: bytes = b"key"


def good_request(content_type: str, rows: int = 1, fill: float = 1.0) -> bytes:
    """A request that is answered: ``rows`` images of one value, made without the codecs under test."""
    image = np.full((rows, 1, 8, 8), fill, np.float32)
    if content_type == RAW:
        return image.tobytes()
    if content_type == JSON:
        return json.dumps({"inputs": [_tensor(shape=list(image.shape), data=image.ravel().tolist())]}).encode()
    return _stream(_batch(rows, fill))


def hostile_cases() -> list[HostileCase]:
    """Every malformed message, of each content type."""
    cases = [*_any_type(), *_raw(), *_json(), *_arrow()]
    assert len({case.id for case in cases}) == len(cases)
    return cases


def _any_type() -> Iterator[HostileCase]:
    for kind, content_type in (("json", JSON), ("arrow", ARROW), ("raw", RAW)):
        good = good_request(content_type)
        odd = Code.WRONG_SHAPE if content_type == RAW else Code.MALFORMED
        yield HostileCase(f"{kind}: null value", content_type, None, Code.NULL_VALUE)
        yield HostileCase(f"{kind}: empty value", content_type, b"", Code.EMPTY_VALUE)
        yield HostileCase(f"{kind}: truncated", content_type, good[:-1], odd)
        yield HostileCase(f"{kind}: half", content_type, good[: len(good) // 2 + 1], odd)
        yield HostileCase(f"{kind}: trailing byte", content_type, good + b"x", odd)
        yield HostileCase(f"{kind}: pickle", content_type, pickle.dumps({"image": [1.0] * 64}), odd)
        yield HostileCase(f"{kind}: noise", content_type, bytes(range(1, 200)), odd)
        yield HostileCase(f"{kind}: over the size limit", content_type, good * 2_000, Code.TOO_LARGE, True)
        yield HostileCase(
            f"{kind}: over the row limit", content_type, good_request(content_type, 65), Code.TOO_MANY_ROWS, True
        )
    yield HostileCase("unknown content type", "application/x-python-pickle", b"x", Code.UNKNOWN_CONTENT_TYPE)


def _raw() -> Iterator[HostileCase]:
    for name, number in (("NaN", np.nan), ("infinity", -np.inf)):
        image = np.zeros((3, 64), np.float32)
        image[1, 63] = number
        yield HostileCase(f"raw: {name}", RAW, image.tobytes(), Code.NOT_FINITE)


def _tensor(**changed: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": [1.0] * 64, **changed}


def _json() -> Iterator[HostileCase]:
    texts: dict[str, tuple[bytes, Code]] = {
        "depth bomb": (b'{"inputs":' + b"[" * 20_000 + b"]" * 20_000 + b"}", Code.MALFORMED),
        "deep data": (_inputs(_tensor(data=_nested(500))), Code.WRONG_SHAPE),
        "invalid UTF-8": (b'{"inputs":[{"name":"\xff\xfe"}]}', Code.MALFORMED),
        "lone surrogate": (b'{"inputs":[{"name":"\\ud800"}]}', Code.MALFORMED),
        "NaN literal": (_inputs(_tensor(data=[float("nan")] * 64)), Code.MALFORMED),
        "number over a double": (_inputs(_tensor()).replace(b"1.0", b"1e999", 1), Code.MALFORMED),
        "integer of 5,000 digits": (_inputs(_tensor()).replace(b"1.0", b"9" * 5_000, 1), Code.MALFORMED),
        "number over float32": (_inputs(_tensor(data=[1e300] * 64)), Code.NOT_FINITE),
        "integer that no dtype holds": (_inputs(_tensor()).replace(b"1.0", b"9" * 200, 1), Code.NOT_FINITE),
        "exponent of 5,000 digits": (_inputs(_tensor()).replace(b"1.0", b"1e" + b"9" * 5_000, 1), Code.MALFORMED),
        "half a million values": (_inputs(_tensor()).replace(b"1.0", b"0," * 450_000 + b"0", 1), Code.TOO_LARGE),
        "half a million lists": (b'{"inputs":[' + b"[]," * 300_000 + b"0]}", Code.TOO_LARGE),
        "a hundred thousand keys": (b'{"inputs":[{' + b'"":[],' * 140_000 + b'"":0}]}', Code.TOO_LARGE),
        "a bush of lists": (_inputs(_tensor(data=_bush(5))), Code.WRONG_SHAPE),
        "a text of one astral character": (_inputs("a" * 900_000 + "\U0001f4a3"), Code.MALFORMED),
        "another model": (_model(model_name="fingers"), Code.UNKNOWN_MODEL),
        "another version": (_model(model_version="2"), Code.UNKNOWN_MODEL),
        "a version that is a number": (_model(model_version=1), Code.UNKNOWN_MODEL),
        "model name with ..": (_model(model_name="../digits"), Code.UNKNOWN_MODEL),
        "model name with a slash": (_model(model_name="digits/1"), Code.UNKNOWN_MODEL),
        "model name with NUL": (_model(model_name="digits\0"), Code.UNKNOWN_MODEL),
        "not an object": (b"[1, 2]", Code.MALFORMED),
        "no inputs": (b'{"id": "a"}', Code.MALFORMED),
        "inputs not a list": (b'{"inputs": {"image": []}}', Code.MALFORMED),
        "input not an object": (_inputs([1.0]), Code.MALFORMED),
        "input without a name": (_inputs({"data": []}), Code.MALFORMED),
        "input without data": (_inputs({"name": "image", "shape": [1, 1, 8, 8], "datatype": "FP32"}), Code.MALFORMED),
        "data not a list": (_inputs(_tensor(data="AAAA")), Code.MALFORMED),
        "empty inputs": (_inputs(), Code.MISSING_INPUT),
        "unknown input": (_inputs(_tensor(), _tensor(name="mask")), Code.UNKNOWN_INPUT),
        "duplicate input": (_inputs(_tensor(), _tensor()), Code.DUPLICATE_INPUT),
        "a hundred inputs": (_inputs(*[{"name": "a"}] * 100), Code.TOO_LARGE),
        "a thousand inputs": (_inputs(*[{"name": "a"}] * 1_000), Code.TOO_LARGE),
        "unknown datatype": (_inputs(_tensor(datatype="FP8")), Code.UNSUPPORTED_TYPE),
        "BYTES": (_inputs(_tensor(datatype="BYTES", data=["a"] * 64)), Code.UNSUPPORTED_TYPE),
        "other datatype": (_inputs(_tensor(datatype="FP64")), Code.WRONG_DTYPE),
        "text values": (_inputs(_tensor(data=["1.0"] * 64)), Code.WRONG_DTYPE),
        "bools": (_inputs(_tensor(data=[True] * 64)), Code.WRONG_DTYPE),
        "nulls": (_inputs(_tensor(data=[None] * 64)), Code.NULLS),
        "too few values": (_inputs(_tensor(data=[1.0] * 63)), Code.WRONG_SHAPE),
        "ragged data": (_inputs(_tensor(data=[[[[1.0] * 8] * 7 + [[1.0] * 7]]])), Code.WRONG_SHAPE),
        "ragged data of the right count": (
            _inputs(_tensor(data=[[[[1.0] * 8] * 6 + [[1.0] * 9, [1.0] * 7]]])),
            Code.WRONG_SHAPE,
        ),
        "other shape": (_inputs(_tensor(shape=[1, 64])), Code.WRONG_SHAPE),
        "no row dimension": (_inputs(_tensor(shape=[1, 8, 8])), Code.WRONG_SHAPE),
        "shape not a list": (_inputs(_tensor(shape="1,1,8,8")), Code.WRONG_SHAPE),
        "negative rows": (_inputs(_tensor(shape=[-1, 1, 8, 8])), Code.WRONG_SHAPE),
        "zero rows": (_inputs(_tensor(shape=[0, 1, 8, 8], data=[])), Code.NO_ROWS),
        "zero dimension": (_inputs(_tensor(shape=[1, 0, 8, 8], data=[])), Code.WRONG_SHAPE),
        "product of the shape over 64 bits": (_inputs(_tensor(shape=[2**32, 2**32, 8, 8])), Code.WRONG_SHAPE),
        "negative dimension": (_inputs(_tensor(shape=[1, -1, 8, -8])), Code.WRONG_SHAPE),
        "a dimension that is a float": (_inputs(_tensor(shape=[1.0, 1, 8, 8])), Code.WRONG_SHAPE),
        "a billion rows": (_inputs(_tensor(shape=[10**9, 1, 8, 8])), Code.TOO_MANY_ROWS),
        "dimension over 64 bits": (_inputs(_tensor(shape=[10**30, 1, 8, 8])), Code.WRONG_SHAPE),
    }
    for name, (value, code) in texts.items():
        yield HostileCase(f"json: {name}", JSON, value, code)


def _inputs(*tensors: object) -> bytes:
    return json.dumps({"inputs": list(tensors)}).encode()


def _model(**named: object) -> bytes:
    return json.dumps({**named, "inputs": [_tensor()]}).encode()


def _bush(depth: int) -> Any:
    return [_bush(depth - 1) for _ in range(10)] if depth else 1.0


def _nested(depth: int) -> list[Any]:
    data: list[Any] = [1.0] * 64
    for _ in range(depth):
        data = [data]
    return data


def _arrow() -> Iterator[HostileCase]:
    batch, good = _batch(), good_request(ARROW)
    image = batch.column(0)
    values = pa.array(np.ones(64, np.float32))
    head = good.index(np.ones(64, np.float32).tobytes())
    billion = 10**9
    hollow = pa.FixedSizeListArray.from_arrays(pa.array([], pa.float32()), type=pa.list_(pa.float32(), 64))
    no_columns = pa.RecordBatch.from_struct_array(pa.StructArray.from_buffers(pa.struct([]), billion, [None]))
    fields: dict[str, tuple[pa.Array, Code]] = {
        "other dtype": (pa.FixedSizeListArray.from_arrays(pa.array(np.ones(64)), 64), Code.WRONG_DTYPE),
        "integers": (pa.FixedSizeListArray.from_arrays(pa.array(np.ones(64, np.int32)), 64), Code.WRONG_DTYPE),
        "scalar": (pa.array(np.ones(1, np.float32)), Code.WRONG_SHAPE),
        "lists of 2 billion": (pa.array([], pa.list_(pa.float32(), 2**31 - 1)), Code.WRONG_SHAPE),
        "short lists": (pa.FixedSizeListArray.from_arrays(values, 32), Code.WRONG_SHAPE),
        "lists of another nesting": (_nest(values, 8, 8), Code.WRONG_SHAPE),
        "fixed-shape tensor of another shape": (_fixed_shape(values, (8, 8)), Code.WRONG_SHAPE),
        "fixed-shape tensor in another order": (
            pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.float32(), (1, 8, 8), permutation=(0, 2, 1)),
                pa.FixedSizeListArray.from_arrays(values, 64),
            ),
            Code.UNSUPPORTED_TYPE,
        ),
        "unknown extension type": (
            pa.ExtensionArray.from_storage(pa.opaque(FLAT, "a", "b"), pa.FixedSizeListArray.from_arrays(values, 64)),
            Code.UNSUPPORTED_TYPE,
        ),
        "lists of any length": (pa.ListArray.from_arrays([0, 64], values), Code.UNSUPPORTED_TYPE),
        "list views": (pa.ListViewArray.from_arrays([0], [64], values), Code.UNSUPPORTED_TYPE),
        "struct": (pa.array([{"a": 1.0}]), Code.UNSUPPORTED_TYPE),
        "dictionary": (pa.array(["a"]).dictionary_encode(), Code.UNSUPPORTED_TYPE),
        "dictionary of numbers": (pa.array([1.0], pa.float32()).dictionary_encode(), Code.UNSUPPORTED_TYPE),
        "run-end encoded": (pa.RunEndEncodedArray.from_arrays([1], [1.0]), Code.UNSUPPORTED_TYPE),
        "text": (pa.array(["a"]), Code.UNSUPPORTED_TYPE),
        "text view": (pa.array(["a"], pa.string_view()), Code.UNSUPPORTED_TYPE),
        "pickles": (pa.array([pickle.dumps(1)]), Code.UNSUPPORTED_TYPE),
        "null column of a billion rows": (pa.nulls(billion), Code.UNSUPPORTED_TYPE),
        "empty lists, a billion rows": (
            pa.Array.from_buffers(pa.list_(pa.float32(), 0), billion, [None], children=[pa.array([], pa.float32())]),
            Code.WRONG_SHAPE,
        ),
        "no rows": (hollow, Code.NO_ROWS),
        "null rows": (pa.array([[1.0] * 64, None], FLAT), Code.NULLS),
        "null values": (pa.array([[1.0] * 63 + [None]], FLAT), Code.NULLS),
        "NaN": (pa.array([[1.0] * 63 + [float("nan")]], FLAT), Code.NOT_FINITE),
        "infinity": (pa.array([[float("inf")] + [1.0] * 63], FLAT), Code.NOT_FINITE),
    }
    streams: dict[str, tuple[bytes, Code]] = {
        name: (_stream(pa.record_batch([array], ["image"])), code) for name, (array, code) in fields.items()
    }
    text = _stream(pa.record_batch([pa.array(["abc"])], ["image"]))
    lz4 = _stream(batch, pa.ipc.IpcWriteOptions(compression="lz4"))
    streams |= {
        "schema and no batch": (_stream(None), Code.MALFORMED),
        "schema alone, cut": (_stream(None)[: -len(END)], Code.MALFORMED),
        "two batches": (_stream(batch, again=True), Code.MALFORMED),
        "two streams": (good + good, Code.MALFORMED),
        "end marker alone": (END, Code.MALFORMED),
        "without an end marker": (good[: -len(END)], Code.MALFORMED),
        "file instead of stream": (b"ARROW1\0\0" + good, Code.MALFORMED),
        "compressed": (lz4, Code.COMPRESSED),
        # The first 8 bytes of a compressed buffer are its claimed uncompressed length: here 4.4 TB.
        "compressed, forged length": (
            _forged(lz4, struct.pack("<q", 256), struct.pack("<q", 1 << 42)),
            Code.COMPRESSED,
        ),
        "buffer past the body": (_forged(good, _pair(0, 256), _pair(0, 1 << 40)), Code.MALFORMED),
        "buffer before the body": (_forged(good, _pair(0, 256), _pair(-256, 256)), Code.MALFORMED),
        "buffer too short": (_forged(good, _pair(0, 256), _pair(0, 248)), Code.MALFORMED),
        "forged row count": (_forged(good, _pair(1, 0), _pair(billion, 0)), Code.MALFORMED),
        "forged null count": (_forged(good, _pair(1, 0), _pair(1, 1)), Code.NULLS),
        "corrupt text offsets": (
            _forged(text, struct.pack("<ii", 0, 3), struct.pack("<ii", 7, 1 << 30)),
            Code.UNSUPPORTED_TYPE,
        ),
        "forged row count over 64 bits": (_forged(good, _pair(1, 0), _pair((1 << 63) - 1, 0)), Code.MALFORMED),
        "negative row count": (_forged(good, _pair(1, 0), _pair(-1, 0)), Code.MALFORMED),
        "fixed-shape tensor of negative dimensions": (_fixed_shape_of("[-1,-8,8]"), Code.WRONG_SHAPE),
        "fixed-shape tensor of a product over 64 bits": (_fixed_shape_of("[4294967296,4294967296]"), Code.WRONG_SHAPE),
        "metadata version V1": (_version(good, 0), Code.MALFORMED),
        "metadata version V6": (_version(good, 5), Code.MALFORMED),
        "stream of before Arrow 0.15": (good.replace(good[:4], b""), Code.MALFORMED),
        "metadata of 2 GB": (good[:4] + struct.pack("<i", 0x7FFFFFF8) + good[8:], Code.MALFORMED),
        "negative metadata": (good[:4] + struct.pack("<i", -8) + good[8:], Code.MALFORMED),
        "metadata of noise": (good[:8] + b"\xab" * (head - 8) + good[head:], Code.MALFORMED),
        "no columns, a billion rows": (_stream(no_columns), Code.MISSING_INPUT),
        "other column": (_stream(pa.record_batch([image], ["picture"])), Code.UNKNOWN_INPUT),
        "extra column": (_stream(pa.record_batch([image, image], ["image", "mask"])), Code.UNKNOWN_INPUT),
        "duplicate column": (_stream(pa.record_batch([image, image], ["image", "image"])), Code.DUPLICATE_INPUT),
        "name that is not UTF-8": (good.replace(b"image", b"\xff\xfeage"), Code.MALFORMED),
        "a hundred columns": (_stream(pa.record_batch([image] * 100, ["a"] * 100)), Code.TOO_LARGE),
    }
    for name, (value, code) in streams.items():
        yield HostileCase(f"arrow: {name}", ARROW, value, code)


def _batch(rows: int = 1, fill: float = 1.0) -> pa.RecordBatch:
    return pa.record_batch([_fixed_shape(pa.array(np.full(rows * 64, fill, np.float32)), (1, 8, 8))], ["image"])


def _fixed_shape(values: pa.Array, shape: tuple[int, ...]) -> pa.Array:
    return pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), shape), pa.FixedSizeListArray.from_arrays(values, 64)
    )


def _fixed_shape_of(shape: str) -> bytes:
    """A stream whose extension metadata is no writer's; pyarrow writes it under another name of the same length."""
    about = {"ARROW:extension:name": "x" * 24, "ARROW:extension:metadata": f'{{"shape":{shape}}}'}
    schema = pa.schema([pa.field("image", FLAT, metadata=about)])
    batch = pa.record_batch([pa.array([[1.0] * 64], FLAT)], schema=schema)
    return _stream(batch).replace(b"x" * 24, b"arrow.fixed_shape_tensor")


def _version(message: bytes, version: int) -> bytes:
    """``message`` with another version in the flatbuffer of its schema: its root table's first field."""
    table = 8 + struct.unpack_from("<I", message, 8)[0]
    fields = table - struct.unpack_from("<i", message, table)[0]
    at = table + struct.unpack_from("<H", message, fields + 4)[0]
    return message[:at] + struct.pack("<h", version) + message[at + 2 :]


def _nest(values: pa.Array, *dims: int) -> pa.Array:
    for dim in reversed(dims):
        values = pa.FixedSizeListArray.from_arrays(values, dim)
    return values


def _stream(batch: pa.RecordBatch | None, options: Any = None, *, again: bool = False) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, (_batch() if batch is None else batch).schema, options=options) as writer:
        for _ in range(0 if batch is None else 1 + again):
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def _pair(first: int, second: int) -> bytes:
    """A field node or buffer of a record batch's metadata."""
    return struct.pack("<qq", first, second)


def _forged(message: bytes, true: bytes, false: bytes) -> bytes:
    """``message`` with the last ``true`` in it replaced: a value of the record batch, not of the schema."""
    at = message.rindex(true)
    return message[:at] + false + message[at + len(true) :]
