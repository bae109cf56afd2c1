"""The device thread: order, errors on the batch, slots, turns, and an end with the worker when it dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.core.clock import SYSTEM_CLOCK
from pipeline.core.errors import BackendError
from pipeline.infer import Batch, Device, DeviceState, Lane, Run, Slot
from tests.unit.infer.makers import FakeBackend, admitted_of, model_of, rows_in

HOUR_NS = 3_600_000_000_000

Scenario = Callable[["Bench"], Coroutine[Any, Any, None]]


class Bench:
    """A device with two models of two slots each; what is done is collected."""

    def __init__(self) -> None:
        self.failed: list[BaseException] = []
        self.failing = threading.Event()
        self.done: list[tuple[Lane, Batch]] = []
        self.device = Device(fail=self._fail)
        self.backends = [FakeBackend(), FakeBackend()]
        self.lanes = [
            self.device.add(model_of(name), backend, 2, self._done)
            for name, backend in zip("ab", self.backends, strict=True)
        ]
        for backend in self.backends:
            backend.ran.clear()  # what was run to see how long it takes
        self.asked: list[str] = []
        for lane in self.lanes:
            lane.changed = self._changed(lane)

    def _changed(self, lane: Lane) -> Callable[[], None]:
        return lambda: self.asked.append(lane.model.name)

    def _fail(self, error: BaseException) -> None:
        self.failed.append(error)
        self.failing.set()

    def _done(self, lane: Lane, batch: Batch) -> None:
        self.done.append((lane, batch))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Batches of the first model do not end before this does."""
        backend, ends = self.backends[0], threading.Event()
        run_ = backend.run

        def hold(slot: Slot, rows: int) -> None:
            ends.wait()
            run_(slot, rows)

        backend.run = hold  # type: ignore[method-assign]
        try:
            yield
        finally:
            ends.set()

    def submit(self, first: int, rows: int = 1, lane: int = 0, due_ns: int = 0, expected_ns: int = 0) -> Batch:
        batch = Batch([], [], 0, 0, due_ns=due_ns, expected_ns=expected_ns)
        batch.add(Run(admitted_of([1] * rows, first=first), 0, rows, 0))
        self.device.submit(self.lanes[lane], batch)
        return batch

    def state(self, lane: Lane | None = None) -> DeviceState:
        """The device as the first model's planner sees it now, or another's."""
        return self.device.state(lane or self.lanes[0], SYSTEM_CLOCK.now_ns())

    async def until_done(self, count: int) -> None:
        """Returns when so many batches ran and the event loop knows."""
        while len(self.done) < count or not self.state().idle:
            await asyncio.sleep(0.001)


