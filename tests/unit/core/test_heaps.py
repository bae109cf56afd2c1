"""What glibc is told to keep, as requests come fast and slowly."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import pytest

from pipeline.core import heaps
from pipeline.core.heaps import FAST_BYTES, KEPT_BYTES, KEPT_FAST_BYTES, M_TRIM_THRESHOLD, Heaps


def _told(monkeypatch: pytest.MonkeyPatch, polled: list[int], **libc: object) -> None:
    """Follow these counts of bytes to their end."""
    monkeypatch.setattr(heaps, "LOOK_S", 0.0)
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(**libc))

    async def main() -> None:
        await Heaps().follow(lambda: polled.pop(0))

    with suppress(IndexError):
        asyncio.run(main())


def test_more_is_kept_while_many_bytes_come_in_and_given_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def mallopt(parameter: int, value: int) -> int:
        calls.append((parameter, value))
        return 1

    def malloc_trim(pad: int) -> int:
        calls.append((pad,))
        return 1

    few, many = FAST_BYTES - 1, FAST_BYTES
    polled = [0, few, few + many, few + 2 * many, 2 * few + 2 * many, 2 * few + 2 * many]
    _told(monkeypatch, polled, mallopt=mallopt, malloc_trim=malloc_trim)
    assert calls[2:] == [
        (M_TRIM_THRESHOLD, KEPT_BYTES),
        (M_TRIM_THRESHOLD, KEPT_FAST_BYTES),
        (M_TRIM_THRESHOLD, KEPT_BYTES),
        (0,),
    ]


def test_nothing_is_done_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    polled = [0, FAST_BYTES]
    _told(monkeypatch, polled)
    assert polled == [0, FAST_BYTES]
