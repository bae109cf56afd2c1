"""What the device runs once: rows of many requests side by side in one slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.admit import Admitted
from pipeline.core.errors import SluiceError
from pipeline.infer.backend import Slot
from topics.signature import Columns, Tensor

__all__ = ["Batch", "Joined", "Piece", "Run"]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Whole requests ``lo..hi`` of one `Admitted`, rows one after the other from ``slot_row`` on."""

    admitted: Admitted
    lo: int
    hi: int
    slot_row: int

    def __len__(self) -> int:
        return self.hi - self.lo

    @property
    def first_row(self) -> int:
        """Where the run's rows begin in the admitted columns."""
        return int(self.admitted.row_start[self.lo])

    @property
    def rows(self) -> int:
        return int(self.admitted.row_start[self.hi]) - self.first_row


@dataclass(slots=True, eq=False)
class Joined:
    """The outputs of a request that is larger than a batch, gathered piece by piece."""

    admitted: Admitted
    request: int
    left: int  # rows
    outputs: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    failed: bool = False

    def take(self, slot: Slot, piece: Piece, tensors: tuple[Tensor, ...], total: int) -> bool:
        """Copy a piece's outputs; True when the request is whole. Completion thread only."""
        if not self.outputs:
            self.outputs = {tensor.name: tensor.empty(total) for tensor in tensors}
        for name, whole in self.outputs.items():
            whole[piece.row : piece.row + piece.rows] = slot.outputs[name][piece.slot_row : piece.slot_row + piece.rows]
        self.left -= piece.rows
        return self.left == 0


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Rows ``row..row+rows`` of one request that is larger than a batch."""

    joined: Joined
    row: int  # within the request
    rows: int
    slot_row: int

    @property
    def first_row(self) -> int:
        """Where the piece's rows begin in the admitted columns."""
        return int(self.joined.admitted.row_start[self.joined.request]) + self.row

    @property
    def admitted(self) -> Admitted:
        return self.joined.admitted


@dataclass(slots=True, eq=False)
class Batch:
    """Runs and pieces in a slot, and the moments they passed (monotonic ns)."""

    runs: list[Run]
    pieces: list[Piece]
    rows: int
    planned_ns: int
    copied_ns: int = 0
    started_ns: int = 0
    computed_ns: int = 0
    slot: Slot | None = None
    error: SluiceError | None = None
    attempts: int = 1  # runs of just this batch, while its errors may pass
    length: int | None = None  # of its sequences, padded
    rung: int = 0  # of the model's ladder; 0 is the model itself
    answers: Sequence[Columns] = ()  # that are remembered, of its requests in order: nothing is computed
    blamed: SluiceError | None = None  # its one request failed; zeros run in its place, see `again`
    due_ns: int = 0  # of several models' batches the one that is due first runs first; what runs again before all
    deadline_ns: int | None = None  # the earliest of its whole requests', where what waited was ordered by urgency
    expected_ns: int = 0  # how long it is expected to run
    acked: Callable[[Batch, int], None] | None = None  # told when all is acknowledged, on the completion thread

    def parts(self) -> Iterator[Run | Piece]:
        """All that lies in the slot."""
        yield from self.runs
        yield from self.pieces

    def fill(self, slot: Slot) -> None:
        """Write the rows into the slot's buffers: the one copy between a request's bytes and the device."""
        self.slot, slot.length = slot, self.length
        slot.step_to(self.rung)
        for name in slot.inputs:
            buffer = slot.input(name)
            if self.blamed is not None:
                buffer[: self.rows] = 0
                continue
            for part in self.parts():
                part.admitted.write(name, part.first_row, buffer[part.slot_row : part.slot_row + part.rows])
        for name, buffer in slot.outputs.items() if self.answers else ():
            np.concatenate([answer[name] for answer in self.answers], out=buffer[: self.rows])

    def again(self, attempts_max: int) -> tuple[Batch, ...]:
        """What runs after this batch has failed.

        The same batch while the error may pass, then its halves, to find the request that the failure is about (I7).
        That one is blamed only if the model still answers zeros, as it did when it was warmed: they run in its place.
        """
        assert self.error is not None and not self.answers
        if not self.is_single and (attempts_max <= self.attempts or not self.error.retryable):
            return self.halves()
        same = self._of(list(self.parts()))
        if self.may_pass(self.error, attempts_max):
            same.attempts, same.blamed = self.attempts + 1, self.blamed
        else:
            assert self.blamed is None
            same.blamed = self.error
        return (same,)

    def may_pass(self, error: SluiceError, attempts_max: int) -> bool:
        """Whether just this batch is to run once more after the error."""
        return error.retryable and self.attempts < attempts_max

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches of half the requests each."""
        parts: list[Run | Piece] = []
        for part in self.parts():
            if isinstance(part, Run) and len(part) > 1:
                middle = (part.lo + part.hi) // 2
                parts += [Run(part.admitted, part.lo, middle, 0), Run(part.admitted, middle, part.hi, 0)]
            else:
                parts.append(part)
        assert len(parts) > 1, "one request cannot be halved"
        middle = len(parts) // 2
        return self._of(parts[:middle]), self._of(parts[middle:])

    @property
    def is_single(self) -> bool:
        """Whether only one request is in it."""
        return len(self.pieces) + sum(map(len, self.runs)) == 1

    def _of(self, parts: list[Run | Piece]) -> Batch:
        batch = Batch([], [], 0, self.planned_ns, length=self.length, rung=self.rung)
        for part in parts:
            batch.add(part)
        return batch

    def add(self, part: Run | Piece) -> None:
        """Append a part behind those already in it."""
        if isinstance(part, Run):
            self.runs.append(Run(part.admitted, part.lo, part.hi, self.rows))
        else:
            self.pieces.append(Piece(part.joined, part.row, part.rows, self.rows))
        self.rows += part.rows
