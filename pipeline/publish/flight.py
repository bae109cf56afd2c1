"""Records on their way to the broker, and what is done once all of them have arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, Message

from pipeline.publish.terminal import Record
from topics.errors import UNPROVEN

__all__ = ["Flight", "Undelivered", "positions_of"]

Undelivered = tuple[KafkaError, Message]
"""A delivery report of a record that the broker does not have, or may not have."""


@dataclass(slots=True, eq=False)
class Flight:
    """Records that settle together.

    They share one callback, which does not know a record's position: one that knew would cost each record of the worker
    a tenth of what producing it does. Those that failed are found again by key and value (`positions_of`).

    ``record`` makes one of them anew where it has to be produced again; None where its assignment was lost (I3).
    """

    count: int
    left: int
    landed: Callable[[Flight], None]  # nothing of it is in the air; what is ``undelivered`` may be produced again
    record: Callable[[int], Record | None]
    refused: Callable[[int, str], None]  # the broker will never take this record: too large
    undelivered: list[Undelivered] = field(default_factory=list)
    attempts: int = 1

    def arrived(self) -> None:
        """One more is settled."""
        self.left -= 1
        if self.left == 0:
            self.landed(self)

    def too_large(self, position: int, error: KafkaError) -> None:
        """A record that the broker will never take; it is settled by that."""
        self.refused(position, error.str())
        self.arrived()

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """A record's delivery report; called for every record of the worker: `undelivered`, `arrived` written out."""
        if error is not None or message.offset() is None:
            self.undelivered.append((UNPROVEN if error is None else error, message))
        self.left -= 1
        if self.left == 0:
            self.landed(self)


def positions_of(undelivered: Sequence[Undelivered], records: Sequence[Record | None]) -> list[int]:
    """Positions of the records that these reports may be about; reports have a record's key and value, no headers.

    Records alike in both are all named where one of them failed: a repeat of a delivered one can be told by its source.
    """
    failed = {(message.key(), message.value()) for _, message in undelivered}
    return [at for at, record in enumerate(records) if record is not None and (record.key, record.value) in failed]
