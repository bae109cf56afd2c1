"""A broker in memory: topics, groups, cooperative rebalances and commits, as far as the intake can see them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Message, TopicPartition

__all__ = ["MemoryBroker", "MemoryConsumer"]

Key = tuple[str, int]


class MemoryBroker:
    """Keeps messages and offsets; one lock for all, held only for moments."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.lock = threading.RLock()
        self.log: dict[Key, list[Message]] = defaultdict(list)
        self.committed: dict[tuple[str, str, int], int] = {}
        self.members: dict[str, list[MemoryConsumer]] = defaultdict(list)

    def produce(
        self, topic: str, partition: int, value: bytes, key: bytes | None, headers: list[tuple[str, str | bytes | None]]
    ) -> None:
        """Append a message."""
        with self.lock:
            log = self.log[topic, partition]
            log.append(
                Message(
                    topic=topic,
                    partition=partition,
                    offset=len(log),
                    key=key,
                    value=value,
                    headers=list(headers) or None,
                    timestamp=(1, time.time_ns() // 1_000_000),
                )
            )

    def consumer(self, settings: dict[str, Any]) -> MemoryConsumer:
        """A member to be; the intake's consumer factory."""
        return MemoryConsumer(self, settings)

    def rebalance(self, group: str) -> None:
        """Share the partitions out anew; members learn of it in their next poll."""
        members = self.members[group]
        topics = sorted({topic for member in members for topic in member.topics})
        keys = [(topic, partition) for topic in topics for partition in range(self.partitions)]
        for number, member in enumerate(members):
            member.target = set(keys[number :: len(members)])


class MemoryConsumer:
    """A member of a group; what the intake calls of `confluent_kafka.Consumer`."""

    def __init__(self, broker: MemoryBroker, settings: dict[str, Any]) -> None:
        self.broker = broker
        self.group: str = settings["group.id"]
        self.on_commit: Callable[[Any, list[TopicPartition]], None] = settings["on_commit"]
        self.topics: list[str] = []
        self.target: set[Key] = set()
        self.positions: dict[Key, int] = {}
        self.paused: set[Key] = set()
        self.reports: list[list[TopicPartition]] = []
        self.pauses = 0

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.topics, self.on_assign, self.on_revoke, self.on_lost = topics, on_assign, on_revoke, on_lost
        with self.broker.lock:
            self.broker.members[self.group].append(self)
            self.broker.rebalance(self.group)

    def unsubscribe(self) -> None:
        self.topics = []

    def poll(self, timeout: float) -> Message | None:
        end = time.monotonic() + timeout
        while True:
            self._serve()
            if messages := self._fetch(1):
                return messages[0]
            if time.monotonic() >= end:
                return None
            time.sleep(0.002)

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        assert timeout == 0, "a consume() that waits would wait for all it was asked for"
        self._serve()
        return self._fetch(num_messages)

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(*key) for key in self.positions]

    def pause(self, partitions: list[TopicPartition]) -> None:
        self.pauses += 1
        self.paused |= {(p.topic, p.partition) for p in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self.paused -= {(p.topic, p.partition) for p in partitions}

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> Sequence[TopicPartition] | None:
        with self.broker.lock:
            for p in offsets:
                assert (p.topic, p.partition) in self.positions, "a commit of a partition that is not ours"
                self.broker.committed[self.group, p.topic, p.partition] = p.offset
        if asynchronous:
            self.reports.append(offsets)
            return None
        return offsets

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        committed = self.broker.committed
        return [
            TopicPartition(p.topic, p.partition, committed.get((self.group, p.topic, p.partition), -1001))
            for p in partitions
        ]

    def get_watermark_offsets(self, partition: TopicPartition, *, cached: bool) -> tuple[int, int]:
        return 0, len(self.broker.log[partition.topic, partition.partition])

    def consumer_group_metadata(self) -> object:
        return self.group, self in self.broker.members[self.group]

    def close(self) -> None:
        if self.positions:
            self.on_revoke(self, self.assignment())
            self.positions.clear()
        with self.broker.lock:
            self.broker.members[self.group].remove(self)
            self.broker.rebalance(self.group)

    def lose(self) -> None:
        """The broker has thrown this member out; call it between polls of a stopped intake thread only in tests."""
        lost = self.assignment()
        self.positions.clear()
        self.on_lost(self, lost)

    def _serve(self) -> None:
        while self.reports:
            self.on_commit(None, self.reports.pop(0))
        gone = [key for key in self.positions if key not in self.target]
        if gone:
            self.on_revoke(self, [TopicPartition(*key) for key in gone])
            for key in gone:
                del self.positions[key]
        with self.broker.lock:
            held = {key for m in self.broker.members[self.group] if m is not self for key in m.positions}
            new = [key for key in self.target if key not in self.positions and key not in held]
        if new:
            self.on_assign(self, [TopicPartition(*key) for key in new])
            for key in new:
                self.positions[key] = self.broker.committed.get((self.group, *key), 0)

    def _fetch(self, count: int) -> list[Message]:
        messages: list[Message] = []
        with self.broker.lock:
            for key, position in self.positions.items():
                if key not in self.paused and len(messages) < count:
                    found = self.broker.log[key][position : position + count - len(messages)]
                    self.positions[key] = position + len(found)
                    messages += found
        return messages
