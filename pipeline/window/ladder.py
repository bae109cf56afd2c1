"""Which rung of a model's ladder answers the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.infer.device import DeviceState
from pipeline.window.cost import Cost
from pipeline.window.ordered import Columns, hopeless
from pipeline.window.planner import Plan, Reason, WaitingView
from pipeline.window.slo import DeadlineFirst

__all__ = ["Ladder", "Outlook", "choose"]

CLIMB_LOAD = 0.8  # a rung that was too slow for what arrives is taken again below this load: it needs room to stay
TRY_NS = 1_000_000_000  # else what a rung costs, learnt while the machine was slow, would keep it away for ever


@dataclass(frozen=True, slots=True)
class Outlook:
    """What becomes of requests on a rung."""

    load: float  # what arrives, as a share of what it can serve
    in_time: bool  # whether all that waits now is answered before its deadline
    untried: bool = False  # nothing has run there of late


def choose(base: int, outlooks: Sequence[Outlook]) -> tuple[int, int]:
    """The rung that carries the load from now on, where it was ``base``, and that of the next batch; 0 is the model.

    The load's is the highest that can serve what arrives; to climb, with room to spare. The batch's is the highest
    from there on, or one that has to be tried, on which nobody is late; the lowest where there is none. So less slack
    and more load never lead to a higher one.
    """
    lowest = len(outlooks) - 1
    base = next((rung for rung in range(base) if outlooks[rung].load <= CLIMB_LOAD), base)
    base = next((rung for rung in range(base, lowest) if outlooks[rung].load <= 1.0), lowest)
    fit = (rung for rung, each in enumerate(outlooks) if each.in_time and (rung >= base or each.untried))
    return base, next(fit, lowest)


class Ladder:
    """A `Planner` that chooses a rung for each batch, and has that one's planner say when it leaves.

    ``rungs`` are planners of the models, the full one first, that share one rate. Whom a rung would have to expire the
    next one serves; whom the lowest would, one of so many ``answers``, what is remembered or a constant, while its turn
    on the device is in time. Requests of a key that came earlier go with them, so that a key's answers stay in order.

    Hysteresis is its only state: a batch that had to go to a lower rung makes that one carry the load. Pieces of one
    request are all served by one rung.
    """

    def __init__(self, rungs: Sequence[DeadlineFirst], *, answers: int) -> None:
        self.rungs = rungs
        self.answers = answers
        self._base = self._last = 0
        self._ran_ns = [0] * len(rungs)

    @property
    def current(self) -> DeadlineFirst:
        """Of the rung that carries the load."""
        return self.rungs[self._base]

    def plan(self, waiting: WaitingView, device: DeviceState, now_ns: int) -> Plan:
        columns, rung = waiting.columns, self._last
        if columns is not None:
            self._base, rung = choose(self._base, self._outlooks(columns, device, now_ns))
        plan = self.rungs[rung].plan(waiting, device, now_ns)
        while plan.expire_ns is not None and rung + 1 < len(self.rungs):
            rung += 1
            plan = self.rungs[rung].plan(waiting, device, now_ns)
        if plan.expire_ns is not None and columns is not None and self.answers:
            return self._answer(plan, plan.expire_ns, columns, device, now_ns)
        return replace(plan, rung=rung)

    def left(self, rung: int, now_ns: int) -> None:
        """A batch has left for a rung."""
        if rung < len(self.rungs):
            self._base, self._last = max(self._base, rung), rung
            self._ran_ns[rung] = now_ns

    def _outlooks(self, columns: Columns, device: DeviceState, now_ns: int) -> list[Outlook]:
        begin_ns = max(now_ns, device.free_ns)
        return [
            Outlook(
                load=planner.rate.per_ns(now_ns) / _throughput(planner) + device.load,
                in_time=_in_time(columns, planner.cost, planner.plain.rows_max, begin_ns),
                untried=now_ns - ran_ns >= TRY_NS,
            )
            for planner, ran_ns in zip(self.rungs, self._ran_ns, strict=True)
        ]

    def _answer(self, plan: Plan, expire_ns: int, columns: Columns, device: DeviceState, now_ns: int) -> Plan:
        """Who would be expired is answered without the models, in turn on the device, but in no time there."""
        tail_ns = int(self.rungs[-1].cost.tail_ns)
        lost_ns = min(expire_ns, max(now_ns, device.free_ns) + tail_ns)
        if hopeless(columns, lost_ns, 0.0).any():
            return Plan(expire_ns=lost_ns, reason=Reason.LATE, basis=plan.basis)
        if not device.free_slots:
            return Plan(wake_at_ns=max(now_ns + 1, int(columns.deadline_ns.min()) - tail_ns), basis=plan.basis)
        return replace(plan, run_rows=self.rungs[-1].plain.rows_max, rung=len(self.rungs))


def _throughput(planner: DeadlineFirst) -> float:
    """Rows per ns of the largest batches that make the SLO on average; next to nothing where none does."""
    assert planner.slo_ns is not None
    cost = planner.cost
    rows = int(cost.rows_within(np.array([planner.slo_ns - cost.tail_ns]))[0])
    return max(rows / max(cost.run_ns(rows), 1.0), 1e-12)


def _in_time(columns: Columns, cost: Cost, rows_max: int, begin_ns: int) -> bool:
    """Whether all that waits makes its deadline, on average, in full batches one after the other."""
    ahead = np.cumsum(columns.rows)
    before = (ahead - 1) // rows_max  # full batches that end before the one its last row is in
    last = before == before[-1]
    end_ns = begin_ns + cost.tail_ns + (before + 1) * cost.run_ns(rows_max)
    end_ns[last] += cost.run_ns(int(ahead[-1] - before[-1] * rows_max)) - cost.run_ns(rows_max)
    return bool((end_ns <= columns.deadline_ns).all())
