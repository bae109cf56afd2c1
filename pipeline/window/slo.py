"""The planner for requests with deadlines: what waits, the device, the time and what batches cost in, a plan out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.infer.device import DeviceState
from pipeline.window.cost import Cost, Rate
from pipeline.window.ordered import Columns, IntArray, hopeless
from pipeline.window.planner import Basis, Plan, Reason, WaitingView, WorkConserving

__all__ = ["DeadlineFirst"]

DEFER_LOAD, FULL_LOAD = 0.5, 0.65  # below half load a batch is put off (Symphony), less and less up to the second
OVERLOAD = 1.25  # from here on noise is left room: the load is an estimate, and near 1 nobody need go for it
GATHER = 0.2  # of the SLO: while batches are put off, requests gather so long in the client
GATHER_LEAST = 0.05  # with more load, and longer only while the device is busy
GATHER_MAX_NS = 20_000_000  # the poll thread also rebalances, commits and stops: it is not to sleep for long
TIMER_NS = 1_000_000  # a timer of the event loop rings up to so much later


@dataclass(frozen=True, slots=True)
class DeadlineFirst:
    """Most urgent first, as many rows as its deadline allows; without deadlines it is ``plain``.

    - *Early drop* (Nexus): what cannot make its deadline even alone and next is expired now, not after it has run.
      Where not all that waits can make it, those are expired too that would keep the next batch small: a device that
      serves the nearly late in batches of one serves hardly anyone. With far more load than can be served those go
      also whom noise would make late, as long as others fill the batch. While nothing was answered of late to tell
      how long that takes, only what is past its deadline is expired.
    - *Size*: the largest batch that nine times in ten ends before the earliest deadline in it; where not all that waits
      would be in time so, before it on average. With room for what happens once in a hundred batches, a machine's
      stalls, batches would be small for good, and serve fewer than if each stall made some late.
    - *When*: a busy device is given only full batches. An idle one, or one that is about to be, is given what there is
      at once, except where the model has an SLO and there is time: at less than half of what can be served it waits
      until one more row would make the most urgent late even if the machine stalls (Symphony): d - l(b + 1) - tail -
      stall, and a spare share of the SLO that grows whenever somebody was too late. With more load it waits for a
      smaller part of that time, from `FULL_LOAD` on not at all: were there one bound, noise would drive a load near it
      from one side to the other.

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

    def gather_ns(self, now_ns: int) -> tuple[int, int]:
        """How long requests may gather before they are here, and how long while the device is busy; 0: not at all.

        As long while batches are put off all the same. With more load there is a batch ahead of them as a rule.
        """
        sure = self.cost.is_sure and self.cost.is_fresh(now_ns)
        if self.slo_ns is None or not sure:
            return 0, 0
        put_off = self.load(now_ns) < FULL_LOAD
        longest_ns = min(round(GATHER * self.slo_ns), GATHER_MAX_NS)
        return longest_ns if put_off else min(round(GATHER_LEAST * self.slo_ns), longest_ns), longest_ns

    def plan(self, waiting: WaitingView, device: DeviceState, now_ns: int) -> Plan:
        cost, next_ns = self.cost, waiting.next_deadline_ns
        if next_ns is None or not cost.known:
            return self.plain.plan(waiting, device, now_ns)
        late_ns, least_ns, row_ns = now_ns, 0.0, 0.0
        if cost.is_fresh(now_ns):
            least_ns, row_ns = cost.least_ns + cost.tail_ns, cost.row_ns
            late_ns = max(now_ns, device.free_ns) + int(least_ns)
        wake_ns = max(now_ns + 1, int(next_ns - least_ns))
        if device.idle_ns is not None and device.free_slots:
            wake_ns = min(wake_ns, device.idle_ns)
        room = device.free_slots > 0 and (device.idle or waiting.rows >= self.plain.rows_max)
        if not room and next_ns - waiting.request_rows_max * row_ns > late_ns:
            return Plan(wake_at_ns=wake_ns)  # most arrivals end here, before what waits is sorted
        columns = waiting.columns
        if columns is None:
            return self.plain.plan(waiting, device, now_ns)
        if hopeless(columns, late_ns, row_ns).any():
            return Plan(expire_ns=late_ns, expire_row_ns=row_ns, reason=Reason.LATE)
        return self._next(waiting, columns, device, now_ns, wake_ns) if room else Plan(wake_at_ns=wake_ns)

    def _next(self, waiting: WaitingView, columns: Columns, device: DeviceState, now_ns: int, wake_ns: int) -> Plan:
        """The next batch, who has to go for it, or until when to wait for more: on a busy device until ``wake_ns``."""
        ahead = np.cumsum(columns.rows)
        fit = int(np.searchsorted(ahead, self.plain.rows_max, side="right"))  # requests that a batch has room for
        if not fit:  # the first is larger than a batch: it goes in pieces
            return self.plain.plan(waiting, device, now_ns)
        count, margin_ns, in_time = self._allowed(columns, ahead[:fit], device, now_ns)
        rows, free_ns = int(ahead[count - 1]), max(now_ns, device.free_ns)
        load = self.load(now_ns) + device.load
        due_ns = int(columns.due_ns[:count].min())
        basis = Basis(waiting.rows, due_ns, free_ns, round(self.cost.run_ns(rows)), round(margin_ns), round(load, 3))
        full = count == fit and waiting.rows >= self.plain.rows_max
        if not full and not device.idle:
            return Plan(wake_at_ns=wake_ns, basis=basis)
        some_late = not in_time if count < fit else waiting.rows > rows and load >= OVERLOAD
        if some_late and self.cost.is_fresh(now_ns) and (by_ns := self._sacrifice(columns, rows, basis)) is not None:
            return Plan(expire_ns=by_ns, reason=Reason.OVERLOAD, basis=basis)
        if full or count < fit:
            tried = count < fit and not self.cost.affine and ahead[count] > self.cost.rows_limit
            return Plan(run_rows=rows, reason=Reason.FULL if full or tried else Reason.DEADLINE, basis=basis)
        start_ns, latest_ns = self._start_ns(waiting, rows, basis)  # all that waits is in it
        if start_ns is not None and start_ns > now_ns:
            return Plan(wake_at_ns=start_ns, reason=Reason.GATHERING, basis=basis)
        why = Reason.IDLE if start_ns is None else Reason.DEADLINE if latest_ns <= now_ns else Reason.GATHERED
        return Plan(run_rows=rows, reason=why, basis=basis)

    def _allowed(self, columns: Columns, ahead: IntArray, device: DeviceState, now_ns: int) -> tuple[int, float, bool]:
        """How many of the first requests may share a batch, at least one; the margin kept; whether all make it then.

        Without room for noise only where all that waits would not be in time with it: then noise costs less.
        """
        cost, free_ns = self.cost, max(now_ns, device.free_ns)
        left_ns = (np.minimum.accumulate(columns.deadline_ns[: ahead.size]) - free_ns).astype(float)
        for margin_ns in (cost.tail_ns + cost.slack_ns, cost.tail_ns if cost.is_fresh(now_ns) else 0.0):
            count = int(np.count_nonzero(ahead <= cost.rows_within(left_ns - margin_ns)))
            in_time = count == ahead.size or (device.idle and self._serves_all(columns, free_ns + margin_ns))
            if in_time:
                break
        if not cost.affine:
            count = min(count, int(np.searchsorted(ahead, cost.rows_limit, side="right")))
        return max(1, count), margin_ns, in_time

    def _start_ns(self, waiting: WaitingView, rows: int, basis: Basis) -> tuple[int | None, int]:
        """Until when the device may stay idle for more to come, None where it should not; and until when it could."""
        gather_ns, oldest_ns, cost = self.plain.gather_ns, waiting.oldest_ns, self.cost
        if self.slo_ns is None or basis.load >= FULL_LOAD or not cost.is_sure:
            return None, 0
        spare_ns = cost.tail_ns + cost.stall_ns + cost.spare * self.slo_ns + TIMER_NS
        start_ns = latest_ns = int(basis.due_ns - cost.run_ns(rows + 1) - spare_ns)
        if oldest_ns is not None:
            share = min(1.0, (FULL_LOAD - basis.load) / (FULL_LOAD - DEFER_LOAD))
            start_ns = oldest_ns + int(share * (latest_ns - oldest_ns))
            start_ns = min(start_ns, oldest_ns + gather_ns) if gather_ns else start_ns
        return start_ns, latest_ns

    def _sacrifice(self, columns: Columns, rows: int, basis: Basis) -> int | None:
        """By which deadline requests have to go to make the next batch as large as can be; None where it is.

        A batch that is larger ends later: what is due before its end cannot make it in that batch, nor in a later one.
        From `OVERLOAD` on those stay who are due last, if they fill the batch as well: who waits for the batch after it
        would be late, so one goes for another, and a stall makes nobody late.
        """
        cost, at_ns = self.cost, float(basis.free_ns + basis.margin_ns)
        deadline_ns, each = _by_deadline(columns)
        behind = np.cumsum(each[::-1])[::-1]  # rows that are due then or later
        size = self._largest(deadline_ns, behind, at_ns)
        if basis.load >= OVERLOAD:
            run_ns = cost.run_ns(size)
            at_ns += min(run_ns, max(0.0, float(deadline_ns[behind >= size][-1]) - at_ns - run_ns))
        elif size == rows:
            return None
        while size >= rows:  # until whole requests of those that stay are just that many rows
            end_ns = int(at_ns + cost.run_ns(size))
            ahead = np.cumsum(columns.rows[columns.deadline_ns >= end_ns])
            whole = int(ahead[at - 1]) if (at := int(np.searchsorted(ahead, size, side="right"))) else 0
            if whole == size:
                pays = size == rows or size * cost.run_ns(rows) > rows * cost.run_ns(size)
                return end_ns - 1 if pays and deadline_ns[0] < end_ns else None
            size = whole
        return None

    def _largest(self, deadline_ns: IntArray, behind: IntArray, at_ns: float) -> int:
        """The most rows in one batch from ``at_ns`` on that are all in time, if others go for it.

        Of each deadline, the earliest first, how many rows are due then or later.
        """
        size = int(np.minimum(self.cost.rows_within(deadline_ns.astype(float) - at_ns), behind).max())
        return size if self.cost.affine else min(size, self.cost.rows_limit)

    def _serves_all(self, columns: Columns, at_ns: float) -> bool:
        """Whether batch after batch, each as large as its earliest deadline allows, nobody is late."""
        deadline_ns, each = _by_deadline(columns)
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


def _by_deadline(columns: Columns) -> tuple[IntArray, IntArray]:
    """Deadlines and rows, the earliest first."""
    first = np.argsort(columns.deadline_ns, kind="stable")
    return columns.deadline_ns[first], columns.rows[first]
