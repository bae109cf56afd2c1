"""A column of large requests, whose rows stay where they came in until they are written into a slot."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

__all__ = ["Scattered"]

Array = np.ndarray[Any, Any]


class Scattered:
    """Rows one after the other, ``parts`` of ``(rows, *tensor.shape)`` each: mostly views of the requests' bytes."""

    __slots__ = ("_starts", "parts")

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = parts
        self._starts = list(accumulate(map(len, parts), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def write(self, first: int, into: Array) -> None:
        """Copy as many rows as ``into`` has, from row ``first`` on."""
        at, end = bisect_right(self._starts, first) - 1, first + len(into)
        while self._starts[at] < end:
            start = self._starts[at]
            rows = self.parts[at][max(0, first - start) : end - start]
            row = max(0, start - first)
            into[row : row + len(rows)] = rows
            at += 1
