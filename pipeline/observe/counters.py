"""What became of every request, per model (invariant I6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Counts", "Outcome"]


class Outcome(StrEnum):
    """How a request left this worker."""

    ANSWERED = "answered"
    EXPIRED = "expired"
    DEAD_LETTERED = "dead_lettered"
    DUPLICATE = "duplicate"  # of one that has its outcome here, or will: it gets none of its own
    RELEASED = "released"  # in flight when its partition was lost: whoever got the partition answers it


@dataclass(frozen=True, slots=True)
class Counts:
    """One reading: received = answered + expired + dead_lettered + duplicate + released + in_flight."""

    received: int = 0
    answered: int = 0
    expired: int = 0
    dead_lettered: int = 0
    duplicate: int = 0
    released: int = 0
    vanished: int = 0  # deleted by the topic's retention before they were read, at most: never received

    @property
    def in_flight(self) -> int:
        """Received and without an outcome; never negative, and 0 after a drain, or something was counted twice."""
        left = self.answered + self.expired + self.dead_lettered + self.duplicate + self.released
        return self.received - left

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in Counts.__slots__))

    def to_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in (*Counts.__slots__, "in_flight")}
