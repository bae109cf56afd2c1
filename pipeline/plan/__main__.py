"""`python -m pipeline.plan`: our planner beside others on the same Poisson arrivals, on virtual devices."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.load.arrivals import poisson
from pipeline.plan.noise import Noise
from pipeline.plan.peers import Adaptive, DelayedQueue, Device, Eager, Moments, StockTake
from pipeline.plan.simulate import REQUESTS, Outcome, Planned, best_early_drop, peak_rate, simulate

STALLS_S = 60.0  # after that the machine stalls no more; no run takes longer
DEVICES = {
    "0.04 b + 1 ms, SLO 15 ms": (Device(1e6, 0.04e6), 15),
    "4 b + 6 ms, SLO 100 ms": (Device(6e6, 4e6), 100),
    "the same, stalling": (Device(6e6, 4e6, noise=Noise.drawn(STALLS_S)), 100),
    "0.47 b + 3.8 ms, padded, SLO 100 ms": (Device(3.8e6, 0.47e6, 64, padded=True), 100),
    "padded, stalling": (Device(3.8e6, 0.47e6, 64, padded=True, noise=Noise.drawn(STALLS_S)), 100),
    "padded, stalling often": (
        Device(3.8e6, 0.47e6, 64, padded=True, noise=Noise.drawn(STALLS_S, every_ms=150, spread=0.25, tail_ms=(3, 5))),
        100,
    ),
}

Run = Callable[[Moments], Outcome]


def policies(device: Device, slo_ns: int) -> dict[str, Run]:
    """By name, what becomes of arrivals under each; the last is the ceiling."""

    def run(make: Callable[[], object]) -> Run:
        return lambda came: simulate(make(), came, device, slo_ns)  # type: ignore[arg-type]

    rows_max = device.rows_max

    return {
        "Sluice": lambda came: Planned(device, slo_ns).run(came, device),
        "Sluice, cold": lambda came: Planned(device, slo_ns, warm=False).run(came, device),
        "Faust take(within=SLO/4)": run(lambda: StockTake(rows_max, slo_ns // 4)),
        "Triton, delay SLO/4": run(lambda: DelayedQueue(rows_max, slo_ns // 4)),
        "Triton, preferred 8 16 32": run(lambda: DelayedQueue(rows_max, slo_ns // 4, (8, 16, 32))),
        "BentoML adaptive": run(lambda: Adaptive(rows_max, slo_ns)),
        "eager": run(lambda: Eager(rows_max)),
        "best early drop": lambda came: best_early_drop(came, device, slo_ns),
    }


def main() -> None:
    """Print the table."""
    for name, (device, slo_ms) in DEVICES.items():
        slo_ns = slo_ms * 1_000_000

        def came(rate: float) -> Moments:
            return poisson(rate, REQUESTS / rate, 1)

        print(f"{name:36}{'peak/capacity':>14}{'busy at 30%':>14}{'in time':>10}{'goodput at 2x / peak':>22}")
        for policy, run in policies(device, slo_ns).items():
            peak = peak_rate(lambda rate, run=run: run(came(rate)), device.capacity, steps=8)  # type: ignore[misc]
            low, high = run(came(0.3 * device.capacity)), run(came(2 * peak))
            figures = f"{peak / device.capacity:14.3f}{low.busy:14.3f}{low.attained:10.2%}{high.goodput / peak:22.2f}"
            print(f"{policy:36}{figures}", flush=True)


if __name__ == "__main__":
    main()
