"""Reads what a verifier needs: the terminal records as a read-committed consumer sees them, and the group's offsets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.local.kafka import quiet
from tests.fault.verify import Seen, Snap
from topics.names import Topics
from topics.records import Headers, Terminal

__all__ = ["Reader", "Watch"]

EVERY_S = 0.2
QUIET_READS = 2
LOOK_S_MAX = 60.0
# What is said of a deleted topic, as some rows have. After a broker's pause librdkafka (2.16) says it for a while of
# partitions that are there, too.
UNKNOWN = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)


class Reader:
    """Reads predictions and dead letters from their beginning; read-committed."""

    def __init__(self, broker: str, topics: Topics) -> None:
        base = {"group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 100}
        self._consumer = Consumer({**quiet(broker), **base, "isolation.level": "read_committed"})
        self._raw = Consumer({**quiet(broker), **base, "isolation.level": "read_uncommitted"})
        self._places = [
            TopicPartition(topic, partition, 0)
            for topic in (topics.predictions, topics.dead_letters)
            for partition in partitions_of(self._raw, topic)
        ]
        self._consumer.assign(self._places)
        self.seen: list[Seen] = []
        self.ids: set[str] = set()

    def read(self, timeout_s: float = 0.5) -> int:
        """What is there, at most 10,000; returns how many."""
        messages = self._consumer.consume(10_000, timeout_s)
        for message in messages:
            if message.error() is not None:  # the broker is away: it goes on by itself
                continue
            terminal = Terminal.from_kafka(message.key(), message.value(), cast(Headers, message.headers()))
            place, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
            at_ms = message.timestamp()[1]
            self.seen.append(
                Seen(
                    terminal.request_id,
                    terminal.status,
                    terminal.source,
                    message.key(),
                    message.value(),
                    place,
                    offset,
                    at_ms,
                )
            )
            self.ids.add(terminal.request_id)
        return len(messages)

    def until(self, ids: Collection[str], timeout_s: float, meanwhile: Callable[[], None]) -> None:
        """Read until each of ``ids`` has an outcome; after the time-out with what there is."""
        wanted, end_s = set(ids), time.monotonic() + timeout_s
        while not wanted <= self.ids and time.monotonic() < end_s:
            self.read()
            meanwhile()

    def rest(self, timeout_s: float = 60.0) -> None:
        """Read to the end; waits for transactions that somebody has left open."""
        quiet_reads, end_s = 0, time.monotonic() + timeout_s
        while quiet_reads < QUIET_READS:
            assert time.monotonic() < end_s, "a transaction stays open"
            quiet_reads = quiet_reads + 1 if not self.read() and self._stable() else 0

    def _stable(self) -> bool:
        ends = [[c.get_watermark_offsets(each, timeout=30)[1] for each in self._places] for c in self._both()]
        return ends[0] == ends[1]

    def _both(self) -> tuple[Consumer, Consumer]:
        return self._consumer, self._raw

    def close(self) -> None:
        for consumer in self._both():
            consumer.close()


class Watch:
    """Looks at the group's committed offsets every so often, from a thread of its own."""

    def __init__(self, broker: str, group: str, topics: Topics) -> None:
        settings = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
        self._consumer = Consumer({**quiet(broker), **settings})  # never subscribes: only looks
        self._admin, self._group = AdminClient(quiet(broker)), group
        self._lock = threading.Lock()
        requests, *outcomes = (topics.requests, topics.predictions, topics.dead_letters)
        self.requests = [TopicPartition(requests, p) for p in partitions_of(self._consumer, requests)]
        self._outcomes = [TopicPartition(t, p) for t in outcomes for p in partitions_of(self._consumer, t)]
        self.snaps: list[Snap] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def snap(self, timeout_s: float) -> Snap:
        """Look now; raises `KafkaException` where the broker does not answer, or the client cannot see an end."""
        with self._lock:
            committed = self._consumer.committed(self.requests, timeout=timeout_s)
            ends = {(each.topic, each.partition): self._end(each, timeout_s) for each in self._outcomes}
            snap = Snap({each.partition: each.offset for each in committed if each.offset >= 0}, ends)
            self.snaps.append(snap)
            return snap

    def look(self) -> Snap:
        """Look as soon as the broker answers."""
        end_s = time.monotonic() + LOOK_S_MAX
        while True:
            try:
                return self.snap(timeout_s=5.0)
            except KafkaException:
                if time.monotonic() > end_s:
                    raise
                time.sleep(EVERY_S)

    def _end(self, place: TopicPartition, timeout_s: float) -> int:
        try:
            return int(self._consumer.get_watermark_offsets(place, timeout=timeout_s)[1])
        except KafkaException as error:
            if error.args[0].code() in UNKNOWN and self._deleted(place.topic, timeout_s):
                return 0
            raise

    def _deleted(self, topic: str, timeout_s: float) -> bool:
        found = self._consumer.list_topics(topic, timeout=timeout_s).topics[topic].error
        return found is not None and found.code() == KafkaError.UNKNOWN_TOPIC_OR_PART

    def members(self) -> int:
        """How many members of the group have partitions; raises `KafkaException` as `snap` does."""
        (found,) = self._admin.describe_consumer_groups([self._group], request_timeout=10).values()
        return sum(bool(member.assignment.topic_partitions) for member in found.result(30).members)

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self.snap(timeout_s=2.0)
            except KafkaException:
                continue  # the broker is away, which is some rows' fault


def partitions_of(consumer: Consumer, topic: str) -> list[int]:
    """Of an existing topic."""
    return sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
