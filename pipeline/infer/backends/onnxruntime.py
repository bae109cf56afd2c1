"""ONNX Runtime: one session, and one binding to the slots' own buffers for each slot and bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, ClassVar

import onnxruntime as ort

from pipeline.core.errors import BackendError
from pipeline.infer.backend import Slot, bucket_of, pad, slot_of
from pipeline.infer.threads import default_threads
from pipeline.models import Model, read_content
from pipeline.models.onnx import CPU, check_signature, open_session, runtime_errors

__all__ = ["OnnxRuntime"]

_ERRORS = runtime_errors()


class OnnxRuntime:
    """A `Backend` whose `run` is synchronous and gives the GIL away while it computes.

    Batches are padded to buckets although this runtime takes any size: ONNX Runtime plans and keeps memory for each
    input shape it meets, so that the buckets bound what it keeps (I4), and warming them covers every first run.
    """

    name: ClassVar[str] = "onnxruntime"
    asynchronous: ClassVar[bool] = False

    def __init__(self) -> None:
        self.providers: Sequence[Any] = CPU  # of ONNX Runtime, by preference, as its sessions take them
        self._model: Model | None = None
        self._session: Any = None
        self._bindings: list[dict[tuple[int | None, int], Any]] = []
        self._slots: list[Slot] = []

    def load(self, model: Model, *, threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or default_threads()
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # Threads that spin between operators burn the core that Kafka's threads need. CPU time of 256 digits on two
        # busy cores: 5.9 ms on one thread, 7.6 on two, 11.9 on two that spin (and no batch ended sooner for it).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = open_session(model.file, *read_content(model), options, self.providers)
        check_signature(model, self._session)
        self._model = model

    def slots(self, count: int) -> list[Slot]:
        model = self._loaded
        for index in range(len(self._slots), len(self._slots) + count):
            slot = slot_of(model, index)
            self._slots.append(slot)
            self._bindings.append({shape: self._bind(slot, *shape) for shape in self._shapes()})
        return self._slots[-count:]

    def warm(self) -> None:
        for slot in self._slots:
            for slot.length, bucket in self._shapes():
                self.run(slot, bucket)

    def run(self, slot: Slot, rows: int) -> None:
        bucket = bucket_of(rows, self._loaded.manifest.buckets)
        pad(slot, rows, bucket)
        try:
            self._session.run_with_iobinding(self._bindings[slot.index][slot.length, bucket])
        except _ERRORS as error:
            raise BackendError(f"{self._loaded.label}: {' '.join(str(error).split())[:500]}") from error

    def wait(self, slot: Slot) -> None:
        """Nothing to wait for: `run` returns when the outputs are there."""

    def close(self) -> None:
        self._bindings.clear()
        self._slots.clear()
        self._session = None

    @property
    def _loaded(self) -> Model:
        assert self._model is not None, "load() comes first"
        return self._model

    def _shapes(self) -> Iterator[tuple[int | None, int]]:
        """All that a batch may be padded to: length of its sequences, rows."""
        return product(self._loaded.manifest.lengths or (None,), self._loaded.manifest.buckets)

    def _bind(self, slot: Slot, length: int | None, bucket: int) -> Any:
        # Bound once to the slot's addresses: a run allocates and copies nothing, and a batch of one row of the linear
        # model takes 3.3 us instead of 6.1 with `run(names, feeds)`; large batches cost the same both ways.
        binding = self._session.io_binding()
        slot.length = length
        inputs = {name: slot.input(name) for name in slot.inputs}
        for buffers, bind in ((inputs, binding.bind_input), (slot.outputs, binding.bind_output)):
            for name, buffer in buffers.items():
                rows = buffer[:bucket]  # contiguous, at the buffer's own address
                bind(name, "cpu", 0, buffer.dtype.type, rows.shape, rows.ctypes.data)
        return binding
