"""A worker as users run it, `sluice serve` in a process of its own, and what came of the requests sent to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, cast

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from topics.names import Topics
from topics.records import Headers, Terminal

__all__ = ["Outcomes", "Worker", "committed", "end_offset", "read_all", "send"]

START_S = 60.0


class Worker:
    """`sluice serve`; killed at the end of the block where it still runs."""

    def __init__(
        self,
        broker: str,
        models: Path,
        group: str,
        *options: str,
        log: Path,
        module: str = "pipeline.cli",
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.log = log
        with log.open("a") as stderr:
            command = ["-m", module, "serve", "--models", str(models), "--broker", broker, "--group", group]
            self.process = subprocess.Popen(
                [sys.executable, *command, *options],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **env},
            )

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready"), f"{line!r}\n{self.log.read_text()}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def kill(self) -> None:
        """SIGKILL: nothing is drained, nothing committed."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Ask it to stop; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


def send(
    broker: str, topic: str, requests: Iterable[tuple[bytes | None, bytes | None, Headers]], *, linger_ms: float = 5
) -> int:
    """Produce ``(key, value, headers)``; returns how many the broker has."""
    producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "linger.ms": linger_ms})
    count = 0
    for key, value, headers in requests:
        while True:
            try:
                producer.produce(topic, value, key, headers=list(headers))
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
    assert producer.flush(60) == 0
    return count


@dataclass(slots=True)
class Outcomes:
    """What the predictions and dead-letter topics hold."""

    answers: list[tuple[Message, Terminal]] = field(default_factory=list)
    dead: list[tuple[Message, Terminal]] = field(default_factory=list)

    @property
    def answered(self) -> Counter[str]:
        """How often each request id has an answer (of any status)."""
        return Counter(terminal.request_id for _, terminal in self.answers)


def read_all(broker: str, topics: Topics, expected: int, timeout_s: float = 60.0) -> Outcomes:
    """Read both topics until ``expected`` distinct requests are answered or the time is up, then what is left."""
    outcomes = Outcomes()
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": "reader", "enable.auto.commit": False, "enable.partition.eof": False}
    )
    try:
        found = [(t, p) for t in (topics.predictions, topics.dead_letters) for p in _partitions(consumer, t)]
        consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in found])
        seen: set[str] = set()
        end, quiet = time.monotonic() + timeout_s, 0
        while time.monotonic() < end and quiet < 2:
            messages = consumer.consume(10_000, 0.5)
            for message in messages:
                assert message.error() is None, message.error()
                terminal = Terminal.from_kafka(message.key(), message.value(), cast(Headers, message.headers()))
                (outcomes.dead if message.topic() == topics.dead_letters else outcomes.answers).append(
                    (message, terminal)
                )
                seen.add(terminal.request_id)
            quiet = quiet + 1 if not messages and len(seen) >= expected else 0
    finally:
        consumer.close()
    return outcomes


def committed(broker: str, group: str, topic: str) -> int:
    """Sum of the group's committed offsets."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": group})
    try:
        partitions = [TopicPartition(topic, p) for p in _partitions(consumer, topic)]
        return sum(max(0, each.offset) for each in consumer.committed(partitions, timeout=30))
    finally:
        consumer.close()


def end_offset(broker: str, topic: str) -> int:
    """Sum of the partitions' end offsets, open transactions and their markers included."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "watch"})
    try:
        found = [TopicPartition(topic, partition) for partition in _partitions(consumer, topic)]
        return sum(consumer.get_watermark_offsets(each, timeout=30)[1] for each in found)
    finally:
        consumer.close()


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    return list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
