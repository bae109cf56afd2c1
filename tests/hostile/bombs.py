"""Messages that are to take memory: as large as a request may be, in the forms that grow most."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tests.hostile.cases import HostileCase, good_request
from topics.codes import Code
from topics.limits import RequestLimits
from topics.records import ARROW, JSON, RAW

__all__ = ["bombs"]

LIMITS = RequestLimits()
JSON_BYTES = LIMITS.json_bytes_max - 200
VALUES = LIMITS.json_values_max - 30  # less the few of the message around them
VALUE_BYTES = LIMITS.value_bytes_max


def bombs() -> list[HostileCase]:
    """Each must be refused with its code."""
    return [*_json(), *_arrow(), *_any_type()]


def _json() -> Iterator[HostileCase]:
    """What repeats, as often as may be, before the error at its end."""
    texts = {
        "numbers": b"257.5,",
        "whole numbers": b"257,",
        "lists": b"[0],",
        "objects": b'{"":0},',
        "short texts": b'"ab",',
        "keys": b"",
        "whole numbers of 64 bits": b"18446744073709551615,",
    }
    for name, text in texts.items():
        times = min(JSON_BYTES // max(1, len(text)), VALUES // max(1, sum(map(text.count, b",:[{"))))
        data = text * times
        if name == "keys":
            data = b'{"' + b'":0,"'.join(b"%x" % number for number in range(VALUES // 2)) + b'":0},'
        yield HostileCase(f"bomb: json {name}", JSON, _around(data + b"0"), Code.WRONG_SHAPE)
        yield HostileCase(f"bomb: json {name}, broken at the end", JSON, _around(data + b"0")[:-3], Code.MALFORMED)
    text = b"a" * (JSON_BYTES - VALUES * 6) + "\U0001f4a3".encode()
    mixed = b'"' + text + b'",' + b'"ab",' * (VALUES - 1)
    yield HostileCase("bomb: json astral text and short texts", JSON, _around(mixed + b"0"), Code.WRONG_SHAPE)
    astral = b'"' + b"a" * JSON_BYTES + "\U0001f4a3".encode() + b'"'
    yield HostileCase("bomb: json astral text", JSON, _around(astral), Code.WRONG_SHAPE)
    for size in (VALUE_BYTES, LIMITS.json_bytes_max + 1):
        for name, text in {"numbers": b"0,", "lists": b"[],", "text": b"a", "open lists": b"["}.items():
            yield HostileCase(
                f"bomb: json {size >> 20} MiB of {name}", JSON, _around(text * (size // len(text))), Code.TOO_LARGE
            )


def _around(data: bytes) -> bytes:
    start = b'{"inputs":[{"name":"image","shape":[1,1,8,8],"datatype":"FP32","data":['
    return start + data + b"]}]}"


def _arrow() -> Iterator[HostileCase]:
    rows = LIMITS.rows_max - 3_000  # so that the metadata and a validity bitmap fit, too
    batch = pa.record_batch([pa.nulls(rows, pa.list_(pa.float32(), 64))], ["image"])
    yield HostileCase("bomb: arrow nulls", ARROW, _stream(batch), Code.NULLS)
    zeros = np.zeros((rows, 64), np.float32)
    for kind in ("zstd", "lz4"):
        column = pa.FixedSizeListArray.from_arrays(pa.array(zeros.ravel()), 64)
        options = pa.ipc.IpcWriteOptions(compression=kind)
        yield HostileCase(
            f"bomb: arrow {kind}", ARROW, _stream(pa.record_batch([column], ["image"]), options), Code.COMPRESSED
        )
    bits = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 2_000, np.bool_)), 2_000)
    yield HostileCase("bomb: arrow bools", ARROW, _stream(pa.record_batch([bits], ["image"])), Code.WRONG_DTYPE)
    zeros[-1, -1] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(zeros.ravel()), 64)
    yield HostileCase(
        "bomb: arrow NaN at the end", ARROW, _stream(pa.record_batch([column], ["image"])), Code.NOT_FINITE
    )
    text = pa.array(["a" * (VALUE_BYTES - 2_000)])
    yield HostileCase("bomb: arrow text", ARROW, _stream(pa.record_batch([text], ["image"])), Code.UNSUPPORTED_TYPE)
    notes = pa.schema([pa.field("image", pa.float32(), metadata={f"{n}": "x" * 6_000 for n in range(30)})])
    batch = pa.record_batch([pa.array([1.0], pa.float32())], schema=notes)
    yield HostileCase("bomb: arrow notes", ARROW, _stream(batch), Code.WRONG_SHAPE)
    yield HostileCase(
        "bomb: arrow 200 kB of metadata",
        ARROW,
        _stream(batch.replace_schema_metadata({"more": "x" * 50_000})),
        Code.WRONG_SHAPE,
    )


def _any_type() -> Iterator[HostileCase]:
    zeros = np.zeros((LIMITS.rows_max, 64), np.float32)
    zeros[-1, -1] = np.inf
    yield HostileCase("bomb: raw infinity at the end", RAW, zeros.tobytes(), Code.NOT_FINITE)
    yield HostileCase("bomb: raw 12 MiB less one", RAW, zeros.tobytes()[:-1], Code.WRONG_SHAPE)
    for name, content_type in (("json", JSON), ("arrow", ARROW), ("raw", RAW)):
        value = good_request(content_type) + bytes(VALUE_BYTES)
        yield HostileCase(f"bomb: {name} over the size limit", content_type, value, Code.TOO_LARGE)
    yield HostileCase("bomb: key of 12 MiB", RAW, good_request(RAW), Code.TOO_LARGE, key=bytes(VALUE_BYTES))
    for name in ("request-id", "tracestate"):  # a notice with all of it would not fit the predictions topic
        many = ((name, b"x" * 1_500_000),) * 2
        yield HostileCase(f"bomb: {name} of 3 MB", RAW, good_request(RAW), Code.BAD_HEADER, headers=many)
    headers = tuple((f"h{number}", b"x") for number in range(10_000))
    yield HostileCase("bomb: 10,000 headers", RAW, b"x", Code.WRONG_SHAPE, headers=headers)


def _stream(batch: pa.RecordBatch, options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())
