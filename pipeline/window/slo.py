"""The planner for requests with deadlines: what waits, the device, the time and what batches cost in, a plan out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.infer.device import DeviceState
from pipeline.window.cost import Cost, Rate
from pipeline.window.ordered import Columns, IntArray, hopeless
from pipeline.window.planner import Basis, Plan, Reason, WaitingView, WorkConserving

__all__ = ["DeadlineFirst"]

DEFER_LOAD, FULL_LOAD = 0.5, 0.8  # below half load a batch is put off (Symphony), less and less up to the second
GATHER = 0.2  # of the SLO: while batches are put off, requests gather so long in the client
GATHER_MAX_NS = 20_000_000  # the poll thread also rebalances, commits and stops: it is not to sleep for long
TIMER_NS = 1_000_000  # a timer of the event loop rings up to so much later


@dataclass(frozen=True, slots=True)
class DeadlineFirst:
    """Most urgent first, as many rows as its deadline allows; without deadlines it is ``plain``.

    - *Early drop* (Nexus): what cannot make its deadline even alone and next is expired now, not after it has run.
      Where not all that waits can make it, those are expired too that would keep the next batch small: a device that
      serves the nearly late in batches of one serves hardly anyone. While nothing was answered of late to tell how long
      that takes, only what is past its deadline is expired.
    - *Size*: the largest batch that nine times in ten ends before the earliest deadline in it; where not even the first
      request fits so, before it on average. With room for what happens once in a hundred batches, a machine's stalls,
      batches would be small for good, and serve fewer than if each stall made some late.
    - *When*: a busy device is given only full batches. An idle one is given what there is at once, except where the
      model has an SLO and there is time: at less than half of what can be served it waits until one more row would make
      the most urgent late even if the machine stalls (Symphony): d - l(b + 1) - tail - stall, and a spare share of the
      SLO that grows whenever somebody was too late. With more load it waits for a smaller part of that time, from
      `FULL_LOAD` on not at all: were there one bound, noise would drive a load near it from one side to the other.

    Load is the rows that arrive, of all models on the device, over what can be served within the SLO (`Cost.capacity`).
    """

    plain: WorkConserving
    cost: Cost
    rate: Rate
    slo_ns: int | None = None

    def load(self, now_ns: int) -> float:
        """What is offered of this model, as a share of what can be served within its SLO; 0 without one."""
        if self.slo_ns is None or not self.cost.known:
            return 0.0
        return self.rate.per_ns(now_ns) / self.cost.capacity(self.slo_ns)

    def gather_ns(self, now_ns: int) -> int:
        """How long requests may gather before they are here, since batches are put off all the same; 0: not at all."""
        sure = self.cost.is_sure and self.cost.is_fresh(now_ns)
        if self.slo_ns is None or not sure or self.load(now_ns) >= FULL_LOAD:
            return 0
        return min(round(GATHER * self.slo_ns), GATHER_MAX_NS)

    def plan(self, waiting: WaitingView, device: DeviceState, now_ns: int) -> Plan:
        columns, cost = waiting.columns, self.cost
        if columns is None or not cost.known:
            return self.plain.plan(waiting, device, now_ns)
        free_ns = max(now_ns, device.free_ns)
        if cost.is_fresh(now_ns):
            least_ns, row_ns, late_ns = cost.least_ns + cost.tail_ns, cost.row_ns, free_ns
        else:
            least_ns, row_ns, late_ns = 0.0, 0.0, now_ns
        late_ns += int(least_ns)
        next_ns = waiting.next_deadline_ns
        wake_ns = None if next_ns is None else max(now_ns + 1, int(next_ns - least_ns))
        room = device.free_slots > 0 and (device.idle or waiting.rows >= self.plain.rows_max)
        some_late = next_ns is not None and next_ns - waiting.rows * row_ns <= late_ns
        if (room or some_late) and hopeless(columns, late_ns, row_ns).any():
            return Plan(expire_ns=late_ns, expire_row_ns=row_ns, reason=Reason.LATE)
        if not room:  # most arrivals end here
            return Plan(wake_at_ns=wake_ns)
        ahead = np.cumsum(columns.rows)
        fit = int(np.searchsorted(ahead, self.plain.rows_max, side="right"))  # requests that a batch has room for
        if not fit:  # the first is larger than a batch: it goes in pieces
            return self.plain.plan(waiting, device, now_ns)
        count, margin_ns = self._allowed(columns.deadline_ns[:fit], ahead[:fit], free_ns, now_ns)
        rows = int(ahead[count - 1])
        load = self.load(now_ns) + device.load
        due_ns = int(columns.due_ns[:count].min())
        basis = Basis(waiting.rows, due_ns, free_ns, round(cost.run_ns(rows)), round(margin_ns), round(load, 3))
        full = count == fit and waiting.rows >= self.plain.rows_max
        if full or not device.idle:
            leaves = Plan(run_rows=rows, reason=Reason.FULL, basis=basis)
            return leaves if full else Plan(wake_at_ns=wake_ns, basis=basis)
        return self._part(waiting, columns, rows, basis, now_ns, whole=count == fit)

    def _part(
        self, waiting: WaitingView, columns: Columns, rows: int, basis: Basis, now_ns: int, *, whole: bool
    ) -> Plan:
        """The device is idle and a batch would not be full: all that waits is in it, or deadlines keep it small."""
        if whole:
            start_ns = self._start_ns(waiting, rows, basis)
            if start_ns is None:
                return Plan(run_rows=rows, reason=Reason.IDLE, basis=basis)
            if start_ns > now_ns:
                return Plan(wake_at_ns=start_ns, reason=Reason.GATHERING, basis=basis)
        elif self.cost.is_fresh(now_ns) and (by_ns := self._sacrifice(columns, rows, basis)) is not None:
            return Plan(expire_ns=by_ns, reason=Reason.OVERLOAD, basis=basis)
        return Plan(run_rows=rows, reason=Reason.DEADLINE, basis=basis)

    def _allowed(self, deadline_ns: IntArray, ahead: IntArray, free_ns: int, now_ns: int) -> tuple[int, float]:
        """How many of the first requests may share a batch, at least one, and the margin that was kept."""
        cost = self.cost
        left_ns = (np.minimum.accumulate(deadline_ns) - free_ns).astype(float)
        for margin_ns in (cost.tail_ns + cost.slack_ns, cost.tail_ns if cost.is_fresh(now_ns) else 0.0):
            count = int(np.count_nonzero(ahead <= cost.rows_within(left_ns - margin_ns)))
            if count:
                break
        if not cost.affine:
            count = min(count, int(np.searchsorted(ahead, cost.rows_limit, side="right")))
        return max(1, count), margin_ns

    def _start_ns(self, waiting: WaitingView, rows: int, basis: Basis) -> int | None:
        """Until when the device may stay idle for more to come; None where it should not."""
        gather_ns, oldest_ns, cost = self.plain.gather_ns, waiting.oldest_ns, self.cost
        if self.slo_ns is None or basis.load >= FULL_LOAD or not cost.is_sure:
            return None
        spare_ns = cost.tail_ns + cost.stall_ns + cost.spare * self.slo_ns + TIMER_NS
        start_ns = int(basis.due_ns - cost.run_ns(rows + 1) - spare_ns)
        if oldest_ns is not None:
            share = min(1.0, (FULL_LOAD - basis.load) / (FULL_LOAD - DEFER_LOAD))
            start_ns = oldest_ns + int(share * (start_ns - oldest_ns))
        return min(start_ns, oldest_ns + gather_ns) if gather_ns and oldest_ns is not None else start_ns

    def _sacrifice(self, columns: Columns, rows: int, basis: Basis) -> int | None:
        """By which deadline requests have to go to make the next batch as large as can be; None where all can make it.

        A batch that is larger ends later: what is due before its end cannot make it in that batch, nor in a later one.
        """
        cost, start_ns = self.cost, float(basis.free_ns + basis.margin_ns)
        first = np.argsort(columns.deadline_ns, kind="stable")
        deadline_ns, each = columns.deadline_ns[first], columns.rows[first]
        if not cost.affine or self._serves_all(deadline_ns, each, start_ns):
            return None
        behind = np.cumsum(each[::-1])[::-1]
        size = int(np.minimum(cost.rows_within(deadline_ns.astype(float) - start_ns), behind).max())
        while size > rows:  # until whole requests of those that stay are just that many rows
            end_ns = int(start_ns + cost.run_ns(size))
            ahead = np.cumsum(columns.rows[columns.deadline_ns >= end_ns])
            whole = int(ahead[at - 1]) if (at := int(np.searchsorted(ahead, size, side="right"))) else 0
            if whole == size:
                return end_ns - 1 if deadline_ns[0] < end_ns else None
            size = whole
        return None

    def _serves_all(self, deadline_ns: IntArray, each: IntArray, at_ns: float) -> bool:
        """Whether batch after batch, each as large as its earliest deadline allows, nobody is late."""
        ahead, done = np.cumsum(each), 0
        while done < ahead.size:
            room = int(self.cost.rows_within(np.array([float(deadline_ns[done]) - at_ns]))[0])
            before = int(ahead[done - 1]) if done else 0
            after = int(np.searchsorted(ahead, before + room, side="right"))
            if after == done:
                return False
            at_ns += self.cost.run_ns(int(ahead[after - 1]) - before)
            done = after
        return True
