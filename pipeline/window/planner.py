"""When a batch leaves and how many rows it takes: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pipeline.infer.device import DeviceState
from pipeline.window.ordered import Columns

__all__ = ["Basis", "Plan", "Planner", "Reason", "WaitingView", "WorkConserving"]


class Reason(StrEnum):
    """Why a plan says what it says."""

    NOTHING = "nothing"  # nothing can be done now: no request, no slot, or the device is busy
    IDLE = "idle"  # the device is free, and waiting longer would not pay
    FULL = "full"  # as many rows as a batch takes
    GATHERED = "gathered"  # the oldest request has waited for company as long as it may
    GATHERING = "gathering"  # the device is free, and there is time for more to come
    DEADLINE = "deadline"  # later, or with more rows, the most urgent request would be late
    LATE = "late"  # requests that cannot make their deadline, even if they ran alone and next
    OVERLOAD = "overload"  # not all can make it: those go that would keep the batch small
    HAND_OVER = "hand-over"  # another version waits for what is left here
    AGAIN = "again"  # a batch that has failed, or a half of it


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan with deadlines was computed from; moments are monotonic ns."""

    rows: int  # waiting
    due_ns: int  # the most urgent request's
    free_ns: int  # when the device can begin
    run_ns: int  # l of the batch that was weighed
    margin_ns: int  # what is kept for copying back, publishing and noise
    load: float  # offered load, 1 is what can be served within the SLO


class WaitingView(Protocol):
    """What waits, as a planner sees it; moments are monotonic ns."""

    @property
    def rows(self) -> int: ...
    @property
    def oldest_ns(self) -> int | None:
        """Arrival of the first request that waits; None where nothing does."""
        ...

    @property
    def next_deadline_ns(self) -> int | None:
        """The earliest deadline of all that wait; None where none has one."""
        ...

    @property
    def request_rows_max(self) -> int:
        """Rows of the largest request that has a deadline, at most."""
        ...

    @property
    def columns(self) -> Columns | None:
        """What waits, most urgent first; None where nothing but the arrival orders it, or one in pieces comes first."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to ask again if nothing arrives and nothing is finished until then."""

    run_rows: int = 0  # rows from the front that the next free slot runs now; 0: none
    # Requests are answered as expired now, before anything runs, whose deadline less so much per row is not after this.
    expire_ns: int | None = None
    expire_row_ns: float = 0.0  # with `run_rows` these run, on `rung`, at most so many rows of them
    wake_at_ns: int | None = None
    reason: Reason = Reason.NOTHING
    basis: Basis | None = None
    rung: int = 0  # of the model's ladder that runs them; 0 is the model itself


class Planner(Protocol):
    """State in, plan out; no clock, no side effect."""

    def plan(self, waiting: WaitingView, device: DeviceState, now_ns: int) -> Plan: ...


@dataclass(frozen=True, slots=True)
class WorkConserving:
    """An idle device runs what waits; a busy one has its next full batches filled meanwhile.

    With ``gather_ns`` an idle device waits until ``rows_max`` rows are there or the oldest request is that old,
    counted from its arrival (not from the last one's, which a steady stream would put off for ever).
    """

    rows_max: int
    gather_ns: int = 0

    def plan(self, waiting: WaitingView, device: DeviceState, now_ns: int) -> Plan:
        deadline_ns = waiting.next_deadline_ns
        if deadline_ns is not None and deadline_ns <= now_ns:
            return Plan(expire_ns=now_ns, reason=Reason.LATE)
        oldest_ns = waiting.oldest_ns
        if oldest_ns is None:
            return Plan()
        full = waiting.rows >= self.rows_max
        due_ns = oldest_ns + self.gather_ns
        if device.free_slots and (full or (device.idle and due_ns <= now_ns)):
            reason = Reason.FULL if full else Reason.GATHERED if self.gather_ns else Reason.IDLE
            return Plan(run_rows=min(waiting.rows, self.rows_max), reason=reason)
        wakes = [deadline_ns] if deadline_ns is not None else []
        gathering = device.idle and device.free_slots > 0
        if gathering:
            wakes.append(due_ns)
        reason = Reason.GATHERING if gathering else Reason.NOTHING
        return Plan(wake_at_ns=min(wakes, default=None), reason=reason)
