"""Requests of one partition sent a few at a time, each set waited for, and what a worker's memory was meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from topics.headers import headers_of
from topics.names import Topics
from topics.records import Headers, Status, Terminal, source_of

__all__ = ["Exchange", "Memory", "Sent", "make_topic"]

MESSAGE_BYTES_MAX = 20 * 1024 * 1024  # room for a value just over the limit of a request
ANSWER_S = 60.0

Sent = tuple[bytes | None, bytes | None, Headers]
"""Key, value, headers."""


def make_topic(broker: str, topics: Topics) -> None:
    """A request topic of one partition that takes messages over a request's limit; a worker makes the others."""
    made = NewTopic(topics.requests, 1, 1, config={"max.message.bytes": str(MESSAGE_BYTES_MAX)})
    admin = AdminClient({"bootstrap.servers": broker})  # lives until the answer is there
    admin.create_topics([made])[topics.requests].result(30)


class Exchange:
    """``answers`` and ``dead`` hold all that was read, by the source it names; ``counts`` how often each came."""

    def __init__(self, broker: str, topics: Topics) -> None:
        self.answers: dict[str, Terminal] = {}
        self.dead: dict[str, tuple[Message, Terminal]] = {}
        self.counts: Counter[tuple[str | None, str]] = Counter()
        self._topics = topics
        self._producer = Producer({"bootstrap.servers": broker, "message.max.bytes": 100_000_000, "linger.ms": 0})
        self._consumer = Consumer(
            {"bootstrap.servers": broker, "group.id": "exchange", "enable.auto.commit": False, "fetch.wait.max.ms": 10}
        )
        found = [(topic, p) for topic in (topics.predictions, topics.dead_letters) for p in self._partitions(topic)]
        self._consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in found])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def ask(self, requests: Sequence[Sent]) -> list[str]:
        """Send them and wait for the outcome of each; returns their sources, in order."""
        sources: list[str] = []

        def sent(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            sources.append(source_of(self._topics.requests, 0, message.offset() or 0))

        for key, value, headers in requests:
            self._producer.produce(self._topics.requests, value, key, headers=list(headers), on_delivery=sent)
        assert self._producer.flush(ANSWER_S) == 0
        self.wait(sources)
        return sources

    def wait(self, sources: Sequence[str]) -> None:
        """Read until each of these has its answer, and its dead letter where it is rejected."""
        end_s = time.monotonic() + ANSWER_S
        while any(not self._has_outcome(source) for source in sources):
            assert time.monotonic() < end_s, [source for source in sources if not self._has_outcome(source)]
            self._read(0.5)

    def read_on(self, wait_s: float) -> None:
        """Read what is there beyond what was waited for."""
        while self._read(wait_s):
            pass

    def _read(self, wait_s: float) -> int:
        messages = self._consumer.consume(1, wait_s) + self._consumer.consume(1000, 0)
        for message, headers in zip(messages, headers_of(messages), strict=True):
            assert message.error() is None, message.error()
            terminal = Terminal.from_kafka(message.key(), message.value(), headers)
            self.counts[message.topic(), terminal.source] += 1
            if message.topic() == self._topics.dead_letters:
                self.dead[terminal.source] = message, terminal
            else:
                self.answers[terminal.source] = terminal
        return len(messages)

    def _has_outcome(self, source: str) -> bool:
        answer = self.answers.get(source)
        return answer is not None and (answer.status is not Status.REJECTED or source in self.dead)

    def _partitions(self, topic: str) -> list[int]:
        return list(self._consumer.list_topics(topic, timeout=30).topics[topic].partitions)


class Memory:
    """A process's resident memory in MiB: now, and its highest since the last `reset`."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def reset(self) -> None:
        (self._folder / "clear_refs").write_text("5")

    def now_mib(self) -> float:
        return self._read("VmRSS:")

    def peak_mib(self) -> float:
        return self._read("VmHWM:")

    def _read(self, name: str) -> float:
        (line,) = [line for line in (self._folder / "status").read_text().splitlines() if line.startswith(name)]
        return int(line.split()[1]) / 1024
