"""A model and the rungs of its ladder behind one backend: each batch runs on the rung its slot was set to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.infer.backend import Backend, Slot
from pipeline.models import Model

__all__ = ["Answer", "Ladder"]


@dataclass(slots=True, eq=False)
class _Slot(Slot):
    """A slot of every rung; its buffers are those of the rung it is set to."""

    rungs: Sequence[Slot] = ()
    rung: int = 0

    def step_to(self, rung: int) -> None:
        self.rung, self.inputs, self.outputs = rung, self.rungs[rung].inputs, self.rungs[rung].outputs


class Ladder:
    """A `Backend` of several, whose slots are all free or taken together: batches stay in order, whatever their rung.

    ``rungs`` are the models below the one that is loaded, each with a backend, in order; ``answers`` are the last.
    """

    name: ClassVar[str] = "ladder"

    def __init__(self, full: Backend, rungs: Sequence[tuple[Model, Backend]], answers: Sequence[Answer]) -> None:
        self._models = [model for model, _ in rungs]
        self._backends: list[Backend] = [full, *(backend for _, backend in rungs), *answers]

    @property
    def asynchronous(self) -> bool:
        return any(backend.asynchronous for backend in self._backends)

    def load(self, model: Model, *, threads: int | None = None) -> None:
        try:
            models = [model, *self._models, model, model]  # by the last ones answers know their rows
            for each, backend in zip(models, self._backends, strict=False):
                backend.load(each, threads=threads)
        except BaseException:
            self.close()
            raise

    def slots(self, count: int) -> list[Slot]:
        slots: list[Slot] = []
        for rungs in zip(*(backend.slots(count) for backend in self._backends), strict=True):
            full = rungs[0]
            slots.append(_Slot(full.index, full.inputs, full.outputs, sequences=full.sequences, rungs=rungs))
        return slots

    def warm(self) -> None:
        for backend in self._backends:
            backend.warm()

    def run(self, slot: Slot, rows: int) -> None:
        backend, rung = self._rung(slot)
        rung.length = slot.length
        backend.run(rung, rows)

    def wait(self, slot: Slot) -> None:
        backend, rung = self._rung(slot)
        backend.wait(rung)

    def close(self) -> None:
        for backend in self._backends:
            backend.close()

    def _rung(self, slot: Slot) -> tuple[Backend, Slot]:
        assert isinstance(slot, _Slot)
        return self._backends[slot.rung], slot.rungs[slot.rung]


class Answer:
    """A `Backend` that computes nothing: nothing is even copied into its slots.

    Every row has the same answer, ``row`` of each output, unless a batch brings its own (`Batch.fill`).
    """

    name: ClassVar[str] = "answer"
    asynchronous: ClassVar[bool] = False

    def __init__(self, row: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._row = row
        self._rows_max = 0

    def load(self, model: Model, *, threads: int | None = None) -> None:
        self._rows_max = model.manifest.rows_max

    def slots(self, count: int) -> list[Slot]:
        row, rows_max = self._row.items(), self._rows_max
        return [
            Slot(index, {}, {name: np.repeat(value[np.newaxis], rows_max, axis=0) for name, value in row})
            for index in range(count)
        ]

    def warm(self) -> None: ...

    def run(self, slot: Slot, rows: int) -> None: ...

    def wait(self, slot: Slot) -> None: ...

    def close(self) -> None: ...
