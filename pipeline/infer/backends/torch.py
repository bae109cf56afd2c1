"""PyTorch on the CPU: a program of `torch.export`, and tensors over the slots' own buffers."""

from __future__ import annotations

from io import BytesIO
from typing import Any, ClassVar

import torch
from torch.export.pt2_archive._package import load_pt2

from pipeline.core.errors import BackendError, ModelError
from pipeline.infer.backend import Slot, bucket_of, pad, slot_of
from pipeline.infer.threads import default_threads
from pipeline.models import Model, read_content
from pipeline.models.program import clean, read_signature

__all__ = ["Torch", "in_order", "one_line", "open_program"]

_Tensors = dict[str, Any]


class Torch:
    """A `Backend` whose `run` is synchronous and gives the GIL away inside each operator.

    Batches are padded to buckets, so that what torch's kernels keep of shapes is bounded and warm. Torch's number of
    threads is the process's: the model loaded last sets it for all.
    """

    name: ClassVar[str] = "torch"
    asynchronous: ClassVar[bool] = False

    def __init__(self) -> None:
        self._model: Model | None = None
        self._program: Any = None
        self._slots: list[Slot] = []
        self._tensors: list[tuple[_Tensors, _Tensors]] = []

    def load(self, model: Model, *, threads: int | None = None) -> None:
        self._program = open_program(model).module()
        torch.set_num_threads(threads or default_threads())
        self._model = model

    def slots(self, count: int) -> list[Slot]:
        for index in range(len(self._slots), len(self._slots) + count):
            slot = slot_of(self._loaded, index)
            self._slots.append(slot)
            inputs, outputs = (
                {name: torch.from_numpy(buffer) for name, buffer in side.items()}
                for side in (slot.inputs, slot.outputs)
            )
            self._tensors.append((inputs, outputs))
        return self._slots[-count:]

    def warm(self) -> None:
        for slot in self._slots:
            for bucket in self._loaded.manifest.buckets:
                self.run(slot, bucket)

    def run(self, slot: Slot, rows: int) -> None:
        bucket = bucket_of(rows, self._loaded.manifest.buckets)
        pad(slot, rows, bucket)
        inputs, outputs = self._tensors[slot.index]
        try:
            with torch.inference_mode():
                answer = self._program(*(tensor[:bucket] for tensor in inputs.values()))
                for tensor, found in zip(outputs.values(), in_order(answer), strict=True):
                    tensor[:bucket].copy_(found)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise BackendError(f"{self._loaded.label}: {one_line(error)}") from error

    def wait(self, slot: Slot) -> None:
        """Nothing to wait for: `run` returns when the outputs are there."""

    def close(self) -> None:
        self._tensors.clear()
        self._slots.clear()
        self._program = None

    @property
    def _loaded(self) -> Model:
        assert self._model is not None, "load() comes first"
        return self._model


def open_program(model: Model) -> Any:
    """The program that a (verified) model is, on the CPU. Raises `ModelError`."""
    data = clean(model.file, read_content(model)[0])
    model.check_declared(read_signature(model.file, data, {}))
    try:
        # `torch.export.load` is this, but says of an error only that there was one, and tries an older format then.
        return load_pt2(BytesIO(data)).exported_programs["model"]
    except Exception as error:  # torch names no classes of what it raises here
        raise ModelError(f"{model.file}: torch refuses it: {type(error).__name__}: {one_line(error)}") from error


def in_order(answer: Any) -> list[Any]:
    """What a program answers, as a list: a tensor, a sequence, or a dictionary in the order of its keys."""
    if isinstance(answer, dict):
        return list(answer.values())
    return list(answer) if isinstance(answer, (tuple, list)) else [answer]


def one_line(error: Exception) -> str:
    """What an error says, as one line of a log has it."""
    return " ".join(str(error).split())[:500]
