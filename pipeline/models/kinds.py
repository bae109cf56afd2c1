"""The formats that some backend loads: by a file's name, which files belong to it and how its signature is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pipeline.core.errors import ModelError
from pipeline.models import onnx, openvino, program
from pipeline.models.formats import check_kind
from topics.signature import Signature

__all__ = ["Kind", "check_backend", "kind_of"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One format."""

    backend: str  # of a model added without one
    others: tuple[str, ...]  # backends that read it, too; ONNX is read by any that does not have a format of its own
    external: Callable[[Path, bytes], frozenset[str]]  # files it refers to, relative to its own
    signature: Callable[[Path, bytes, Mapping[str, bytes]], Signature]  # from the contents of the file and of those


_KINDS = MappingProxyType(
    {
        ".onnx": Kind("onnxruntime", ("onnxruntime_cuda", "openvino"), onnx.external_files, onnx.read_signature),
        ".pt2": Kind("torch", ("torch_cuda",), lambda path, data: frozenset(), program.read_signature),
        ".xml": Kind("openvino", (), openvino.weights_file, openvino.read_signature),
    }
)


def kind_of(path: Path) -> Kind:
    """What the model's file is; refuses what no backend here loads as a model. Raises `ModelError`."""
    check_kind(path)
    if (kind := _KINDS.get(path.suffix.lower())) is None:
        raise ModelError(f"{path}: not a model format that is known here ({', '.join(_KINDS)})")
    return kind


def check_backend(path: Path, backend: str) -> None:
    """Raise `ModelError` where ``backend`` is known to read other formats than the file's, and not that."""
    readers = {suffix: {kind.backend, *kind.others} for suffix, kind in _KINDS.items()}
    if backend not in readers[path.suffix.lower()] and any(backend in names for names in readers.values()):
        raise ModelError(f"{path}: backend {backend!r} does not read {path.suffix} files")
