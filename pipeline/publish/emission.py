"""Records in transactions, produced again where one is aborted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.publish.flight import Undelivered, positions_of
from pipeline.publish.producer import is_too_large
from pipeline.publish.terminal import Record

if TYPE_CHECKING:
    from pipeline.publish.publisher import Publisher

__all__ = ["Emission"]


class Emission:
    """Records of one outcome, produced in the open transaction as often as it takes.

    The broker refuses whole message sets for their size, and with that the transaction fails: in the next one those
    that may have been in such a set go alone. One that is too large by itself is ``refused``, which raises where
    nothing can be committed without it; from then on what is ``instead`` of it is emitted in its place.

    ``record`` makes one of them; None where its assignment was lost (I3).
    """

    def __init__(
        self,
        publisher: Publisher,
        count: int,
        record: Callable[[int], Record | None],
        refused: Callable[[int, str], object],
        instead: Callable[[int], None] = lambda position: None,
    ) -> None:
        self._publisher = publisher
        self._count = count
        self._record = record
        self._refused = refused
        self._instead = instead
        self._failed: list[Undelivered] = []  # in the transaction before
        self._suspects: set[int] = set()
        self._too_large: set[int] = set()

    def doubts(self) -> int:
        """How many are known to be too large, or suspected."""
        return len(self._failed) + len(self._suspects) + len(self._too_large)

    def emit(self) -> None:
        """Produce all of them."""
        failed, self._failed = self._failed, []
        records = [self._record(position) for position in range(self._count)]
        self._suspects.update(positions_of(failed, records))
        for position, record in enumerate(records):
            if position in self._too_large:
                self._instead(position)
            elif record is not None:
                self.emit_one(position, record)

    def emit_one(self, position: int, record: Record) -> None:
        """Produce one of them; alone where it is suspected."""
        try:
            if position in self._suspects:
                self._publisher.emit_alone(record, partial(self._reported_alone, position))
            else:
                self._publisher.emit(record, self.reported)
        except KafkaException as error:
            if not is_too_large(error.args[0]):
                raise
            self._refuse(position, error.args[0])
            self._instead(position)

    def reported(self, error: KafkaError | None, message: Message) -> None:
        """A delivery report, of any of them; where it was too large the transaction has failed."""
        if (refusal := self._refusal(error, message)) is not None:
            self._failed.append((refusal, message))

    def _reported_alone(self, position: int, error: KafkaError | None, message: Message) -> None:
        if (refusal := self._refusal(error, message)) is not None:
            self._refuse(position, refusal)

    def _refuse(self, position: int, refusal: KafkaError) -> None:
        self._refused(position, refusal.str())
        self._too_large.add(position)

    def _refusal(self, error: KafkaError | None, message: Message) -> KafkaError | None:
        transactions = self._publisher.transactions
        assert transactions is not None
        return transactions.refusal(error, message)
