"""The window: admitted requests wait here until the planner sends them to the device."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pipeline.admit import Admitted
from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.infer import Batch, Device, Lane
from pipeline.intake import Demand
from pipeline.window.asked import are_hasty, asked_of
from pipeline.window.ordered import NEVER_NS, Late
from pipeline.window.planner import Reason
from pipeline.window.remembered import Remembered
from pipeline.window.scheduler import Decision, Scheduler

__all__ = ["Window"]

log = logging.getLogger(__name__)

HASTE = 0.5  # of the SLO: while clients ask for less, none is to gather
HASTY_NS = 5_000_000_000  # for so long
SOON_S = 0.001  # the chunks of a poll arrive one by one
BEFORE_NS = 5_000_000  # so long before the device is free what gathers has to be here: then the next batch is decided
RECENT = 0.2  # the weight of the last batch, and of the last chunk, in what a request takes of the device


class Window:
    """One version's window; event loop only. `offer` waits while ``rows_max`` rows wait: that is the back-pressure.

    Sequences of each length wait by themselves, with a planner that knows what theirs cost: a batch is of one length.
    Where several wait, whoever is due first need not fill a batch once no more than one runs.
    """

    def __init__(
        self,
        lane: Lane,
        device: Device,
        schedulers: Mapping[int | None, Scheduler],
        *,
        rows_max: int,
        attempts_max: int,
        expire: Callable[[Sequence[Late]], None],
        told: Callable[[Reason], None] = lambda reason: None,
        remembered: Remembered | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._lane = lane
        self._device = device
        self._rows_max = rows_max
        self._slo_ms = lane.model.manifest.slo_ms
        self._attempts_max = attempts_max
        self._expire = expire
        self._clock = clock
        self._told = told
        self._remembered = remembered  # of the model itself, not of the rungs below
        self._schedulers = schedulers  # by the length of their sequences
        self._again: deque[Batch] = deque()  # what runs after a batch has failed
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._slots = len(lane.free)
        self._pumping = False  # soon
        self._held = False  # until the version before has sent off all that waited there
        self._successor: Window | None = None
        self._drained = asyncio.Event()
        self._ended_ns = 0  # of the batch that ran last
        self._request_rows = 1.0  # of late, as the next
        self._row_ns = lane.row_ns
        self._hasty_ns = -HASTY_NS  # when somebody last asked for an answer soon
        self._gathers = 0, 0, 0  # ns that requests may gather, at least and at most, and until when the device is busy
        lane.changed = self._pump
        lane.retry = self._retry
        lane.ran = self._ran
        lane.due_ns = self._due_ns

    async def offer(self, admitted: list[Admitted]) -> None:
        """Requests arrive; returns when there is room for more."""
        now_ns = self._clock.now_ns()
        unix_ns = now_ns - int(self._clock.unix_ms() * 1e6)
        for each in admitted:
            self._request_rows += RECENT * (each.rows / len(each) - self._request_rows)
            asked = asked_of(each, self._slo_ms, unix_ns)
            self._schedulers[each.length].add(each, asked, now_ns)
            if self._slo_ms is not None and are_hasty(each, HASTE * self._slo_ms):
                self._hasty_ns = now_ns
        if self._gathers[0]:
            self._pump_soon()
        else:
            self._pump()
        while self.rows >= self._rows_max:
            self._room.clear()
            await self._room.wait()

    async def hand_over(self, successor: Window) -> None:
        """Nothing is offered here any more; return when the last batch has been answered.

        ``successor`` takes what comes from now on, and sends none of it off before all that waits here has been: order
        per key holds. A request is whole in one window, so also one in pieces is answered by one version.
        """
        successor._held = True
        successor._lane.after = self._lane
        self._successor = successor
        self._pump()
        await self._drained.wait()
        successor._lane.after = None

    def _retry(self, batch: Batch) -> None:
        """Run a failed batch again, or what finds its culprit, before anything else.

        Depth first: of 256 requests one is alone after 8 halvings, and its zeros tell whether the model is at fault.
        """
        self._again.extendleft(reversed(batch.again(self._attempts_max)))
        self._pump()

    def _ran(self, batch: Batch) -> None:
        if batch.error is None and batch.blamed is None:
            # Of an asynchronous backend the batch before may have run on when this one was started.
            run_ns = batch.computed_ns - max(batch.started_ns, self._ended_ns)
            self._schedulers[batch.length].ran(batch.rows, run_ns, batch.rung)
            self._row_ns += RECENT * (run_ns / batch.rows - self._row_ns)
            if self._remembered is not None and batch.rung == 0:
                self._remembered.keep(batch)
        self._ended_ns = batch.computed_ns

    def _acked(self, batch: Batch, acked_ns: int) -> None:
        """Completion thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answered, batch, acked_ns)

    def _answered(self, batch: Batch, acked_ns: int) -> None:
        run_ns, tail_ns = batch.computed_ns - batch.started_ns, acked_ns - batch.computed_ns
        assert batch.deadline_ns is not None
        late = acked_ns > batch.deadline_ns
        if self._slo_ms is not None:  # by its size only where it took half of the SLO: else it began too late
            late = late and 2 * (run_ns + tail_ns) > self._slo_ms * 1e6
        self._schedulers[batch.length].acked(batch.rows, run_ns, tail_ns, acked_ns, late=late, rung=batch.rung)

    def _due_ns(self) -> int:
        if self._again or self._held:
            return 0 if self._again else NEVER_NS
        return min(scheduler.waiting.due_ns for scheduler in self._schedulers.values())

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return sum(scheduler.waiting.rows for scheduler in self._schedulers.values())

    @property
    def demand(self) -> Demand:
        """What its requests want of the device, as those of late did. Any thread."""
        manifest = self._lane.model.manifest
        slo_ns = None if self._slo_ms is None else self._slo_ms * 1e6
        return Demand(self._row_ns * self._request_rows, manifest.rows_max, manifest.priority, slo_ns)

    @property
    def gather_s(self) -> float:
        """How long requests may gather before they are offered, since none would run sooner. Any thread."""
        least_ns, most_ns, free_ns = self._gathers
        return min(max(least_ns, free_ns - BEFORE_NS - self._clock.now_ns()), most_ns) / 1e9

    def _pump_soon(self) -> None:
        """What is polled together is planned together; a little later unless an idle device is to begin at once."""
        if self._pumping:
            return
        self._pumping = True
        loop, (least_ns, most_ns, _) = asyncio.get_running_loop(), self._gathers
        if least_ns < most_ns and self._device.state(self._lane, self._clock.now_ns()).idle:
            loop.call_soon(self._pump)
        else:
            loop.call_later(SOON_S, self._pump)

    def _pump(self) -> None:
        """All that can be decided is, as of one moment: were it to go on, deadlines would pass from plan to plan."""
        self._pumping = False
        now_ns, late = self._clock.now_ns(), list[Late]()
        while not self._held:
            if self._again:
                if not self._lane.free:
                    return
                self._told(Reason.AGAIN)
                self._device.submit(self._lane, self._again.popleft())
                continue
            if not self._send_off(now_ns, late):
                break
        if late:  # only now: the device comes first
            self._expire(late)
        self._lane.load = sum(scheduler.load(now_ns) for scheduler in self._schedulers.values())
        hasty = now_ns - self._hasty_ns < HASTY_NS
        least_ns, most_ns = (0, 0) if hasty else min(each.gather_ns(now_ns) for each in self._schedulers.values())
        self._gathers = least_ns, most_ns, self._device.state(self._lane, now_ns).free_ns if most_ns else 0
        if self.rows < self._rows_max:
            self._room.set()
        if self._successor is not None and not self.rows:
            self._let_go(self._successor)

    def _send_off(self, now_ns: int, late: list[Late]) -> bool:
        """Have one scheduler decide, whose requests are due first; False where none has anything to do yet.

        ``late`` takes what is expired.
        """
        state, wakes = self._device.state(self._lane, now_ns), list[int]()
        # Those for whom nothing waits are asked last, so that they learn what their batches took when it is recorded.
        turns = sorted(self._schedulers.items(), key=lambda turn: turn[1].waiting.due_ns)
        if len(turns) > 1 and turns[1][1].waiting.rows and self._slots - state.free_slots <= 1:
            state = replace(state, idle=True)
        for length, scheduler in turns:
            decision = scheduler.next(state, now_ns, last=self._successor is not None)
            if decision.late:
                late.extend(decision.late)
                return True
            if decision.batch is not None:
                decision.batch.length = length
                self._submit(decision, decision.batch, scheduler.waiting.rows)
                return True
            if decision.plan.wake_at_ns is not None:
                wakes.append(decision.plan.wake_at_ns)
        self._wake_at(min(wakes, default=None))
        return False

    def _submit(self, decision: Decision, batch: Batch, left: int) -> None:
        if batch.deadline_ns is not None:
            self._loop = asyncio.get_running_loop()
            batch.acked = self._acked
        self._told(decision.plan.reason)
        if log.isEnabledFor(logging.DEBUG):
            plan = decision.plan
            log.debug(
                "%s: %d rows leave (%s), %d wait on; %s",
                self._lane.model.label,
                batch.rows,
                plan.reason,
                left,
                plan.basis,
            )
        self._device.submit(self._lane, batch)

    def _let_go(self, successor: Window) -> None:
        if successor._held:
            successor._held = False
            successor._pump()
        if len(self._lane.free) == self._slots:
            self._drained.set()

    def _wake_at(self, at_ns: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_ns is not None:
            delay_s = max(0, at_ns - self._clock.now_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._pump)
