"""What OpenVINO reads: its own format, an .xml and a .bin of weights, or an ONNX file; and its signature."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import BackendError, ModelError
from topics.signature import Signature, Tensor

__all__ = ["open_model", "read_signature", "runtime", "signature_of", "weights_file"]


def runtime() -> Any:
    """OpenVINO itself. Raises ``ImportError``.

    Its import tells its maker so, by a process forked off this one, unless the package that does that cannot be
    imported; it then goes without.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # Python's own way to say so
    import openvino

    return openvino


def weights_file(path: Path, data: bytes) -> frozenset[str]:
    """The file of weights that belongs to the .xml at ``path``: OpenVINO keeps both under one name."""
    return frozenset((path.with_suffix(".bin").name,))


def open_model(path: Path, data: bytes, external: Mapping[str, bytes]) -> Any:
    """An ``openvino.Model`` of bytes whose hashes were checked; see `pipeline.models.onnx.open_session` for why.

    Raises `ModelError` where OpenVINO refuses the model: malformed, an operator it lacks; `BackendError` where there
    is no OpenVINO.
    """
    try:
        core = runtime().Core()
    except ImportError as error:
        raise BackendError(f"{path}: needs OpenVINO ({error}): pip install 'sluice[openvino]'") from error
    try:
        if path.suffix.lower() == ".xml":
            return core.read_model(BytesIO(data), BytesIO(*external.values()))
        if not external:
            return core.read_model(BytesIO(data))
        # OpenVINO finds external data only beside a file: ours, that nobody else can write to meanwhile.
        with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
            for name, content in {path.name: data, **external}.items():
                copy = Path(folder) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
            return core.read_model(Path(folder) / path.name)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: OpenVINO refuses it: {' '.join(str(error).split())[:500]}") from error


def read_signature(path: Path, data: bytes, external: Mapping[str, bytes]) -> Signature:
    """The signature of a model that OpenVINO takes. Raises as `open_model`."""
    return signature_of(open_model(path, data, external), path)


def signature_of(model: Any, path: Path) -> Signature:
    """One row at a time, as of an ONNX file: the first dimension is the free batch size. Raises `ModelError`."""
    try:
        return Signature(tuple(map(_tensor, model.inputs)), tuple(map(_tensor, model.outputs)))
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error


def _tensor(port: Any) -> Tensor:
    if not (names := port.get_names()):
        raise ValueError("an input or output has no name")
    name, shape = min(names), [size.get_length() if size.is_static else None for size in port.partial_shape]
    if shape[:1] != [None] or None in shape[1:]:
        raise ValueError(f"tensor {name!r}: just the first dimension, the batch size, must be free, shape is {shape}")
    try:
        dtype = np.dtype(port.element_type.to_dtype())
        if runtime().Type(dtype) != port.element_type:  # it names bfloat16 float16, and what is smaller than a byte one
            raise RuntimeError("numpy has no such type")
    except RuntimeError as error:
        raise ValueError(f"tensor {name!r} is a {port.element_type}, which no column can carry") from error
    return Tensor(name, dtype, tuple(size for size in shape[1:] if size is not None))
