"""The window: admitted requests wait here until the planner sends them to the device."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pipeline.admit import Admitted
from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.infer import Batch, Device, Lane
from pipeline.window.planner import Plan, Planner
from pipeline.window.waiting import IntArray, Late, Waiting

__all__ = ["Window"]


class Window:
    """One version's window; event loop only. `offer` waits while ``rows_max`` rows wait: that is the back-pressure."""

    def __init__(
        self,
        lane: Lane,
        device: Device,
        planner: Planner,
        *,
        rows_max: int,
        attempts_max: int,
        expire: Callable[[list[Late]], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._lane = lane
        self._device = device
        self._planner = planner
        self._rows_max = rows_max
        self._attempts_max = attempts_max
        self._expire = expire
        self._clock = clock
        self._waiting = Waiting()
        self._again: deque[Batch] = deque()  # what runs after a batch has failed
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._slots = len(lane.free)
        self._held = False  # until the version before has sent off all that waited there
        self._successor: Window | None = None
        self._drained = asyncio.Event()
        lane.changed = self._pump
        lane.retry = self._retry

    async def offer(self, admitted: list[Admitted]) -> None:
        """Requests arrive; returns when there is room for more."""
        for each in admitted:
            self._waiting.add(each, self._deadlines_ns(each))
        self._pump()
        while self._waiting.rows >= self._rows_max:
            self._room.clear()
            await self._room.wait()

    async def hand_over(self, successor: Window) -> None:
        """Nothing is offered here any more; return when the last batch has been answered.

        ``successor`` takes what comes from now on, and sends none of it off before all that waits here has been: order
        per key holds. A request is whole in one window, so also one in pieces is answered by one version.
        """
        successor._held = True
        self._successor = successor
        self._pump()
        await self._drained.wait()

    def _retry(self, batch: Batch) -> None:
        """Run a failed batch again, or what finds its culprit, before anything else.

        Depth first: of 256 requests one is alone after 8 halvings, and its zeros tell whether the model is at fault.
        """
        self._again.extendleft(reversed(batch.again(self._attempts_max)))
        self._pump()

    def _deadlines_ns(self, admitted: Admitted) -> IntArray | None:
        if admitted.deadlines_ms is None:
            return None
        shift_ms = int(self._clock.now_ns() / 1e6 - self._clock.unix_ms())  # from Unix to monotonic
        far_ms = (2**63 - 1) // 1_000_000 - abs(shift_ms)  # in ns it still fits 64 bits
        return (admitted.deadlines_ms.clip(max=far_ms) + shift_ms) * 1_000_000

    def _pump(self) -> None:
        while not self._held:
            if self._again:
                if not self._lane.free:
                    return
                self._device.submit(self._lane, self._again.popleft())
                continue
            now_ns = self._clock.now_ns()
            plan = self._plan(now_ns)
            if plan.expire:
                self._expire(self._waiting.expire(now_ns))
            elif plan.run_rows:
                self._device.submit(self._lane, self._waiting.take(plan.run_rows, now_ns))
            else:
                self._wake_at(plan.wake_at_ns, now_ns)
                break
        if self._waiting.rows < self._rows_max:
            self._room.set()
        if self._successor is not None and not self._waiting.rows:
            self._let_go(self._successor)

    def _plan(self, now_ns: int) -> Plan:
        state = self._device.state(self._lane)
        plan = self._planner.plan(self._waiting, state, now_ns)
        if self._successor is None or plan.expire or not state.free_slots:
            return plan
        # Nothing comes to gather for, and the successor waits.
        return Plan(run_rows=min(self._waiting.rows, self._lane.model.manifest.rows_max))

    def _let_go(self, successor: Window) -> None:
        if successor._held:
            successor._held = False
            successor._pump()
        if len(self._lane.free) == self._slots:
            self._drained.set()

    def _wake_at(self, at_ns: int | None, now_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at_ns is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0, at_ns - now_ns) / 1e9, self._pump)
