"""What a model has answered of late, by the requests' inputs: a rung of its ladder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from pipeline.admit import Admitted
from pipeline.infer.batch import Batch
from topics.signature import Columns

__all__ = ["Recall", "Remembered"]

DIGEST_BYTES = 16  # two inputs that collide: 2**64 tries

Recall = Callable[[Admitted, int], Columns | None]
"""The answer to a request's input, where it is remembered."""


class Remembered:
    """Answers to at most ``answers_max`` inputs; over that the one that was asked for longest ago is forgotten.

    An input is a request's content type and value, byte for byte. Event loop only: a batch is kept between its outputs
    were read and its slot is filled again.
    """

    def __init__(self, answers_max: int) -> None:
        self._answers_max = answers_max
        self._answers: OrderedDict[bytes, Columns] = OrderedDict()  # by digest

    def __len__(self) -> int:
        return len(self._answers)

    def keep(self, batch: Batch) -> None:
        """What a batch answered whole requests; those in pieces are not remembered."""
        assert batch.slot is not None
        outputs = batch.slot.outputs
        for run in batch.runs:
            starts = (run.admitted.row_start[run.lo : run.hi + 1] + (run.slot_row - run.first_row)).tolist()
            for request, lo, hi in zip(range(run.lo, run.hi), starts, starts[1:], strict=False):
                digest = _digest(run.admitted, request)
                self._answers[digest] = {name: array[lo:hi].copy() for name, array in outputs.items()}
                self._answers.move_to_end(digest)
                if len(self._answers) > self._answers_max:
                    self._answers.popitem(last=False)

    def recall(self, admitted: Admitted, request: int) -> Columns | None:
        """The answer to a request's input, (its rows, ...) of each output; None where it is not remembered."""
        digest = _digest(admitted, request)
        answer = self._answers.get(digest)
        if answer is not None:
            self._answers.move_to_end(digest)
        return answer


def _digest(admitted: Admitted, request: int) -> bytes:
    value = admitted.chunk.values()[admitted.indices[request]] or b""
    return blake2b(value, digest_size=DIGEST_BYTES, key=admitted.codec.content_type.encode()).digest()
