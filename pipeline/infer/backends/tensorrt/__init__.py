"""TensorRT on a GPU: the engine builder and its cache, the slots that run an engine, the backend over both."""

from pipeline.infer.backends.tensorrt.backend import TensorRt
from pipeline.infer.backends.tensorrt.builder import Progress, build_plan
from pipeline.infer.backends.tensorrt.engines import Built, EngineKey, Engines
from pipeline.infer.backends.tensorrt.module import find_tensorrt, load_tensorrt
from pipeline.infer.backends.tensorrt.sealed import Sealed

__all__ = [
    "Built",
    "EngineKey",
    "Engines",
    "Progress",
    "Sealed",
    "TensorRt",
    "build_plan",
    "find_tensorrt",
    "load_tensorrt",
]
