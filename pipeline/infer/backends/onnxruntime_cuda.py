"""ONNX Runtime on an NVIDIA GPU, by its CUDA provider."""

from __future__ import annotations

from typing import ClassVar

import onnxruntime as ort

from pipeline.core.errors import BackendError
from pipeline.infer.backends.onnxruntime import OnnxRuntime
from pipeline.models import Model
from pipeline.models.onnx import CPU

__all__ = ["OnnxRuntimeCuda"]

_CUDA = "CUDAExecutionProvider"


class OnnxRuntimeCuda(OnnxRuntime):
    """As `OnnxRuntime`, on one GPU by its number; a run copies in and out.

    What the GPU cannot do runs on the CPU, but never the whole model: where there is no GPU, `load` refuses. Sums are
    of float32, not of TF32, which has 10 bits of a fraction: answers are those of the other backends.
    """

    name: ClassVar[str] = "onnxruntime_cuda"

    def __init__(self, gpu: int = 0) -> None:
        super().__init__()
        self.providers = ((_CUDA, {"device_id": str(gpu), "use_tf32": "0"}), *CPU)

    def load(self, model: Model, *, threads: int | None = None) -> None:
        if _CUDA not in (there := ort.get_available_providers()):
            raise BackendError(
                f"backend {self.name!r}: the onnxruntime that is installed has no CUDA, only {', '.join(there)}: "
                f"pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            )
        super().load(model, threads=threads)
        if (used := self._session.get_providers())[0] != _CUDA:  # ONNX Runtime itself only warns
            self.close()
            raise BackendError(
                f"backend {self.name!r}: ONNX Runtime found no GPU it can use, only {', '.join(used)}: "
                f"no driver, no device, or CUDA's libraries are missing"
            )
