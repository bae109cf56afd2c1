"""What of CUDA the slots need, behind a protocol: memory, streams, events, graphs; and which GPUs there are."""

from pipeline.infer.cuda.bindings import CudaBindings
from pipeline.infer.cuda.faults import CudaFault, error_of
from pipeline.infer.cuda.probe import Gpu, Gpus, look_for_gpus
from pipeline.infer.cuda.runtime import CudaRuntime

__all__ = ["CudaBindings", "CudaFault", "CudaRuntime", "Gpu", "Gpus", "error_of", "look_for_gpus"]
