"""A model of two numbers, requests of numbered rows, and a backend that doubles them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.admit import Admitted, HeaderColumns, RequestHeaders
from pipeline.admit.scattered import Scattered
from pipeline.core.errors import BackendError
from pipeline.infer import Slot
from pipeline.models import Manifest, Model
from tests.unit.intake.messages import POLLED_NS, chunk_of, message
from topics.codecs import codec_for
from topics.records import RAW
from topics.signature import Signature, Tensor

__all__ = ["SIGNATURE", "FakeBackend", "admitted_of", "column_of", "model_of", "rows_in"]

X = Tensor("x", np.dtype("float32"), (2,))
SIGNATURE = Signature((X,), (Tensor("y", np.dtype("float32"), (2,)), Tensor("half", np.dtype("float32"), ())))
RAW_CODEC = codec_for(RAW)


def model_of(name: str = "m", *, rows_max: int = 8, answer_rejected: bool = True) -> Model:
    """Takes ``x`` float32 [2] and answers ``y`` = 2x and ``half`` = x[0] / 2."""
    manifest = Manifest(
        name,
        "1",
        "fake",
        "model.onnx",
        SIGNATURE,
        rows_max,
        (rows_max,),
        (),
        {"model.onnx": "0" * 64},
        answer_rejected=answer_rejected,
    )
    return Model(manifest, Path("nowhere"))


def admitted_of(
    rows: Sequence[int],
    *,
    first: int = 0,
    deadlines_ms: Sequence[int] | None = None,
    polled_ns: int = POLLED_NS,
    scattered: bool = False,
) -> Admitted:
    """Requests of so many rows each; row r of all holds ``[first + r, first + r]``."""
    total = sum(rows)
    ids = np.arange(first, first + total, dtype=np.float32)
    column, starts = np.stack([ids, ids], axis=1), np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    chunk = chunk_of([message(offset) for offset, _ in enumerate(rows)], polled_ns=polled_ns)
    return Admitted(
        chunk=chunk,
        columns={"x": Scattered(np.split(column, starts[1:-1])) if scattered else column},
        row_start=starts,
        decoded_ns=polled_ns,
        indices=range(len(rows)),
        headers=HeaderColumns(len(rows), RequestHeaders(RAW_CODEC), {}),
        deadlines_ms=None if deadlines_ms is None else np.array(deadlines_ms, np.int64),
    )


def column_of(admitted: Admitted) -> np.ndarray[Any, Any]:
    """All rows of the one input, as they are written into a slot."""
    rows = X.empty(admitted.rows)
    admitted.write(X.name, 0, rows)
    return rows


def rows_in(slot: Slot, rows: int) -> list[int]:
    """The numbers of the first ``rows`` rows in a slot."""
    assert (slot.inputs["x"][:rows, 0] == slot.inputs["x"][:rows, 1]).all()
    return [int(x) for x in slot.inputs["x"][:rows, 0]]


class FakeBackend:
    """Keeps what it ran; fails batches that hold a row of ``poison``."""

    name: ClassVar[str] = "fake"
    asynchronous: ClassVar[bool] = False

    def __init__(self, *, rows_max: int = 8) -> None:
        self.rows_max = rows_max
        self.poison: set[int] = set()
        self.raises: Exception = BackendError("a poison row")
        self.ran: list[list[int]] = []
        self.warmed = self.closed = 0
        self._numbers = count()

    def load(self, model: Model, *, threads: int | None = None) -> None: ...

    def slots(self, count: int) -> list[Slot]:
        return [self._slot() for _ in range(count)]

    def _slot(self) -> Slot:
        arrays: list[dict[str, np.ndarray[Any, Any]]] = [
            {tensor.name: np.zeros((self.rows_max, *tensor.shape), tensor.dtype) for tensor in side}
            for side in (SIGNATURE.inputs, SIGNATURE.outputs)
        ]
        return Slot(next(self._numbers), *arrays)

    def warm(self) -> None:
        self.warmed += 1

    def run(self, slot: Slot, rows: int) -> None:
        ids = rows_in(slot, rows)
        self.ran.append(ids)
        if self.poison.intersection(ids):
            raise self.raises
        slot.outputs["y"][:rows] = 2 * slot.inputs["x"][:rows]
        slot.outputs["half"][:rows] = slot.inputs["x"][:rows, 0] / 2

    def wait(self, slot: Slot) -> None: ...

    def close(self) -> None:
        self.closed += 1
