"""A window hands over to the next version's: nothing is overtaken, mixed, split between the two or left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pipeline.core.errors import BackendError
from pipeline.infer import Batch, Device, DeviceState, Lane
from pipeline.window import Scheduler, Window, WorkConserving
from tests.unit.infer.makers import FakeBackend, admitted_of, model_of, rows_in

Scenario = Callable[["Bench"], Coroutine[Any, Any, None]]


class FakeDevice(Device):
    """Fills slots as the real one does; batches run when the test says so. Others may keep it busy."""

    def __init__(self) -> None:
        super().__init__(fail=_unexpected)
        self.running: list[tuple[Lane, Batch]] = []
        self.ran: list[tuple[str, list[int]]] = []
        self.busy = False

    def state(self, lane: Lane, now_ns: int) -> DeviceState:
        return DeviceState(idle=not self.running and not self.busy, free_slots=len(lane.free))

    def submit(self, lane: Lane, batch: Batch) -> None:
        batch.fill(lane.free.pop())
        assert batch.slot is not None
        self.running.append((lane, batch))
        self.ran.append((lane.model.name, rows_in(batch.slot, batch.rows)))

    def end(self, *, retry: bool = False) -> None:
        """The oldest batch has run and was read, or failed."""
        lane, batch = self.running.pop(0)
        assert batch.slot is not None
        lane.free.append(batch.slot)
        if retry:
            batch.error = BackendError("failed")
            lane.retry(batch)
        else:
            lane.changed()


class Bench:
    """The windows of two versions, of 16 rows each before two slots of 8 rows."""

    def __init__(self) -> None:
        self.device = FakeDevice()
        self.old, self.new = self._window("old"), self._window("new")

    def _window(self, name: str) -> Window:
        backend = FakeBackend()
        lane = Lane(model_of(name), backend, lambda lane, batch: None, backend.slots(2))
        scheduler = Scheduler(WorkConserving(8, gather_ns=0), 8)
        return Window(lane, self.device, {None: scheduler}, rows_max=16, attempts_max=1, expire=_unexpected)

    async def hand_over(self) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.old.hand_over(self.new))
        await asyncio.sleep(0)
        return task


def _unexpected(what: object) -> None:
    raise AssertionError(what)


def run(scenario: Scenario) -> None:
    asyncio.run(asyncio.wait_for(scenario(Bench()), 20))


def test_what_waits_is_run_by_the_old_version_before_anything_by_the_new() -> None:
    async def scenario(bench: Bench) -> None:
        offer = asyncio.ensure_future(bench.old.offer([admitted_of([1] * 36)]))  # 8 run, 8 are filled, 20 wait
        await asyncio.sleep(0)
        handing = await bench.hand_over()
        await bench.new.offer([admitted_of([1] * 10, first=100)])
        while bench.device.running:
            assert not handing.done()
            bench.device.end()
        await asyncio.gather(handing, offer)
        old = [list(range(at, min(at + 8, 36))) for at in range(0, 36, 8)]
        new = [list(range(100, 108)), [108, 109]]
        assert bench.device.ran == [*(("old", rows) for rows in old), *(("new", rows) for rows in new)]

    run(scenario)


def test_the_old_version_is_done_only_when_its_last_batch_is() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.old.offer([admitted_of([1] * 16)])
        handing = await bench.hand_over()
        await bench.new.offer([admitted_of([1] * 8, first=100)])
        assert [name for name, _ in bench.device.ran] == ["old", "old", "new"]
        bench.device.end()
        await asyncio.sleep(0)
        assert not handing.done()
        bench.device.end()
        await handing

    run(scenario)


def test_a_version_that_has_nothing_to_do_hands_over_at_once() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.old.hand_over(bench.new)
        await bench.new.offer([admitted_of([1])])
        assert bench.device.ran == [("new", [0])]

    run(scenario)


def test_a_request_that_is_split_is_whole_in_one_version() -> None:
    async def scenario(bench: Bench) -> None:
        offer = asyncio.ensure_future(bench.old.offer([admitted_of([3, 40, 2])]))
        await asyncio.sleep(0)
        handing = await bench.hand_over()
        later = asyncio.ensure_future(bench.new.offer([admitted_of([20, 1], first=100)]))
        await asyncio.sleep(0)
        while bench.device.running:
            bench.device.end()
        await asyncio.gather(handing, offer, later)
        rows = {name: [row for of, each in bench.device.ran if of == name for row in each] for name in ("old", "new")}
        assert rows == {"old": list(range(45)), "new": list(range(100, 121))}

    run(scenario)


def test_halves_of_a_batch_that_failed_are_the_old_versions() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.old.offer([admitted_of([1] * 4)])
        handing = await bench.hand_over()
        await bench.new.offer([admitted_of([1] * 8, first=100)])
        bench.device.end(retry=True)
        await asyncio.sleep(0)
        assert not handing.done()
        while bench.device.running:
            bench.device.end()
        await handing
        assert bench.device.ran == [
            ("old", [0, 1, 2, 3]),
            ("new", list(range(100, 108))),
            ("old", [0, 1]),
            ("old", [2, 3]),
        ]

    run(scenario)


def test_halves_that_wait_for_a_slot_go_before_the_new_version() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.old.offer([admitted_of([1] * 15)])
        await bench.old.offer([admitted_of([1], first=15)])
        bench.device.end(retry=True)
        handing = await bench.hand_over()
        await bench.new.offer([admitted_of([1] * 8, first=100)])
        assert [rows for _, rows in bench.device.ran[2:]] == [[0, 1, 2, 3]]
        while bench.device.running:
            bench.device.end()
        await handing
        assert [name for name, _ in bench.device.ran] == ["old"] * 4 + ["new"]

    run(scenario)


@pytest.mark.parametrize("rows", [3, 8, 11])
def test_the_last_rows_leave_though_others_keep_the_device_busy(rows: int) -> None:
    """A planner gathers while the device is busy; nothing comes to gather for, and the new version waits."""

    async def scenario(bench: Bench) -> None:
        bench.device.busy = True
        await bench.old.offer([admitted_of([1] * rows)])
        handing = await bench.hand_over()
        while bench.device.running:
            bench.device.end()
        await handing
        assert [row for _, each in bench.device.ran for row in each] == list(range(rows))

    run(scenario)


def test_what_is_offered_meanwhile_waits_for_room_as_ever() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.old.offer([admitted_of([1] * 30)])
        handing = await bench.hand_over()
        offer = asyncio.ensure_future(bench.new.offer([admitted_of([1] * 16, first=100)]))
        await asyncio.sleep(0)
        assert not offer.done()
        while bench.device.running:
            bench.device.end()
        await asyncio.gather(handing, offer)
        assert sum(len(rows) for _, rows in bench.device.ran) == 46

    run(scenario)
