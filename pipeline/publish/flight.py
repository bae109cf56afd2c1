"""Records on their way to the broker, and what is done once all of them have arrived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, Message

from pipeline.publish.terminal import Record

__all__ = ["Flight"]


@dataclass(slots=True, eq=False)
class Flight:
    """Records that settle together.

    ``record`` makes one of them anew where it has to be produced again; None where its assignment was lost (I3).
    """

    left: int
    settle: Callable[[], None]
    record: Callable[[int], Record | None]
    refused: Callable[[int, str], None]  # the broker will never take this record: too large
    failed: Callable[[Flight, int, KafkaError, Message], None]
    attempts: dict[int, int] = field(default_factory=dict)  # by position, only where one failed

    def arrived(self) -> None:
        """One more is settled."""
        self.left -= 1
        if self.left == 0:
            self.settle()

    def delivered(self, position: int, error: KafkaError | None, message: Message) -> None:
        """A record's delivery report; called for every record of the worker, so `arrived` is written out."""
        if error is not None:
            self.failed(self, position, error, message)
            return
        self.left -= 1
        if self.left == 0:
            self.settle()
