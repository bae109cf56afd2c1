"""A model's brown-out ladder: what answers in its place, in order, when the model itself would be too slow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from topics.names import check_model_name
from topics.signature import Tensor

__all__ = ["FULL", "Rung", "ladder_checks", "version_of"]

FULL = "full"
"""The name of the first rung, the model itself."""

RUNGS_MAX = 8  # each has slots of its own: memory for as many models
# Answers: 600 bytes each beside the outputs of its rows, 4 kB a row where those are a thousand float32: 0.6 and 4.6 GB.
CACHED_MAX = 1_000_000
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")


@dataclass(frozen=True, slots=True)
class Rung:
    """A rung below the model: another one of the repository, ``name/version``, what is ``cached``, or a constant.

    ``cached`` is how many answers of the full model are remembered, each for requests of the very same input.
    ``answer`` has for each output the values of one row, nested lists of its shape.
    """

    name: str
    model: str | None = None
    answer: Mapping[str, Any] | None = None
    cached: int | None = None

    def row(self, outputs: Sequence[Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        """The constant answer as one row of each output. Raises ``ValueError`` where it is none."""
        answer = self.answer or {}
        if answer.keys() != {tensor.name for tensor in outputs}:
            raise ValueError(f"it answers {sorted(answer)}, the model gives {sorted(t.name for t in outputs)}")
        return {tensor.name: _value(tensor, answer[tensor.name]) for tensor in outputs}


def version_of(label: str) -> tuple[str, str]:
    """``name/version`` apart. Raises ``ValueError`` where it is none."""
    name, slash, version = label.partition("/")
    if not slash:
        raise ValueError(f"{label!r} is not NAME/VERSION")
    return check_model_name(name), version


def ladder_checks(ladder: Sequence[Rung], own: str, outputs: Sequence[Tensor]) -> Iterator[tuple[bool, str]]:
    """What has to hold of a manifest's ladder, and what is wrong where it does not; ``own`` is ``name/version``."""
    names = [FULL, *(rung.name for rung in ladder)]
    yield len(names) <= RUNGS_MAX, f"a ladder of {len(names)} rungs; {RUNGS_MAX} are the most"
    yield len(set(names)) == len(names), f"two rungs of {names} have the same name"
    for at, rung in enumerate(ladder, 1):
        yield bool(_NAME.match(rung.name)), f"rung {rung.name!r} is not a name"
        given = sum(each is not None for each in (rung.model, rung.cached, rung.answer))
        yield given == 1, f"rung {rung.name!r}: give a model, cached or an answer, one of them"
        yield rung.model != own, f"rung {rung.name!r} is the model itself"
        yield rung.answer is None or rung is ladder[-1], f"rung {rung.name!r}: below a constant answer nothing is asked"
        if rung.cached is not None:
            fits = 1 <= rung.cached <= CACHED_MAX
            yield fits, f"rung {rung.name!r}: cached {rung.cached} is not within 1..{CACHED_MAX}"
            last = all(below.answer is not None for below in ladder[at:])
            yield last, f"rung {rung.name!r}: below what is cached only a constant is asked"
        if rung.answer is not None:
            try:
                rung.row(outputs)
            except ValueError as error:
                yield False, f"rung {rung.name!r}: {error}"


def _value(tensor: Tensor, value: Any) -> np.ndarray[Any, Any]:
    try:
        given = np.asarray(value)
        with np.errstate(all="ignore"):  # what does not fit is told below
            cast = given.astype(tensor.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{tensor}: {error}") from error
    if given.shape != tensor.shape:
        raise ValueError(f"{tensor}: its values have shape {list(given.shape)}")
    fits = np.isfinite(cast).all() if tensor.dtype.kind == "f" else np.array_equal(given, cast)
    if given.dtype.kind not in "biuf" or not fits:
        raise ValueError(f"{tensor}: its values are not all such numbers")
    return cast
