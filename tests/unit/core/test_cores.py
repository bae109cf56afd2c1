"""Threads on one core: which, for how long, and who may run anywhere all the same."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest

from pipeline.core import cores
from pipeline.core.cores import OneCore

ALLOWED = os.sched_getaffinity(0)


@pytest.fixture
def several_cores() -> None:
    if len(ALLOWED) < 2:
        pytest.skip("this process has one core")


@pytest.fixture
def other(several_cores: None) -> Iterator[threading.Thread]:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    yield thread
    ended.set()
    thread.join()


def _of(thread: threading.Thread) -> set[int]:
    assert thread.native_id is not None
    return os.sched_getaffinity(thread.native_id)


def _while_kept(threads: list[threading.Thread], look: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        kept = asyncio.create_task(OneCore().keep(threads))
        try:
            await asyncio.wait_for(look(), 30)
        finally:
            kept.cancel()
            with suppress(asyncio.CancelledError):
                await kept

    asyncio.run(run())


async def _until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(0.001)


def test_they_share_one_core_until_it_ends(other: threading.Thread) -> None:
    me = threading.current_thread()

    async def look() -> None:
        await _until(lambda: len(_of(me)) == 1)
        assert _of(other) == _of(me) < ALLOWED

    _while_kept([me, other], look)
    assert _of(me) == _of(other) == ALLOWED


def test_the_kernel_is_asked_again_and_again(monkeypatch: pytest.MonkeyPatch, other: threading.Thread) -> None:
    monkeypatch.setattr(cores, "STAY_S", 0.02)

    async def look() -> None:
        for _ in range(3):
            await _until(lambda: len(_of(other)) == 1)
            await _until(lambda: _of(other) == ALLOWED)

    _while_kept([threading.current_thread(), other], look)


@pytest.mark.usefixtures("several_cores")
def test_what_computes_may_run_anywhere_though_its_parent_is_kept() -> None:
    me = threading.current_thread()

    async def look() -> None:
        await _until(lambda: len(_of(me)) == 1)
        with OneCore().executor() as kept, whole.executor() as free:
            assert len(kept.submit(os.sched_getaffinity, 0).result()) == 1, "made by one that sees a single core"
            assert free.submit(os.sched_getaffinity, 0).result() == ALLOWED

    whole = OneCore()
    _while_kept([me], look)


def test_one_that_has_ended_is_passed_over(other: threading.Thread) -> None:
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()

    async def look() -> None:
        await _until(lambda: len(_of(other)) == 1)

    _while_kept([ended, other], look)
    assert _of(other) == ALLOWED


@pytest.mark.parametrize("allowed", [{0}, set[int]()])
def test_with_one_core_or_where_there_are_no_affinities_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, allowed: set[int]
) -> None:
    if allowed:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    else:
        monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: pytest.fail("moved"))
    core = OneCore()
    asyncio.run(asyncio.wait_for(core.keep([threading.current_thread()]), 5))
    if not allowed:
        with core.executor() as pool:
            assert pool.submit(int, "7").result() == 7
