"""Our planner beside the policies of others on the same arrivals: a device of 0.04 b + 1 ms, and one of 4 b + 6 ms."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.load.arrivals import poisson
from pipeline.plan import (
    Adaptive,
    DelayedQueue,
    Device,
    Eager,
    EarlyDrop,
    Noise,
    Outcome,
    Planned,
    Policy,
    StockTake,
    simulate,
)
from pipeline.plan.peers import Moments

FAST, SLOW = (Device(1e6, 0.04e6), 15_000_000), (Device(6e6, 4e6), 100_000_000)
DEVICES = pytest.mark.parametrize(
    ("device", "slo_ns"), [pytest.param(*FAST, id="fast"), pytest.param(*SLOW, id="slow")]
)
REQUESTS = 6_000
# Shares of 1 / alpha, just below those that `python -m pipeline.plan` finds by halving with many more requests.
PEAK = {FAST[1]: 0.845, SLOW[1]: 0.765}


def arrivals(rate: float) -> Moments:
    return poisson(rate, REQUESTS / rate, 3)


def answered(outcome: Outcome) -> bool:
    return outcome.in_time + outcome.late + outcome.expired == outcome.requests


@DEVICES
def test_at_nearly_the_peak_of_the_best_early_drop_99_in_100_are_in_time(device: Device, slo_ns: int) -> None:
    outcome = Planned(device, slo_ns).run(arrivals(PEAK[slo_ns] * device.capacity), device)
    assert answered(outcome) and outcome.attained >= 0.99


@DEVICES
def test_stock_take_fails_at_a_rate_that_ours_holds_17_tenths_of(device: Device, slo_ns: int) -> None:
    rate = PEAK[slo_ns] / 1.7 * device.capacity
    assert simulate(StockTake(256, slo_ns // 4), arrivals(rate), device, slo_ns).attained < 0.99


@DEVICES
def test_at_a_third_of_the_load_the_device_rests_and_all_are_in_time(device: Device, slo_ns: int) -> None:
    came = arrivals(0.3 * device.capacity)
    ours, eager = Planned(device, slo_ns).run(came, device), simulate(Eager(256), came, device, slo_ns)
    assert ours.attained >= 0.99
    assert ours.busy <= 0.65 * eager.busy


@DEVICES
def test_at_twice_the_peak_as_many_are_in_time_as_at_the_peak(device: Device, slo_ns: int) -> None:
    peak = PEAK[slo_ns] * device.capacity
    outcome = Planned(device, slo_ns).run(arrivals(2 * peak), device)
    assert answered(outcome)
    assert outcome.goodput >= 0.95 * peak
    assert outcome.late <= 0.01 * outcome.requests, "what is late is told before it runs"


# A machine that others use too: seldom and often stalling, with a rate that its peak is just above or below.
STALLING = pytest.mark.parametrize(
    ("noise", "share"),
    [
        pytest.param(Noise.drawn(60), 0.8, id="seldom"),
        pytest.param(Noise.drawn(60, every_ms=150, spread=0.25, tail_ms=(3, 5)), 0.6, id="often"),
    ],
)


@STALLING
def test_where_the_machine_stalls_no_fewer_are_in_time_than_of_eager_batches(noise: Noise, share: float) -> None:
    """Room for every stall would keep batches small, expire who could have made it, and lose the peak for good."""
    device, slo_ns = Device(3.8e6, 0.47e6, 64, padded=True, noise=noise), SLOW[1]
    rate, in_time, eagerly = share * 64 / device.run_ns(64) * 1e9, 0, 0
    for seed in (1, 2, 3):
        came = poisson(rate, 20_000 / rate, seed)
        ours, eager = Planned(device, slo_ns).run(came, device), simulate(Eager(64), came, device, slo_ns)
        assert answered(ours) and answered(eager)
        in_time, eagerly = in_time + ours.in_time, eagerly + eager.in_time
    assert in_time >= eagerly


@STALLING
def test_where_the_machine_stalls_what_is_put_off_is_still_in_time(noise: Noise, share: float) -> None:
    device, slo_ns = Device(3.8e6, 0.47e6, 64, padded=True, noise=noise), SLOW[1]
    rate = 0.3 * 64 / device.run_ns(64) * 1e9
    came = poisson(rate, 10_000 / rate, 1)
    ours, eager = Planned(device, slo_ns).run(came, device), simulate(Eager(64), came, device, slo_ns)
    assert ours.attained >= 0.99
    assert ours.busy <= 0.65 * eager.busy


def test_padding_is_paid_for_and_planned_with() -> None:
    device, slo_ns = Device(1e6, 0.04e6, padded=True), FAST[1]
    outcome = Planned(device, slo_ns).run(arrivals(0.7 * device.capacity), device)
    assert outcome.attained >= 0.99


@pytest.mark.parametrize(
    "policy",
    [
        lambda: Eager(8),
        lambda: StockTake(8, 5_000_000),
        lambda: DelayedQueue(8, 5_000_000, (4,)),
        lambda: Adaptive(8, 50_000_000),
        lambda: EarlyDrop(Device(6e6, 4e6, rows_max=8), 100_000_000, 4),
    ],
)
def test_every_policy_answers_everyone(policy: Callable[[], Policy]) -> None:
    device = Device(6e6, 4e6, rows_max=8)
    for load in (0.1, 0.5, 2.0):
        outcome = simulate(policy(), arrivals(load * device.capacity)[:500], device, 100_000_000)
        assert answered(outcome) and 0 < outcome.busy <= 1
