"""An engine on the device, and its execution contexts, as the slots use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pipeline.core.errors import BackendError
from pipeline.infer.backends.tensorrt.module import TensorRtLog, log_of
from pipeline.models import Model

__all__ = ["Context", "Engine", "TensorRtEngine"]


class Context(Protocol):
    """One batch size of an engine, bound to a slot's memory for good.

    A graph is captured of a context and may be launched as long as nothing of the context changes: so each bucket of
    each slot has a context of its own, and those of a slot share its scratch memory, since one of them runs at a time.
    """

    def enqueue(self, stream: int) -> None:
        """Queue one run. Raises `BackendError` where the engine refuses; then nothing of it is queued."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """A deserialized plan, of which contexts are made."""

    @property
    def scratch_bytes(self) -> int:
        """Device memory that one running context needs besides inputs and outputs."""
        ...

    def context(self, bucket: int, addresses: Mapping[str, int], scratch: int, stream: int) -> Context:
        """A context of the profile of ``bucket``, bound to device addresses by tensor name."""
        ...

    def close(self) -> None: ...


class TensorRtEngine:
    """An `Engine` of the TensorRT module ``trt``; profile i is that of bucket i of the manifest.

    Raises `BackendError` where TensorRT does not take the plan.
    """

    def __init__(self, trt: Any, model: Model, plan: bytes) -> None:
        self._trt = trt
        self._model = model
        self._said = log_of(trt)
        self._runtime = trt.Runtime(self._said.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(f"{model.label}: TensorRT does not take its engine: {self._said.take()}")

    @property
    def scratch_bytes(self) -> int:
        return int(self._engine.device_memory_size_v2)

    def context(self, bucket: int, addresses: Mapping[str, int], scratch: int, stream: int) -> Context:
        what = f"{self._model.label}: batches of {bucket}"
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendError(f"{what}: TensorRT makes no context: {self._said.take()}")
        profile = self._model.manifest.buckets.index(bucket)
        if scratch:
            context.set_device_memory(scratch, self.scratch_bytes)
        fine = context.set_optimization_profile_async(profile, stream)
        for tensor in self._model.signature.inputs:
            fine = fine and context.set_input_shape(tensor.name, (bucket, *tensor.shape))
        for name, address in addresses.items():
            fine = fine and context.set_tensor_address(name, address)
        try:
            missing = context.infer_shapes() if fine else []
        except RuntimeError as error:
            raise BackendError(f"{what}: TensorRT refuses: {error}") from error
        if not fine or missing:
            raise BackendError(f"{what}: TensorRT refuses: {', '.join(missing) or self._said.take()}")
        for tensor in self._model.signature.outputs:
            if (shape := tuple(context.get_tensor_shape(tensor.name))) != (bucket, *tensor.shape):
                raise BackendError(f"{what}: its output {tensor.name} is {shape}, not {(bucket, *tensor.shape)}")
        return _Context(context, self._said, what)

    def close(self) -> None:
        self._engine = self._runtime = None


class _Context:
    def __init__(self, context: Any, said: TensorRtLog, what: str) -> None:
        self._context = context
        self._said = said
        self._what = what

    def enqueue(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise BackendError(f"{self._what}: TensorRT refuses: {self._said.take()}")

    def close(self) -> None:
        self._context = None
