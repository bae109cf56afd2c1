"""PyTorch on an NVIDIA GPU: a program of `torch.export`, queued on the streams of TensorRT's slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch.export.passes import move_to_device_pass

from pipeline.core.errors import BackendBusyError, BackendError
from pipeline.infer.backends.tensorrt import TensorRt
from pipeline.infer.backends.tensorrt.engine import Context, Engine
from pipeline.infer.backends.torch import in_order, one_line, open_program
from pipeline.infer.cuda import look_for_gpus
from pipeline.models import Model
from topics.signature import Tensor

__all__ = ["TorchCuda"]


class TorchCuda(TensorRt):
    """As `TensorRt`, with a program in the engine's place: slots, overlapped copies and lost devices are the same."""

    name: ClassVar[str] = "torch_cuda"

    def __init__(self, device: int = 0, *, timed: bool = False) -> None:
        super().__init__(device, opened=_open, timed=timed)


def _open(model: Model, device: int, claim: Callable[[int], None]) -> Engine:
    gpus = look_for_gpus()
    if not torch.cuda.is_available() or device >= len(gpus.found):
        reason = (
            gpus.reason or f"{len(gpus.found)} there, and torch {torch.__version__} sees {torch.cuda.device_count()}"
        )
        raise BackendError(f"{model.label}: no cuda:{device}: {reason}")
    exported = open_program(model)
    claim(sum(weight.nbytes for weight in exported.state_dict.values()))
    return _Program(model, move_to_device_pass(exported, f"cuda:{device}").module(), device)


class _Program:
    """An `Engine` over torch."""

    scratch_bytes = 0

    def __init__(self, model: Model, program: Any, device: int) -> None:
        self._model = model
        self._program = program
        self._device = device
        self._pools: dict[int, Any] = {}  # of graphs, by stream: those of one slot never run at the same time

    def context(self, bucket: int, addresses: Mapping[str, int], scratch: int, stream: int) -> Context:
        signature = self._model.signature
        takes, gives = (
            [self._view(tensor, addresses[tensor.name], bucket) for tensor in side]
            for side in (signature.inputs, signature.outputs)
        )
        what, on = f"{self._model.label}: batches of {bucket}", torch.cuda.ExternalStream(stream, device=self._device)
        if stream not in self._pools:
            self._pools[stream] = torch.cuda.graph_pool_handle()
        return _Run(what, self._program, takes, gives, on, self._pools[stream])

    def _view(self, tensor: Tensor, address: int, rows: int) -> Any:
        """A tensor over device memory that a slot owns."""
        return torch.as_tensor(_Memory(tensor, address, rows), device=f"cuda:{self._device}")

    def close(self) -> None:
        self._program = None


class _Memory:
    """Device memory as others read it; torch keeps this object, and with it nothing of the memory."""

    def __init__(self, tensor: Tensor, address: int, rows: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (rows, *tensor.shape),
            "typestr": tensor.dtype.str,
            "data": (address, False),
            "version": 3,
        }


class _Run:
    """A `Context` of torch: one batch size of a program over a slot's memory.

    The second run is captured into a graph of torch's own, which keeps what the program allocates; those after replay
    it. Capturing is not left to the slot, which knows nothing of memory that torch would give to others meanwhile.
    """

    def __init__(
        self, what: str, program: Any, takes: Sequence[Any], gives: Sequence[Any], stream: Any, pool: Any
    ) -> None:
        self._what = what
        self._program = program
        self._takes = takes
        self._gives = gives
        self._stream = stream
        self._pool = pool
        self._ran = False
        self._graph: Any = None

    def enqueue(self, stream: int) -> None:
        try:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                if torch.cuda.is_current_stream_capturing():
                    raise BackendError("torch captures itself")
                if self._ran and self._graph is None:
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(
                        graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                    ):
                        self._run()
                    self._graph = graph
                if self._graph is None:
                    self._run()
                    self._ran = True
                else:
                    self._graph.replay()
        except torch.OutOfMemoryError as error:
            raise BackendBusyError(f"{self._what}: {one_line(error)}") from error
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise BackendError(f"{self._what}: {one_line(error)}") from error

    def _run(self) -> None:
        for tensor, found in zip(self._gives, in_order(self._program(*self._takes)), strict=True):
            tensor.copy_(found, non_blocking=True)

    def close(self) -> None:
        self._graph = None
        self._takes = self._gives = ()
