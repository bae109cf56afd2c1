"""A device in virtual time under our planner or another policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.infer.batch import Batch
from pipeline.infer.device import DeviceState
from pipeline.load.arrivals import poisson
from pipeline.plan.peers import Device, EarlyDrop, Moments, Policy
from pipeline.window import Cost, Parts, Scheduler
from pipeline.window.ordered import Asked
from pipeline.window.record import request_of

__all__ = ["Outcome", "Planned", "best_early_drop", "ceiling_rate", "peak_rate", "simulate"]

REQUESTS = 10_000  # of a rate that is tried


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all requests of a run."""

    requests: int
    in_time: int
    late: int  # answered after their deadline
    expired: int
    batches: int
    busy_ns: int
    elapsed_ns: int

    @property
    def attained(self) -> float:
        """Share of requests answered in time."""
        return self.in_time / self.requests

    @property
    def busy(self) -> float:
        """Share of the time that the device ran."""
        return self.busy_ns / self.elapsed_ns

    @property
    def goodput(self) -> float:
        """Answers in time per second."""
        return self.in_time / self.elapsed_ns * 1e9


class _Tally:
    """Counts while a run goes on."""

    def __init__(self, device: Device, slo_ns: int) -> None:
        self._device = device
        self._slo_ns = slo_ns
        self.in_time = self.late = self.expired = self.batches = self.busy_ns = 0

    def ran(self, arrived_ns: Moments, started_ns: int) -> tuple[int, int]:
        """These run from now on; return when they end, and when they are answered."""
        end_ns = self._device.ends_ns(len(arrived_ns), started_ns)
        answered_ns = self._device.answered_ns(end_ns)
        in_time = int(np.count_nonzero(arrived_ns + self._slo_ns >= answered_ns))
        self.in_time += in_time
        self.late += len(arrived_ns) - in_time
        self.batches += 1
        self.busy_ns += end_ns - started_ns
        return end_ns, answered_ns

    def outcome(self, requests: int, elapsed_ns: int) -> Outcome:
        """Of all."""
        return Outcome(requests, self.in_time, self.late, self.expired, self.batches, self.busy_ns, elapsed_ns)


class Planned:
    """Our own planner on the virtual device; it learns what batches cost while it runs."""

    def __init__(self, device: Device, slo_ns: int, *, warm: bool = True, gather_ns: int = 0) -> None:
        samples = [(size, device.run_ns(size)) for size in device.buckets] if warm else []
        parts = Parts("simulated", device.rows_max, device.buckets, gather_ns, slo_ns, samples)
        self.scheduler = Scheduler(parts.planner(), device.rows_max)
        self._slo_ns = slo_ns
        self._number = 0
        self.reasons: dict[str, int] = {}

    def run(self, arrived_ns: Moments, device: Device) -> Outcome:
        """All of these arrive; until the last has been answered."""
        tally, came, now_ns, origins = _Tally(device, self._slo_ns), 0, 0, {}
        acks: deque[tuple[int, Callable[[], None]]] = deque()  # on their way, and what is told of them
        while came < len(arrived_ns) or self.scheduler.waiting.rows:
            if not self.scheduler.waiting.rows:
                now_ns = max(now_ns, int(arrived_ns[came]))
            now_ns = device.awake_ns(now_ns)
            while acks and acks[0][0] <= now_ns:
                acks.popleft()[1]()
            here = int(np.searchsorted(arrived_ns, now_ns, side="right"))
            if here > came:
                origins[self._arrive(arrived_ns[came:here], now_ns)] = came
                came = here
            decision = self.scheduler.next(DeviceState(idle=True, free_slots=1), now_ns)
            tally.expired += sum(len(requests) for _, requests in decision.late)
            if decision.batch is not None:
                reason = str(decision.plan.reason)
                self.reasons[reason] = self.reasons.get(reason, 0) + 1
                runs = decision.batch.runs
                of = [arrived_ns[origins[run.admitted.decoded_ns] + run.lo :][: run.hi - run.lo] for run in runs]
                end_ns, answered_ns = tally.ran(np.concatenate(of), now_ns)
                self.scheduler.ran(decision.batch.rows, end_ns - now_ns)
                acks.append((answered_ns, self._acked(decision.batch, now_ns, end_ns, answered_ns)))
                now_ns = end_ns
            elif not decision.late:
                wake_ns = decision.plan.wake_at_ns
                assert wake_ns is not None and wake_ns > now_ns, "nothing would ever wake it"
                now_ns = min(wake_ns, int(arrived_ns[came])) if came < len(arrived_ns) else wake_ns
        return tally.outcome(len(arrived_ns), now_ns)

    def _acked(self, batch: Batch, started_ns: int, end_ns: int, answered_ns: int) -> Callable[[], None]:
        """What tells the scheduler that a batch is answered."""
        assert batch.deadline_ns is not None
        late = answered_ns > batch.deadline_ns
        told = batch.rows, end_ns - started_ns, answered_ns - end_ns, answered_ns
        return lambda: self.scheduler.acked(*told, late=late)

    def _arrive(self, arrived_ns: Moments, now_ns: int) -> int:
        """Return what tells these from others."""
        count = len(arrived_ns)
        self._number += 1
        due_ns = arrived_ns + self._slo_ns
        admitted = request_of([1] * count, self._number)
        self.scheduler.add(admitted, Asked(due_ns, due_ns, due_ns, np.zeros(count, np.int64)), now_ns)
        return self._number


