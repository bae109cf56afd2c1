"""When a batch leaves and how many rows it takes: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pipeline.infer.device import DeviceState

__all__ = ["Plan", "Planner", "WaitingView", "WorkConserving"]


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to ask again if nothing arrives and nothing is finished until then."""

    run_rows: int = 0  # rows from the front that the next free slot runs now; 0: none
    expire: bool = False  # requests past their deadline are answered so, before anything runs
    wake_at_ns: int | None = None


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
            return Plan(expire=True)
        oldest_ns = waiting.oldest_ns
        if oldest_ns is None:
            return Plan()
        full = waiting.rows >= self.rows_max
        due_ns = oldest_ns + self.gather_ns
        if device.free_slots and (full or (device.idle and due_ns <= now_ns)):
            return Plan(run_rows=min(waiting.rows, self.rows_max))
        wakes = [deadline_ns] if deadline_ns is not None else []
        if device.idle and device.free_slots:
            wakes.append(due_ns)
        return Plan(wake_at_ns=min(wakes, default=None))
