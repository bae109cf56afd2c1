"""The CUDA runtime by way of cuda-bindings (an extra), imported when the first call is made."""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

from pipeline.core.errors import BackendError
from pipeline.infer.cuda.faults import CudaFault

__all__ = ["CudaBindings"]

NOT_READY = 600
NON_BLOCKING = 1  # cudaStreamNonBlocking
NO_TIMING = 2  # cudaEventDisableTiming: an event that is not timed costs the device less
DEFAULT = 0


class CudaBindings:
    """A `CudaRuntime`. Its calls give the GIL away. Raises `BackendError` where cuda-bindings is not installed."""

    @cached_property
    def _api(self) -> Any:
        try:
            return import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise BackendError(f"cuda-bindings is not installed ({error}): pip install 'sluice[gpu]'") from error

    @cached_property
    def _handle(self) -> Any:
        return import_module("cuda.bindings.utils").get_cuda_native_handle

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *answer = getattr(self._api, name)(*arguments)
        if int(status):
            raise CudaFault(int(status), status.name, name)
        return answer[0] if len(answer) == 1 else tuple(answer)

    def _made(self, name: str, *arguments: Any) -> int:
        """The handle that a call made, as a number."""
        made = self._call(name, *arguments)
        return int(self._handle(made))

    def _done(self, name: str, handle: int) -> bool:
        try:
            self._call(name, handle)
        except CudaFault as fault:
            if fault.code != NOT_READY:
                raise
            return False
        return True

    def use(self, device: int) -> None:
        self._call("cudaSetDevice", device)

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def pin(self, size: int) -> int:
        return int(self._call("cudaHostAlloc", size, DEFAULT))

    def unpin(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def stream(self) -> int:
        return self._made("cudaStreamCreateWithFlags", NON_BLOCKING)

    def stream_done(self, stream: int) -> bool:
        return self._done("cudaStreamQuery", stream)

    def end_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def event(self, *, timed: bool = False) -> int:
        return self._made("cudaEventCreateWithFlags", DEFAULT if timed else NO_TIMING)

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait_event(self, stream: int, event: int) -> None:
        self._call("cudaStreamWaitEvent", stream, event, DEFAULT)

    def event_done(self, event: int) -> bool:
        return self._done("cudaEventQuery", event)

    def elapsed_ms(self, begin: int, end: int) -> float:
        return float(self._call("cudaEventElapsedTime", begin, end))

    def end_event(self, event: int) -> None:
        self._call("cudaEventDestroy", event)

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", device, host, size, self._api.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", host, device, size, self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def begin_capture(self, stream: int) -> None:
        # Of this thread alone: another may allocate for the next version meanwhile, which "global" would forbid.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._made("cudaGraphInstantiate", graph, DEFAULT)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def end_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)
