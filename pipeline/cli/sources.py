"""Files and pipes as requests: JSON lines, NumPy arrays, Arrow rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import orjson
import pyarrow as pa
from numpy.lib.format import open_memmap

from pipeline.core.arrays import read_arrays
from topics.client.messages import columns_of, encode
from topics.client.stream import Outgoing
from topics.codecs import codec_for
from topics.connect import MESSAGE_BYTES_MAX
from topics.errors import InputError
from topics.limits import RequestLimits
from topics.records import ARROW, JSON, Header
from topics.signature import DATATYPES, Columns, Tensor

__all__ = ["Form", "read_requests"]

_DTYPES = {datatype: name for name, datatype in DATATYPES.items()}
_LIMITS = RequestLimits()


@dataclass(frozen=True, slots=True)
class Form:
    """How to write requests. ``content_type`` None keeps what the source suggests: JSON for lines, else Arrow.

    ``tensors`` None: the model is not known here, so rows must describe themselves. ``headers`` go on every request,
    ``deadline_ms()`` is the deadline of one sent now.
    """

    tensors: tuple[Tensor, ...] | None
    content_type: str | None = None
    key: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline_ms: Callable[[], int] | None = None
    rows_per_request: int = 1

    def outgoing(self, value: bytes, content_type: str, key: bytes | None, headers: Mapping[str, str]) -> Outgoing:
        """The message; more particular headers win."""
        named: dict[str, str] = {} if content_type == JSON else {Header.CONTENT_TYPE: content_type}
        if self.deadline_ms is not None:
            named[Header.DEADLINE_MS] = str(self.deadline_ms())
        named |= {**self.headers, **headers}
        return Outgoing(value, self.key if key is None else key, [(str(k), v.encode()) for k, v in named.items()])


def read_requests(source: str, form: Form) -> Iterator[Outgoing]:
    """The requests in ``source``: a path, or ``-`` for JSON lines on standard input; read as they are sent.

    A name ending in .npy, .npz, .arrow or .arrows says its format, anything else is JSON lines. Raises `InputError`,
    with the line's number.
    """
    suffix = Path(source).suffix.lower()
    try:
        if suffix in (".npy", ".npz"):
            yield from _numpy(Path(source), form)
        elif suffix in (".arrow", ".arrows"):
            yield from _arrow(Path(source), form)
        else:
            with _lines(source) as lines:
                yield from _json_lines(lines, form)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}") from error
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: {error}") from error


@contextmanager
def _lines(source: str) -> Iterator[IO[bytes]]:
    if source == "-":
        yield sys.stdin.buffer
        return
    with Path(source).open("rb") as file:
        yield file


def _json_lines(file: IO[bytes], form: Form) -> Iterator[Outgoing]:
    number = 0
    while line := file.readline(MESSAGE_BYTES_MAX):
        number += 1
        text = line.strip()
        if not text:
            continue
        try:
            yield _json_request(text, form)
        except (InputError, ValueError, KeyError, TypeError, OverflowError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"line {number}: {said}") from error


def _json_request(text: bytes, form: Form) -> Outgoing:
    said = orjson.loads(text)
    if not isinstance(said, dict):
        raise InputError("a request is a JSON object")
    key, headers = said.get("key"), said.get("headers") or {}
    if not isinstance(headers, dict):
        raise InputError("headers are an object of names and values")
    rest = {name: value for name, value in said.items() if name not in ("key", "headers")}
    inputs = rest.get("inputs", rest)
    content_type = form.content_type or JSON
    if isinstance(inputs, list) and content_type == JSON:  # an Open Inference Protocol request goes as it is
        value = text if len(rest) == len(said) else orjson.dumps(rest)
    else:
        if form.tensors is None and not isinstance(inputs, list):
            raise InputError("rows need the model's types: give --models, or a full Open Inference Protocol request")
        columns = _oip_columns(inputs) if isinstance(inputs, list) else inputs
        value = encode(columns_of(columns, form.tensors), content_type, form.tensors, None)
    named = {str(name): str(value) for name, value in headers.items()}
    return form.outgoing(value, content_type, None if key is None else str(key).encode(), named)


def _oip_columns(inputs: list[Any]) -> Columns:
    return {
        tensor["name"]: np.asarray(tensor["data"], _DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in inputs
    }


def _numpy(path: Path, form: Form) -> Iterator[Outgoing]:
    with path.open("rb"):  # a clear error for a missing file, before NumPy's own
        pass
    if path.suffix.lower() == ".npy":
        if form.tensors is None or len(form.tensors) != 1:
            raise InputError(f"{path}: one array for a model of several or unknown inputs; use .npz")
        arrays: Columns = {form.tensors[0].name: open_memmap(path, mode="r")}
    else:
        arrays = read_arrays(path)
    if any(not array.ndim for array in arrays.values()) or len({len(a) for a in arrays.values()}) != 1:
        raise InputError(f"{path}: arrays need the same number of rows")
    content_type = form.content_type or ARROW
    for start in range(0, len(next(iter(arrays.values()))), form.rows_per_request):
        rows = {name: array[start : start + form.rows_per_request] for name, array in arrays.items()}
        value = encode(columns_of(rows, form.tensors), content_type, form.tensors, None)
        yield form.outgoing(value, content_type, None, {})


def _arrow(path: Path, form: Form) -> Iterator[Outgoing]:
    content_type = form.content_type or ARROW
    for batch in _record_batches(path):
        for start in range(0, batch.num_rows, form.rows_per_request):
            value = _arrow_stream(batch.slice(start, form.rows_per_request))
            if content_type != ARROW:
                if form.tensors is None:
                    raise InputError(f"{path}: to write Arrow rows as {content_type} the model must be known: --models")
                decoded = codec_for(ARROW).decode_requests([value], form.tensors, _LIMITS)
                if decoded.rejected:
                    raise InputError(f"{path}: {decoded.rejected[0][1]}")
                value = encode(decoded.columns, content_type, form.tensors, None)
            yield form.outgoing(value, content_type, None, {})


def _record_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Of an Arrow file or stream, whichever it is."""
    with pa.memory_map(str(path)) as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        if is_file:
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            with pa.ipc.open_stream(file) as stream:
                yield from stream


def _arrow_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return cast(bytes, sink.getvalue().to_pybytes())
