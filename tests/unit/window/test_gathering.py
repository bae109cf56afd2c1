"""How long requests gather before they are offered, and when what came is planned."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.unit.infer.makers import admitted_of
from tests.unit.intake.messages import POLLED_MS
from tests.unit.window.windowed import Bench, answered


async def putting_off() -> Bench:
    """So much was answered that a batch is put off, which a first request waits for."""
    bench = Bench.promised()
    for _ in range(100):
        answered(bench, run_ms=10, late_ms=0)
    await bench.window.offer([admitted_of([1])])
    return bench


async def loaded() -> Bench:
    """Then so much has come that none is put off: that first one has run."""
    bench = await putting_off()
    (scheduler,) = bench.window._schedulers.values()
    scheduler._rungs[0].rate.add(10_000, bench.clock.now_ns())
    bench.window._pump()
    bench.device.end()
    assert bench.device.ran.pop() == [0]
    return bench


def test_requests_gather_while_batches_are_put_off_and_no_client_is_in_haste() -> None:
    async def scenario() -> None:
        bench = await putting_off()
        assert bench.window.gather_s == pytest.approx(0.02)
        bench.clock.ms = 60
        await bench.window.offer([admitted_of([1], first=1)])
        bench.window._pump()
        assert bench.window.gather_s == pytest.approx(0.02), "it is late, but did not ask for less"
        await bench.window.offer([admitted_of([1], first=2, deadlines_ms=[POLLED_MS + 39])])
        await _until(lambda: bench.window.gather_s == 0)
        bench.clock.ms = 120
        await bench.window.offer([admitted_of([1], first=3)])
        assert bench.window.gather_s == 0, "somebody was a moment ago"

    asyncio.run(scenario())


def test_while_batches_are_put_off_what_is_polled_together_is_planned_together() -> None:
    async def scenario() -> None:
        bench = await putting_off()
        for first in range(1, 8):
            await bench.window.offer([admitted_of([1], first=first)])
        assert not bench.device.ran, "a full batch waits to be planned"
        await _until(lambda: bench.device.ran == [list(range(8))])

    asyncio.run(scenario())


def test_behind_a_batch_that_runs_requests_gather_until_just_before_its_end() -> None:
    async def scenario() -> None:
        bench = await loaded()
        await bench.window.offer([admitted_of([1] * 16, first=1)])
        await asyncio.sleep(0)
        assert len(bench.device.running) == 2
        assert bench.window.gather_s == pytest.approx(0.005), "nobody knows when it ends"
        bench.device.free_ns = bench.clock.now_ns() + 21_000_000
        bench.window._pump()
        assert bench.window.gather_s == pytest.approx(0.016)
        bench.clock.ms += 10
        assert bench.window.gather_s == pytest.approx(0.006), "by then, as the poll asks"
        bench.clock.ms += 5
        assert bench.window.gather_s == pytest.approx(0.005)
        bench.device.free_ns += 3_600_000_000_000
        bench.window._pump()
        assert bench.window.gather_s == pytest.approx(0.02), "the poll thread has more to do"

    asyncio.run(scenario())


def test_with_more_load_an_idle_device_begins_at_once_and_a_busy_one_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.window.window.SOON_S", 3600)

    async def scenario() -> None:
        bench = await loaded()
        await bench.window.offer([admitted_of([1], first=1)])
        await asyncio.sleep(0)
        assert bench.device.ran == [[1]]
        await bench.window.offer([admitted_of([1] * 8, first=2)])
        await asyncio.sleep(0)
        assert len(bench.device.ran) == 1, "a full batch waits to be planned"
        bench.device.end()
        assert bench.device.ran[1:] == [list(range(2, 10))]

    asyncio.run(scenario())


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)
