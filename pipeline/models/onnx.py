"""What an ONNX file says of itself: the files it refers to, read before any runtime opens it, and its signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pipeline.core.errors import ModelError
from pipeline.models.manifest import Model
from topics.signature import Signature, Tensor

__all__ = [
    "CPU",
    "check_signature",
    "external_files",
    "open_bare",
    "open_session",
    "read_signature",
    "runtime_errors",
    "signature_of",
]

CPU = ("CPUExecutionProvider",)
FOLDER = "session.model_external_initializers_file_folder_path"

# The parts of onnx.proto3 that can hold a tensor, as {message: {field number: message}}. Reading them by hand keeps
# the onnx package out of the base install, costs no copy of the weights, and needs no trust in a runtime's own check.
_PARTS: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "model": {7: "graph", 20: "training", 25: "function"},
        "training": {1: "graph", 2: "graph"},
        "graph": {1: "node", 5: "tensor", 15: "sparse"},
        "function": {7: "node", 11: "attribute"},
        "node": {5: "attribute"},
        "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
        "sparse": {1: "tensor", 2: "tensor"},
        "tensor": {13: "external"},
    }
)
_GRAPH = 7
DEPTH_MAX = 100  # protobuf's own limit; a subgraph inside a subgraph takes three levels
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_DTYPES = MappingProxyType(
    {"float": "float32", "double": "float64"}
    | {name: name for name in ("bool", "float16", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)))}
)


def external_files(path: Path, data: bytes) -> frozenset[str]:
    """The locations of all external data that ``data``, read from ``path``, refers to: anything, not only safe paths.

    Walks graphs, subgraphs, functions, training graphs and attributes. Raises `ModelError` for what is not an ONNX
    file.
    """
    try:
        view = memoryview(data)
        if not any(number == _GRAPH for number, _ in _fields(view)):
            raise ValueError("it has no graph")
        return frozenset(_locations(view, "model", DEPTH_MAX))
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path}: not an ONNX file: {error}") from error


def _locations(view: memoryview, message: str, depth: int) -> Iterator[str]:
    if depth == 0:
        raise ValueError("nested too deep")
    parts = _PARTS[message]
    for number, value in _fields(view):
        part = parts.get(number)
        if part == "external":
            entry = dict(_fields(value))
            if bytes(entry.get(1, b"")) == b"location":
                yield str(entry.get(2, b""), "utf-8")
        elif part is not None:
            yield from _locations(value, part, depth - 1)


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of one protobuf message, as (number, content); the others are passed over."""
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(view, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, start = _varint(view, at)
            at = start + size
            if at <= end:
                yield tag >> 3, view[start:at]
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
    if at > end:
        raise ValueError("it is cut off")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number at byte {at} has more than ten bytes")


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: one Exception subclass for each status code, without a common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (*kinds, RuntimeError, ValueError, TypeError)


def open_session(
    path: Path, data: bytes, external: Mapping[str, bytes], options: Any, providers: Sequence[Any] = CPU
) -> Any:
    """An ``onnxruntime.InferenceSession``, by default on the CPU, of bytes whose hashes were checked and not of files.

    A file may change between its check and its use, and one that is cut off while the runtime has it mapped would end
    the process. ``external`` holds the external data by location; only what subgraphs refer to is still read by the
    runtime itself, from the directory of ``path``. Raises `ModelError` where the runtime refuses the model: not ONNX,
    an invalid graph, an operator it lacks.
    """
    import onnxruntime

    options.log_severity_level = 4  # fatal only: what goes wrong is raised, and standard error is the worker's log
    options.add_session_config_entry(FOLDER, str(path.parent))
    try:
        if external:
            sizes = [len(content) for content in external.values()]
            options.add_external_initializers_from_files_in_memory([*external], [*external.values()], sizes)
        return onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)
    except runtime_errors() as error:
        raise ModelError(f"{path}: onnxruntime refuses it: {_one_line(error)}") from error


def open_bare(path: Path, data: bytes, external: Mapping[str, bytes]) -> Any:
    """A session only good for looking at: one thread, nothing optimised. Raises `ModelError`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return open_session(path, data, external, options)


def signature_of(session: Any, path: Path, sequences: Mapping[str, int] = MappingProxyType({})) -> Signature:
    """The signature of the session opened from ``path``, one row at a time: the first dimension is the free batch size.

    ``sequences`` maps inputs whose second dimension is free, too, to its largest size. Raises `ModelError` where a
    dtype cannot be carried, the batch size is fixed or another dimension is not.
    """
    try:
        return Signature(
            tuple(_tensor(node, sequences.get(node.name)) for node in session.get_inputs()),
            tuple(_tensor(node) for node in session.get_outputs()),
        )
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def read_signature(
    path: Path, data: bytes, external: Mapping[str, bytes], sequences: Mapping[str, int] = MappingProxyType({})
) -> Signature:
    """The signature of an ONNX file that ONNX Runtime takes (`signature_of`). Raises `ModelError`."""
    return signature_of(open_bare(path, data, external), path, sequences)


def check_signature(model: Model, session: Any) -> None:
    """Raise `ModelError` unless the session's model has the signature that the manifest declares."""
    model.check_declared(signature_of(session, model.file, model.manifest.longest))


def _tensor(node: Any, length: int | None = None) -> Tensor:
    dtype = _DTYPES.get(node.type.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:
        raise ValueError(f"tensor {node.name!r} is a {node.type}, which no column can carry")
    free = [not isinstance(size, int) for size in node.shape]  # a text or None where the size is not fixed
    if free[:1] != [True]:
        raise ValueError(f"tensor {node.name!r}: the first dimension must be a free batch size, shape is {node.shape}")
    shape = list(node.shape[1:])
    if length is not None:
        if free[1:2] != [True]:
            raise ValueError(f"tensor {node.name!r}: a sequence's dimension must be free, shape is {node.shape}")
        shape[0], free[1] = length, False
    if any(free[1:]):
        raise ValueError(f"tensor {node.name!r}: only the first dimension may be free, shape is {node.shape}")
    return Tensor(node.name, np.dtype(dtype), tuple(shape))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
