"""Which partitions of the consumer are paused."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from pipeline.commit import TopicPartitionKey
from pipeline.intake.consumer import ConsumerLike

__all__ = ["Pauses"]


class Pauses:
    """Has just the partitions of some topics paused, also of those that are assigned meanwhile; poll thread only."""

    def __init__(self) -> None:
        self.topics: AbstractSet[str] = frozenset()
        self._generation = 0  # of the assignment they were last paused in
        self._paused: set[TopicPartitionKey] = set()  # one that was revoked so comes back so (librdkafka 2.16)

    def pause(self, consumer: ConsumerLike, topics: AbstractSet[str], generation: int) -> None:
        """Pause all of ``topics``, resume all others; ``generation`` is another one after each rebalance."""
        if topics == self.topics and (generation == self._generation or not (topics or self._paused)):
            return
        self.topics, self._generation = topics, generation
        mine = {(each.topic, each.partition): each for each in consumer.assignment()}
        if wanted := {key for key in mine if key[0] in topics}:
            consumer.pause([mine[key] for key in wanted])
        if others := (self._paused & mine.keys()) - wanted:
            consumer.resume([mine[key] for key in others])
        self._paused = (self._paused | wanted) - others
