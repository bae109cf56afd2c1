"""The protocol between the device thread and a runtime: slots of preallocated buffers, runs and waits."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from pipeline.core.errors import BackendBusyError
from pipeline.models import Model

__all__ = ["Backend", "Slot", "bucket_of", "pad", "slot_of"]


@dataclass(slots=True, eq=False)
class Slot:
    """Buffers of one batch, owned by one batch at a time.

    Each array has shape ``(rows_max, *tensor.shape)`` and is C-contiguous. Rows are written into ``inputs`` once, in
    place, as `input` lays them out; rows past those of the batch are the backend's to fill. ``outputs[name][0:rows]``
    holds the batch's answer from the return of `Backend.wait` until the slot is run again. A backend keeps the
    addresses of these arrays: write into them, never replace them.
    """

    index: int
    inputs: dict[str, np.ndarray[Any, Any]]
    outputs: dict[str, np.ndarray[Any, Any]]
    _: KW_ONLY
    sequences: frozenset[str] = frozenset()  # inputs that a batch's `length` shortens
    length: int | None = None  # of the batch's sequences, padded; None where the model has none

    def step_to(self, rung: int) -> None:
        """Before a batch is written: its rung of the model's ladder, where there is one (`pipeline.infer.ladder`)."""
        assert rung == 0

    def input(self, name: str) -> np.ndarray[Any, Any]:
        """The input's rows as this batch has them: of a sequence, those of ``length`` from the buffer's start on."""
        buffer = self.inputs[name]
        if self.length is None or name not in self.sequences:
            return buffer
        shape = (len(buffer), self.length, *buffer.shape[2:])
        return buffer.reshape(-1)[: math.prod(shape)].reshape(shape)


class Backend(Protocol):
    """One model on one device.

    Called in this order: `load`, `slots` once, `warm`, then per batch `run` on the device thread and `wait` on the
    completion thread, at last `close`. Another slot may be run while one is waited for.
    """

    name: ClassVar[str]

    @property
    def asynchronous(self) -> bool:
        """Whether `run` may return before the outputs are there."""
        ...

    def load(self, model: Model, *, threads: int | None = None) -> None:
        """Make ``model`` (already verified) ready; ``threads`` is for CPU work, by default what suits the machine.

        Raises `BackendError` where the runtime cannot take the model, `ModelError` where its signature is not the
        declared one.
        """
        ...

    def slots(self, count: int) -> list[Slot]:
        """Allocate the slots, all zero (pinned memory on a GPU)."""
        ...

    def warm(self) -> None:
        """Run every bucket once in every slot, so that no request pays for a first run. Raises `BackendError`."""
        ...

    def run(self, slot: Slot, rows: int) -> None:
        """Start the batch in ``slot[0:rows]``, padded to its bucket; may return before it is done.

        Called only by the device thread, ``1 <= rows <= rows_max``. Raises `BackendError`.
        """
        ...

    def wait(self, slot: Slot) -> None:
        """Return when the outputs of the slot's last run are there; at once where `run` is synchronous.

        Raises the `BackendError` of that batch. The slot can be used again afterwards, also after an error.
        """
        ...

    def close(self) -> None:
        """Free the device. Slots must not be touched afterwards; a second call does nothing."""
        ...


def bucket_of(rows: int, buckets: Sequence[int]) -> int:
    """The smallest of the ascending ``buckets`` that holds ``rows`` (at most the last one's)."""
    return buckets[bisect_left(buckets, rows)]


def slot_of(model: Model, index: int) -> Slot:
    """A slot in ordinary memory, all zero. Raises `BackendError` where there is not so much."""
    sides, rows_max = (model.signature.inputs, model.signature.outputs), model.manifest.rows_max
    try:
        buffers = [{t.name: np.zeros((rows_max, *t.shape), t.dtype) for t in side} for side in sides]
    except MemoryError as error:
        raise BackendBusyError(f"{model.label}: no memory for a batch of {rows_max} rows: {error}") from error
    return Slot(index, *buffers, sequences=frozenset(model.manifest.sequences))


def pad(slot: Slot, rows: int, bucket: int) -> None:
    """Zeros behind the batch, not what an older one left: the same rows cost and answer alike, whatever ran before."""
    if rows < bucket:
        for name in slot.inputs:
            slot.input(name)[rows:bucket] = 0
