"""Whether a worker can answer, and when it last got on."""

from __future__ import annotations

from enum import IntEnum

from pipeline.core.clock import SYSTEM_CLOCK, Clock

__all__ = ["Health", "State"]


class State(IntEnum):
    """A worker's life, only ever forwards."""

    STARTING = 0
    READY = 1
    DRAINING = 2
    STOPPED = 3


class Health:
    """One worker's state; each write is one assignment, so any thread may call anything."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._state = State.STARTING
        self._since_ns = self._progress_ns = clock.now_ns()

    @property
    def state(self) -> State:
        return self._state

    def become(self, state: State) -> None:
        """Enter a state, later than the present one or the same."""
        assert state >= self._state, f"{self._state.name} -> {state.name}"
        self._state = state
        self._since_ns = self._progress_ns = self._clock.now_ns()

    def progressed(self) -> None:
        """Something moved: a poll returned, a batch was acknowledged."""
        self._progress_ns = self._clock.now_ns()

    def to_dict(self) -> dict[str, object]:
        now_ns = self._clock.now_ns()
        return {
            "state": self._state.name.lower(),
            "ready": self._state is State.READY,
            "state_s": (now_ns - self._since_ns) / 1e9,
            "idle_s": (now_ns - self._progress_ns) / 1e9,
        }
