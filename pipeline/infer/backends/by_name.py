"""Runtimes by name; none is imported before a model asks for it."""

from __future__ import annotations

from importlib import import_module

from pipeline.core.errors import BackendError
from pipeline.infer.backend import Backend

__all__ = ["BACKENDS", "backend_for", "check_name"]

BACKENDS = {
    "onnxruntime": ("OnnxRuntime", "sluice"),
    "onnxruntime_cuda": ("OnnxRuntimeCuda", "onnxruntime-gpu"),
    "openvino": ("OpenVino", "sluice[openvino]"),
    "tensorrt": ("TensorRt", "sluice[gpu]"),
    "torch": ("Torch", "sluice[torch]"),
    "torch_cuda": ("TorchCuda", "sluice[torch]"),
}
"""Name in a manifest -> class in the module of that name, and what to install for its runtime."""


def check_name(name: str) -> None:
    """Raise `BackendError` for a name that no backend has."""
    if name not in BACKENDS:
        raise BackendError(f"no backend {name!r}; there are: {', '.join(sorted(BACKENDS))}")


def backend_for(name: str, gpu: int | None = None) -> Backend:
    """A new, unloaded backend, on the GPU of that number if it is given one (only those of GPUs take it).

    Raises `BackendError` for an unknown name or a runtime that is not installed.
    """
    check_name(name)
    class_name, install = BACKENDS[name]
    try:
        made = getattr(import_module(f"{__package__}.{name}"), class_name)
    except ImportError as error:
        raise BackendError(f"backend {name!r} is not installed ({error}): pip install '{install}'") from error
    backend: Backend = made() if gpu is None else made(gpu)
    return backend
