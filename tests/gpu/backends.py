"""The backends of a GPU that can be measured here, and how each is made."""

from __future__ import annotations

from importlib.util import find_spec

import onnxruntime as ort

from pipeline.infer import Backend
from pipeline.infer.backends import backend_for
from pipeline.infer.backends.tensorrt import TensorRt, find_tensorrt

__all__ = ["installed", "made"]


def installed() -> list[str]:
    """By preference; empty where none of a GPU is installed."""
    there = {
        "tensorrt": find_tensorrt() is not None,
        "onnxruntime_cuda": "CUDAExecutionProvider" in ort.get_available_providers(),
        "torch_cuda": find_spec("torch") is not None,
    }
    return [name for name, found in there.items() if found]


def made(name: str) -> Backend:
    """The backend on the first GPU; one that queues its work has the moments of each batch taken."""
    if name == "onnxruntime_cuda":
        return backend_for(name, 0)
    if name == "tensorrt":
        return TensorRt(timed=True)
    from pipeline.infer.backends.torch_cuda import TorchCuda

    return TorchCuda(timed=True)
