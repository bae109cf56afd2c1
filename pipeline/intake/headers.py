"""Headers of polled requests that are alike: a column for each, as long as the requests are in flight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

from topics.headers import UNREADABLE, RawHeaders

__all__ = ["RawColumn", "RawColumns", "bytes_of", "in_columns", "size_of"]


class RawColumn(NamedTuple):
    """One header of each request: its values in their order, or the one value that all have."""

    name: str
    values: tuple[Any, ...]  # bytes, or None for a null
    common: bool


class RawColumns(Sequence[RawHeaders]):
    """Headers of requests that have the same names in the same order, or all none.

    As a sequence it gives each request's as librdkafka gave them.
    """

    __slots__ = ("_count", "columns")

    def __init__(self, columns: Sequence[RawColumn], count: int) -> None:
        self._count = count
        self.columns = columns

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> RawHeaders: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RawHeaders]: ...
    def __getitem__(self, index: int | slice) -> RawHeaders | Sequence[RawHeaders]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        at = range(self._count)[index]
        return [(name, values[0 if common else at]) for name, values, common in self.columns] or None


def in_columns(headers: list[RawHeaders]) -> Sequence[RawHeaders]:
    """The same headers as `RawColumns` where they are alike, else as they are.

    A request's own list, tuples and names take 400 bytes and more, which are let go here, while they are in the
    processor's cache, and not after all that happens to the request.
    """
    count, first = len(headers), headers[0]
    if first != UNREADABLE and first == headers[-1] and headers.count(first) == count:
        return RawColumns([RawColumn(name, (value,), common=True) for name, value in first or ()], count)
    present = [each for each in headers if each]
    if len(present) < count or len(set(map(len, present))) > 1:
        return headers
    columns: list[RawColumn] = []
    for column in zip(*present, strict=True):
        names, values = zip(*column, strict=True)
        if names.count(names[0]) < count:
            return headers
        common = values[0] == values[-1] and values.count(values[0]) == count
        columns.append(RawColumn(names[0], values[:1] if common else values, common=common))
    return RawColumns(columns, count)


def size_of(headers: Sequence[RawHeaders]) -> int:
    """Bytes of the values that these keep."""
    if isinstance(headers, RawColumns):
        return sum(bytes_of(column.values) for column in headers.columns)
    return bytes_of([value for each in headers for _, value in each or ()])


def bytes_of(values: Sequence[bytes | None]) -> int:
    """Bytes of all of them."""
    try:
        return sum(map(len, values))  # type: ignore[arg-type]  # as a rule none is null, and to look is dearer
    except TypeError:
        return sum(map(len, filter(None, values)))
