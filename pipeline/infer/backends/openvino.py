"""OpenVINO on the CPU: one compiled model, and for each slot a request with tensors over the slot's own buffers."""

from __future__ import annotations

from typing import Any, ClassVar

from pipeline.core.errors import BackendError
from pipeline.infer.backend import Slot, bucket_of, pad, slot_of
from pipeline.infer.threads import default_threads
from pipeline.models import Model, read_content
from pipeline.models.openvino import open_model, runtime, signature_of

__all__ = ["OpenVino"]

ov = runtime()

_Tensors = list[tuple[int, Any]]  # by the number of the input or output


class OpenVino:
    """A `Backend` that reads OpenVINO's .xml and .bin, or an ONNX file.

    `run` waits for the request it starts, the GIL given away: all cores work on one batch at a time, so that started
    requests would only queue, and a device that looks idle while they do is sent small batches. Batches are padded to
    buckets, for OpenVINO plans for each input shape it meets and keeps that.

    Float32 is not rounded on the way, whatever the CPU would rather have. But float64 is computed as float32 and
    64-bit integers as 32-bit ones, and an index that is out of bounds, an error elsewhere, is answered with anything.
    """

    name: ClassVar[str] = "openvino"
    asynchronous: ClassVar[bool] = False

    def __init__(self) -> None:
        self._model: Model | None = None
        self._opened: Any = None
        self._compiled: Any = None
        self._threads = 1
        self._requests: list[Any] = []
        self._tensors: list[dict[int, tuple[_Tensors, _Tensors]]] = []
        self._slots: list[Slot] = []

    def load(self, model: Model, *, threads: int | None = None) -> None:
        opened = open_model(model.file, *read_content(model))
        model.check_declared(signature_of(opened, model.file))
        self._threads = threads or default_threads()
        self._opened, self._model = opened, model
        self._compile()

    def slots(self, count: int) -> list[Slot]:
        model = self._loaded
        for index in range(len(self._slots), len(self._slots) + count):
            slot = slot_of(model, index)
            self._slots.append(slot)
            self._requests.append(self._compiled.create_infer_request())
            self._tensors.append({bucket: _tensors(slot, bucket) for bucket in model.manifest.buckets})
        return self._slots[-count:]

    def warm(self) -> None:
        for slot in self._slots:
            for bucket in self._loaded.manifest.buckets:
                self.run(slot, bucket)

    def run(self, slot: Slot, rows: int) -> None:
        bucket = bucket_of(rows, self._loaded.manifest.buckets)
        pad(slot, rows, bucket)
        request = self._requests[slot.index]
        inputs, outputs = self._tensors[slot.index][bucket]
        try:
            for number, tensor in inputs:
                request.set_input_tensor(number, tensor)
            for number, tensor in outputs:
                request.set_output_tensor(number, tensor)
            request.start_async()  # `infer` would copy the outputs
            request.wait()
        except RuntimeError as error:
            self._compile()
            raise BackendError(f"{self._loaded.label}: {_one_line(error)}") from error
        if any(tensor.shape[0] != bucket for _, tensor in outputs):  # OpenVINO has made ours smaller: the rest is old
            found = [list(tensor.shape) for _, tensor in outputs]
            raise BackendError(f"{self._loaded.label}: of {bucket} rows it made outputs of shapes {found}")

    def wait(self, slot: Slot) -> None:
        """Nothing to wait for: `run` returns when the outputs are there."""

    def close(self) -> None:
        self._requests.clear()
        self._tensors.clear()
        self._slots.clear()
        self._compiled = self._opened = None

    def _compile(self) -> None:
        """Anew after a failure: what failed in its midst keeps shapes of that batch, and every later one fails too."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self._compiled = ov.Core().compile_model(self._opened, "CPU", settings)
        except RuntimeError as error:
            raise BackendError(f"{self._loaded.label}: OpenVINO cannot compile it: {_one_line(error)}") from error
        self._requests = [self._compiled.create_infer_request() for _ in self._slots]

    @property
    def _loaded(self) -> Model:
        assert self._model is not None, "load() comes first"
        return self._model


def _tensors(slot: Slot, bucket: int) -> tuple[_Tensors, _Tensors]:
    inputs, outputs = (
        [(number, ov.Tensor(buffer[:bucket], shared_memory=True)) for number, buffer in enumerate(side.values())]
        for side in (slot.inputs, slot.outputs)
    )
    return inputs, outputs


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
