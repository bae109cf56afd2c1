"""Runtimes by name; none is imported before a model asks for it."""

from __future__ import annotations

from importlib import import_module

from pipeline.core.errors import BackendError
from pipeline.infer.backend import Backend

__all__ = ["BACKENDS", "backend_for"]

BACKENDS = {"onnxruntime": ("OnnxRuntime", "sluice"), "tensorrt": ("TensorRt", "sluice[gpu]")}
"""Name in a manifest -> class in the module of that name, and what to install for its runtime."""


def backend_for(name: str) -> Backend:
    """A new, unloaded backend. Raises `BackendError` for an unknown name or a runtime that is not installed."""
    if name not in BACKENDS:
        raise BackendError(f"no backend {name!r}; there are: {', '.join(sorted(BACKENDS))}")
    class_name, install = BACKENDS[name]
    try:
        backend: Backend = getattr(import_module(f"{__package__}.{name}"), class_name)()
    except ImportError as error:
        raise BackendError(f"backend {name!r} is not installed ({error}): pip install '{install}'") from error
    return backend
