"""The window obeys the planner: back-pressure, the timer, deadlines, and failed halves before all else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipeline.admit import Admitted
from pipeline.admit.admission import NO_DEADLINE_MS
from pipeline.core.errors import BackendError
from pipeline.infer import Batch
from pipeline.intake import Demand
from pipeline.window import Remembered, Scheduler, Window, WorkConserving
from tests.unit.infer.makers import admitted_of
from tests.unit.intake.messages import POLLED_MS, chunk_of, message
from tests.unit.window.windowed import Bench, answered, run


def test_an_idle_device_gets_the_first_request_at_once_and_a_full_batch_next() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1])])
        await bench.window.offer([admitted_of([1], first=1)])
        assert bench.device.ran == [[0]]
        await bench.window.offer([admitted_of([1] * 7, first=2)])
        assert bench.device.ran == [[0], list(range(1, 9))]

    run(scenario)


def test_what_waits_leaves_when_the_device_is_idle_again() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1]), admitted_of([2], first=1)])
        assert bench.device.ran == [[0, 1, 2]]
        await bench.window.offer([admitted_of([1], first=3)])
        bench.device.end()
        assert bench.device.ran == [[0, 1, 2], [3]]

    run(scenario)


def test_an_offer_returns_only_when_there_is_room_for_more() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1] * 16)])  # both slots are taken
        assert len(bench.device.ran) == 2
        await bench.window.offer([admitted_of([1] * 15, first=16)])
        offer = asyncio.ensure_future(bench.window.offer([admitted_of([1], first=31)]))
        await asyncio.sleep(0)
        assert not offer.done(), "16 rows wait"
        bench.device.end()
        await offer
        assert bench.device.ran[2] == list(range(16, 24))

    run(scenario)


def test_two_who_wait_for_room_both_get_it() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1] * 16)])
        offers = [asyncio.ensure_future(bench.window.offer([admitted_of([1] * 16)])) for _ in range(2)]
        for _ in range(6):
            await asyncio.sleep(0)
            bench.device.end()
        await asyncio.gather(*offers)
        assert sum(map(len, bench.device.ran)) == 48

    run(scenario)


def test_the_timer_wakes_what_gathers() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1])])
        assert bench.device.ran == []
        bench.clock.ms += 5
        await bench.device.submits.acquire()
        assert bench.device.ran == [[0]]

    run(scenario, gather_ms=5)


def test_a_stream_of_arrivals_does_not_put_the_gathering_off() -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(6):
            await bench.window.offer([admitted_of([1], first=number, polled_ns=bench.clock.now_ns())])
            bench.clock.ms += 1
        assert bench.device.ran == [[0, 1, 2, 3, 4, 5]]

    run(scenario, gather_ms=5)


def test_a_deadline_is_on_the_unix_clock_and_wakes() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1])])
        waits = admitted_of([1, 1], first=1, deadlines_ms=[NO_DEADLINE_MS, POLLED_MS + 3])
        await bench.window.offer([waits])
        bench.clock.ms += 2
        bench.lane.changed()
        assert bench.late == []
        bench.clock.ms += 2
        while not bench.late:
            await asyncio.sleep(0.001)
        assert bench.late == [(waits, [1])]
        bench.device.end()
        assert bench.device.ran == [[0], [1]]

    run(scenario)


@pytest.mark.parametrize("deadline_ms", [0, POLLED_MS - 3_600_000, POLLED_MS])
def test_a_deadline_that_has_passed_is_never_run(deadline_ms: int) -> None:
    async def scenario(bench: Bench) -> None:
        late = admitted_of([1], deadlines_ms=[deadline_ms])
        await bench.window.offer([late])
        assert (bench.late, bench.device.ran) == ([(late, [0])], [])

    run(scenario)


def test_the_device_gets_its_batch_before_the_late_are_told_and_nobody_turns_late_meanwhile() -> None:
    async def scenario(bench: Bench) -> None:
        told: list[tuple[list[int], list[list[int]]]] = []
        bench.window._expire = lambda late: told.extend((requests, list(bench.device.ran)) for _, requests in late)
        readings, now_ns = iter(range(1, 1_000)), bench.clock.now_ns
        bench.clock.now_ns = lambda: now_ns() + next(readings) * 1_000_000  # type: ignore[method-assign]
        await bench.window.offer([admitted_of([1] * 8, deadlines_ms=[POLLED_MS + at for at in range(1, 9)])])
        ((late, ran),) = told
        assert ran == bench.device.ran == [[number for number in range(8) if number not in late]]

    run(scenario)


@pytest.mark.parametrize("deadline_ms", [NO_DEADLINE_MS, NO_DEADLINE_MS - 1, POLLED_MS * 1_000_000])
def test_a_deadline_at_the_end_of_time_overflows_nothing(deadline_ms: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1])])
        await bench.window.offer([admitted_of([1], first=1, deadlines_ms=[deadline_ms])])
        bench.device.end()
        assert (bench.late, bench.device.ran) == ([], [[0], [1]])

    run(scenario)


def test_expiry_makes_room() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1] * 16)])
        late = admitted_of([1] * 16, deadlines_ms=[POLLED_MS + 1] * 16)
        offer = asyncio.ensure_future(bench.window.offer([late]))
        await asyncio.sleep(0)
        assert not offer.done()
        bench.clock.ms += 1
        await offer
        assert bench.late == [(late, list(range(16)))]

    run(scenario)


def test_a_culprit_is_looked_for_depth_first() -> None:
    """Each slot on a way of its own; a model that always fails shows it with the zeros at the end of the first."""

    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1] * 8, first=1)])
        for _ in range(6):
            bench.device.end(retry=True)
        assert bench.device.ran == [list(range(1, 9)), [1, 2, 3, 4], [5, 6, 7, 8], [1, 2], [5, 6], [1], [5], [0]]

    run(scenario)


def test_halves_of_a_failed_batch_run_before_what_waits() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([admitted_of([1] * 4)])
        await bench.window.offer([admitted_of([1] * 15, first=10)])
        assert bench.device.ran == [[0, 1, 2, 3], list(range(10, 18))]
        bench.device.end(retry=True)
        assert bench.device.ran[2:] == [[0, 1]]
        bench.device.end()
        assert bench.device.ran[3:] == [[2, 3]]
        bench.device.end()
        bench.device.end()
        assert bench.device.ran[4:] == [list(range(18, 25))]

    run(scenario)


def test_a_batch_is_of_one_length_and_whoever_is_due_first_need_not_fill_one_while_others_wait() -> None:
    async def scenario(bench: Bench) -> None:
        parts = [(2, 0, 3), (4, 10, 2), (2, 20, 2), (6, 30, 1), (4, 40, 1)]
        await bench.window.offer(
            [replace(admitted_of([1] * rows, first=first), length=length) for length, first, rows in parts]
        )
        assert bench.device.ran == [[0, 1, 2, 20, 21], [10, 11, 40]]
        assert [batch.length for batch in bench.device.running] == [2, 4]
        assert bench.window.rows == 1
        bench.device.end()
        assert len(bench.device.ran) == 2, "alone it gathers until the device is idle"
        bench.device.end()
        assert bench.device.ran[2:] == [[30]]

    run(scenario)


def test_the_halves_of_a_failed_batch_are_of_its_length() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.window.offer([replace(admitted_of([1, 1]), length=4)])
        bench.device.end(retry=True)
        assert [batch.length for batch in bench.device.running] == [4, 4]

    run(scenario)


@pytest.mark.parametrize(
    ("rung", "change", "kept"),
    [
        (0, {}, True),
        (1, {}, False),
        (0, {"error": BackendError("failed")}, False),
        (0, {"blamed": BackendError("zeros")}, False),
    ],
)
def test_only_what_the_model_itself_has_answered_is_remembered(rung: int, change: dict[str, Any], kept: bool) -> None:
    async def scenario(bench: Bench) -> None:
        remembered = bench.window._remembered = Remembered(8)
        bench.window._schedulers = {None: Scheduler(WorkConserving(8), 8)}
        admitted = admitted_of([1])
        await bench.window.offer([admitted])
        (batch,) = bench.device.running
        batch.rung = rung
        for name, value in change.items():
            setattr(batch, name, value)
        bench.lane.ran(batch)
        assert (remembered.recall(admitted, 0) is not None) == kept

    run(scenario)


def test_a_batch_that_began_too_late_does_not_make_the_next_ones_smaller() -> None:
    bench = Bench.promised()
    cost = bench.window._schedulers[None]._rungs[0].cost
    for _ in range(7):
        answered(bench, run_ms=10, late_ms=30)
    assert cost.rows_limit == 8
    answered(bench, run_ms=60, late_ms=30)
    assert cost.rows_limit == 7, "it took more than half of the SLO"


def test_what_a_request_wants_of_the_device_is_what_those_of_late_took() -> None:
    async def scenario() -> None:
        bench = Bench.promised()
        bench.lane.row_ns = 1e6
        window = Window(bench.lane, bench.device, bench.window._schedulers, rows_max=160, attempts_max=1, expire=print)
        assert window.demand == Demand(1e6, 8, 5, 100e6), "what it took when it was warmed, a row each"
        for first in range(40):
            await window.offer([admitted_of([4], first=first)])
            ran = Batch([], [], 8, 0, computed_ns=window._ended_ns + 16_000_000, started_ns=window._ended_ns)
            bench.lane.ran(ran)
        assert window.demand.request_ns == pytest.approx(8e6, rel=1e-3), "four rows of 2 ms"

    asyncio.run(scenario())


def test_a_producer_that_stamps_in_seconds_stops_nobody_elses_requests() -> None:
    def stamped(first: int, stamps_ms: Sequence[int]) -> Admitted:
        messages = [message(at, key=b"%d" % (at % 14), timestamp_ms=ms) for at, ms in enumerate(stamps_ms)]
        return replace(admitted_of([1] * len(messages), first=first), chunk=chunk_of(messages))

    async def scenario() -> None:
        bench = Bench.promised()
        bench.window._rows_max = 64
        await bench.window.offer([stamped(0, [POLLED_MS] * 16)])  # both slots are taken
        await bench.window.offer([stamped(16, [POLLED_MS // 1000, *[POLLED_MS] * 13, *[POLLED_MS - 1] * 14])])
        assert [requests for _, requests in bench.late] == [[0]]
        await bench.window.offer([stamped(44, [POLLED_MS - 2])])
        while bench.device.running:
            bench.device.end()
        assert sorted(row for batch in bench.device.ran for row in batch) == [*range(16), *range(17, 45)]

    asyncio.run(scenario())
