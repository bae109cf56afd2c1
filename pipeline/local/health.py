"""How the background stack is: whether the broker answers, the worker lives, and how many requests wait."""

from __future__ import annotations

import time
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pipeline.core.settings import Settings
from pipeline.local.kafka import cluster_id, quiet
from pipeline.local.stack import Stack
from topics.names import topics_of

__all__ = ["StackHealth", "lag", "look"]

ANSWER_WAIT_S_MAX = 5.0  # a broker on this machine answers in milliseconds
RETRY_S = 0.1
COORDINATOR_STARTS = frozenset(
    {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}
)
"""What a new broker says of the first group it hears of, for a moment."""
REQUESTS_SUFFIX = topics_of("m").requests[1:]


@dataclass(frozen=True, slots=True)
class StackHealth:
    """One look at the stack. ``lag`` is requests not yet finished, by topic; None where the broker did not answer."""

    broker_answers: bool
    worker_alive: bool
    lag: dict[str, int] | None

    def healthy(self, stack: Stack) -> bool:
        """Whether everything that was started works."""
        return self.broker_answers and (self.worker_alive or stack.worker is None)


def look(stack: Stack) -> StackHealth:
    """Ask broker and worker now."""
    answers = cluster_id(stack.bootstrap, ANSWER_WAIT_S_MAX) is not None
    return StackHealth(answers, stack.worker_alive, lag(stack.bootstrap) if answers else None)


def lag(bootstrap: str, group: str = Settings("-").group) -> dict[str, int] | None:
    """Requests beyond the group's committed offsets, for each request topic; None if the broker stops answering.

    Asks as a consumer that never joins: librdkafka 2.16's admin client crashes the process when it lists the offsets
    of the first group a new broker hears of (the coordinator is not there yet).
    """
    consumer = Consumer({**quiet(bootstrap), "group.id": group, "enable.auto.commit": False})
    deadline = time.monotonic() + ANSWER_WAIT_S_MAX
    try:
        while True:
            try:
                return _lag(consumer)
            except KafkaException as error:
                if error.args[0].code() not in COORDINATOR_STARTS or time.monotonic() > deadline:
                    return None
                time.sleep(RETRY_S)
    finally:
        consumer.close()


def _lag(consumer: Consumer) -> dict[str, int]:
    topics = consumer.list_topics(timeout=ANSWER_WAIT_S_MAX).topics.values()
    parts = [TopicPartition(t.topic, p) for t in topics if t.topic.endswith(REQUESTS_SUFFIX) for p in t.partitions]
    waiting = dict.fromkeys((part.topic for part in parts), 0)
    for part in consumer.committed(parts, timeout=ANSWER_WAIT_S_MAX) if parts else ():
        first, after_last = consumer.get_watermark_offsets(part, timeout=ANSWER_WAIT_S_MAX)
        waiting[part.topic] += after_last - max(part.offset, first)  # without offsets (< 0) it begins at the first
    return waiting