def run(scenario: Scenario) -> None:
    async def bounded() -> None:
        bench = Bench()
        bench.device.start(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(scenario(bench), 20)
        finally:
            bench.device.stop()

    asyncio.run(bounded())


def test_batches_run_in_the_order_they_were_submitted() -> None:
    async def scenario(bench: Bench) -> None:
        batches = [bench.submit(0, 3), bench.submit(10, lane=1), bench.submit(20)]
        await bench.until_done(3)
        assert bench.done == [
            (bench.lanes[0], batches[0]),
            (bench.lanes[1], batches[1]),
            (bench.lanes[0], batches[2]),
        ]
        assert [backend.ran for backend in bench.backends] == [[[0, 1, 2], [20]], [[10]]]
        for batch in batches:
            assert batch.planned_ns < batch.copied_ns <= batch.started_ns <= batch.computed_ns
            assert batch.error is None and batch.slot is not None
        assert batches[0].slot is not None and (batches[0].slot.outputs["half"][:3] == [0, 0.5, 1]).all()

    run(scenario)


def test_models_are_warmed_before_the_first_batch_and_closed_at_the_end() -> None:
    seen: list[FakeBackend] = []

    async def scenario(bench: Bench) -> None:
        seen.extend(bench.backends)
        assert [backend.warmed for backend in seen] == [1, 1]

    run(scenario)
    assert [backend.closed for backend in seen] == [1, 1]


def test_the_state_says_what_runs_and_which_slots_are_free() -> None:
    async def scenario(bench: Bench) -> None:
        states = [bench.state()]
        batch = bench.submit(0)
        states.append(bench.state())
        other = bench.state(bench.lanes[1])
        assert (other.idle, other.free_slots) == (False, 2)
        await bench.until_done(1)
        states.append(bench.state())
        bench.device.give_back(bench.lanes[0], batch)
        while len(bench.lanes[0].free) < 2:
            await asyncio.sleep(0.001)
        states.append(bench.state())
        assert [(state.idle, state.free_slots) for state in states] == [(True, 2), (False, 1), (True, 1), (True, 2)]

    run(scenario)


def test_a_slot_is_one_batchs_until_it_is_given_back() -> None:
    async def scenario(bench: Bench) -> None:
        first, second = bench.submit(0), bench.submit(1)
        assert first.slot is not second.slot
        await bench.until_done(2)
        assert second.slot is not None and rows_in(second.slot, 1) == [1]
        asked = len(bench.asked)
        bench.device.give_back(bench.lanes[0], second)
        while len(bench.asked) == asked:
            await asyncio.sleep(0.001)
        assert bench.submit(2).slot is second.slot

    run(scenario)


def test_a_batch_given_back_to_run_again_is_told_to_its_own_window() -> None:
    async def scenario(bench: Bench) -> None:
        again: list[Batch] = []
        bench.lanes[0].retry = again.append
        batch = bench.submit(0, 2)
        await bench.until_done(1)
        bench.device.give_back(bench.lanes[0], batch, retry=True)
        while not again:
            await asyncio.sleep(0.001)
        assert again == [batch] and len(bench.lanes[0].free) == 2

    run(scenario)


@pytest.mark.parametrize("error", [BackendError("out of memory"), RuntimeError("a bug")])
def test_what_a_backend_raises_is_the_batchs_and_the_next_one_runs(error: Exception) -> None:
    async def scenario(bench: Bench) -> None:
        bench.backends[0].poison, bench.backends[0].raises = {1}, error
        batches = [bench.submit(0), bench.submit(1), bench.submit(2, lane=1)]
        await bench.until_done(3)
        assert [batch.error is None for batch in batches] == [True, False, True]
        assert isinstance(batches[1].error, BackendError) and str(error) in str(batches[1].error)
        assert bench.failed == []

    run(scenario)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_fails_the_worker() -> None:
    async def scenario(bench: Bench) -> None:
        def broken(lane: Lane, batch: Batch) -> None:
            raise MemoryError

        bench.lanes[0].done = broken
        bench.submit(0)
        await asyncio.get_running_loop().run_in_executor(None, bench.failing.wait, 10)
        assert [type(error) for error in bench.failed] == [MemoryError]

    run(scenario)


def test_a_lane_that_is_added_while_others_run_is_warm_and_one_that_is_removed_is_asked_no_more() -> None:
    async def scenario(bench: Bench) -> None:
        bench.submit(0)
        backend = FakeBackend()
        loop = asyncio.get_running_loop()
        lane = await loop.run_in_executor(None, bench.device.add, model_of("c"), backend, 2, bench._done)
        assert backend.warmed == 1
        assert lane.row_ns > 0
        backend.ran.clear()
        lane.changed = bench._changed(lane)
        bench.lanes.append(lane)
        bench.submit(1, lane=2)
        await bench.until_done(2)
        assert backend.ran == [[1]]
        bench.device.remove(bench.lanes[1])
        bench.asked.clear()
        bench.submit(2)
        await bench.until_done(3)
        assert sorted(bench.asked) == ["a", "c"]
        assert bench.lanes[1].free == []

    run(scenario)


def test_lanes_take_turns_at_being_asked_first() -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(4):
            batch = bench.submit(number)
            while len(bench.asked) < 2 * (number + 1):
                await asyncio.sleep(0.001)
            bench.lanes[0].free.append(batch.slot)  # type: ignore[arg-type]  # filled by submit
        turns = ["".join(bench.asked[at : at + 2]) for at in range(0, 8, 2)]
        assert turns in (["ba", "ab"] * 2, ["ab", "ba"] * 2)

    run(scenario)


def test_of_several_models_the_batch_that_is_due_first_runs_first() -> None:
    async def scenario(bench: Bench) -> None:
        with bench.held():
            bench.submit(0)
            while bench.device.busy_s() == 0:
                await asyncio.sleep(0.001)
            for first, lane, due_ns in ((1, 0, 30), (2, 1, 20), (3, 1, 10)):
                bench.submit(first, lane=lane, due_ns=due_ns)
        await bench.until_done(4)
        assert [lane.model.name for lane, _ in bench.done] == ["a", "b", "b", "a"]
        assert bench.backends[1].ran == [[2], [3]], "those of one model in the order they came"

    run(scenario)


def test_a_version_waits_for_all_that_is_filled_of_the_one_before() -> None:
    async def scenario(bench: Bench) -> None:
        bench.device.stop = lambda timeout_s=None: None  # type: ignore[method-assign, assignment, misc]  # it never started
        bench.lanes[1].after = bench.lanes[0]
        bench.submit(0, due_ns=9)
        bench.submit(1, due_ns=1, lane=1)
        bench.submit(2, due_ns=9)
        thread = threading.Thread(target=bench.device._run)
        bench.device._loop = asyncio.get_running_loop()
        bench.device._queue.put(False)
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        assert [lane.model.name for lane, _ in bench.done] == ["a", "a", "b"]

    asyncio.run(asyncio.wait_for(scenario(Bench()), 20))


def test_who_waits_longest_is_asked_first_and_need_not_wait_for_a_full_batch() -> None:
    """Else a model whose batches are always full would keep the others' last rows for ever."""

    async def scenario(bench: Bench) -> None:
        idle: dict[str, list[bool]] = {"a": [], "b": []}

        def ask(lane: Lane) -> Callable[[], None]:
            return lambda: idle[lane.model.name].append(bench.state(lane).idle)

        for lane, due_ns in zip(bench.lanes, (20, 10), strict=True):
            lane.changed = ask(lane)
            lane.due_ns = lambda due_ns=due_ns: due_ns  # type: ignore[misc]
        bench.submit(0)
        bench.submit(1)
        await bench.until_done(2)
        assert idle == {"a": [False, True], "b": [True, True]}, "b's turn comes though a's next batch is filled"

    run(scenario)


def test_when_the_device_is_free_is_what_is_expected_of_what_runs_and_of_ones_own() -> None:
    async def scenario(bench: Bench) -> None:
        assert bench.state().free_ns == 0
        with bench.held():
            running = bench.submit(0, expected_ns=HOUR_NS)
            while bench.device._running is None:
                await asyncio.sleep(0.001)
            bench.submit(1, expected_ns=HOUR_NS)
            own, others = (bench.state(lane).free_ns - running.started_ns for lane in bench.lanes)
            assert own == 2 * HOUR_NS
            assert others == HOUR_NS
        await bench.until_done(2)
        assert bench.state().free_ns == 0

    run(scenario)


def test_alone_a_model_is_told_when_the_device_is_about_to_be_free() -> None:
    async def scenario(bench: Bench) -> None:
        lane, other = bench.lanes
        with bench.held():
            running = bench.submit(0, expected_ns=HOUR_NS)
            while bench.device._running is None:
                await asyncio.sleep(0.001)
            assert bench.state(lane).idle_ns is None, "another's batch may be due before"
            bench.device.remove(other)
            state = bench.state(lane)
            assert not state.idle and state.idle_ns is not None and 0 < state.free_ns - state.idle_ns < HOUR_NS
            running.started_ns -= HOUR_NS
            state = bench.state(lane)
            assert state.idle and state.idle_ns is None
            bench.submit(1, expected_ns=HOUR_NS)
            assert not bench.state(lane).idle, "one is ahead"
        await bench.until_done(2)

    run(scenario)


def test_a_batch_of_which_nothing_is_expected_does_not_end_in_a_moment() -> None:
    async def scenario(bench: Bench) -> None:
        bench.device.remove(bench.lanes[1])
        bench.submit(0)
        state = bench.state()
        assert not state.idle and state.idle_ns is None
        await bench.until_done(1)

    run(scenario)


def test_what_was_submitted_runs_before_the_end() -> None:
    benches: list[Bench] = []

    async def scenario(bench: Bench) -> None:
        benches.append(bench)
        bench.submit(0)
        bench.submit(1, lane=1)

    run(scenario)
    assert [backend.ran for backend in benches[0].backends] == [[[0]], [[1]]]
    assert len(benches[0].done) == 2


def test_a_device_that_never_started_stops_too() -> None:
    bench = Bench()
    bench.device.stop()
    assert [backend.closed for backend in bench.backends] == [1, 1]


def test_a_backend_that_hangs_shows_and_does_not_hold_the_stop_of_a_failed_worker() -> None:
    async def scenario(bench: Bench) -> None:
        assert bench.device.busy_s() == 0
        with bench.held():
            bench.submit(0)
            while not bench.device.busy_s():
                await asyncio.sleep(0.001)
            bench.device.stop(0.01)
        await bench.until_done(1)
        assert bench.device.busy_s() == 0

    run(scenario)