def simulate(policy: Policy, arrived_ns: Moments, device: Device, slo_ns: int) -> Outcome:
    """A policy on the same arrivals: one-row requests, one device, no limit on what waits."""
    tally, first, now_ns = _Tally(device, slo_ns), 0, 0
    while first < len(arrived_ns):
        now_ns = device.awake_ns(max(now_ns, int(arrived_ns[first])))
        came = int(np.searchsorted(arrived_ns, now_ns, side="right"))
        turn = policy.turn(arrived_ns[first:came], now_ns)
        tally.expired += turn.drop
        first += turn.drop
        if turn.run:
            batch, started_ns = arrived_ns[first : first + turn.run], now_ns
            now_ns, _ = tally.ran(batch, started_ns)
            policy.ran(batch, started_ns, now_ns)
            first += turn.run
        elif turn.wake_at_ns is not None:
            soon = turn.arrivals and came < len(arrived_ns)
            now_ns = min(turn.wake_at_ns, int(arrived_ns[came])) if soon else turn.wake_at_ns
    return tally.outcome(len(arrived_ns), now_ns)


def best_early_drop(arrived_ns: Moments, device: Device, slo_ns: int) -> Outcome:
    """What early drop makes of it with the best of five windows, which nobody could know before: the ceiling."""
    half = int((slo_ns / 2 - device.tau0_ns) / device.alpha_ns)
    windows = [min(max(1, round(half * share)), device.rows_max) for share in (0.5, 0.75, 1, 1.2, 1.4)]
    runs = [simulate(EarlyDrop(device, slo_ns, window), arrived_ns, device, slo_ns) for window in windows]
    return max(runs, key=lambda outcome: outcome.in_time)


def ceiling_rate(cost: Cost, rows_max: int, slo_ms: float) -> float:
    """The highest Poisson rate that `best_early_drop` serves in time where batches cost so much, and no more."""
    line, slo_ns = cost.to_dict(), round(slo_ms * 1e6)
    device = Device(line["tau0_ns"], max(line["alpha_ns"], 1), rows_max, padded=True)

    def run(rate: float) -> Outcome:
        return best_early_drop(poisson(rate, REQUESTS / rate, 1), device, slo_ns)

    return peak_rate(run, device.capacity)


def peak_rate(run: Callable[[float], Outcome], most: float, *, attained: float = 0.99, steps: int = 8) -> float:
    """The highest rate, by halving ``0..most``, at which that share of requests is answered in time."""
    low, high = 0.0, most
    for _ in range(steps):
        rate = (low + high) / 2
        if run(rate).attained >= attained:
            low = rate
        else:
            high = rate
    return low
