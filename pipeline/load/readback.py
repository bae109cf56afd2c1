"""What came out of a run, read from its predictions topic: is it complete and right, and how fast did it come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from pipeline.load.process import BenchError, Process
from topics.connect import Connection
from topics.records import Header, Status

__all__ = ["Readback", "end_offsets", "read_back", "wait_for_answers"]

STALL_S_MAX = 60.0  # Faust rejoins its group within; nobody who works pauses so long
WATCH_S = 0.1  # the append times give the rate; this only finds the end, and costs the measured ones little
CHUNK_MESSAGES = 4096
READ_S_MAX = 60.0
SAMPLE_EVERY = 97  # prime, so that the sample visits every partition and chunk position


@dataclass(frozen=True, slots=True)
class Readback:
    """The answers of a run. ``appended_ms`` is when the broker appended each, ascending, Unix time.

    ``header_names`` are sorted: some write them in an order of their own.
    """

    requests: int
    repeats: int
    appended_ms: np.ndarray[Any, np.dtype[np.int64]]
    header_names: tuple[str, ...]
    content_bytes: int

    def rate(self, warmup: float) -> float:
        """Answers a second from when the share ``warmup`` had come out until the last."""
        first = int(len(self.appended_ms) * warmup)
        took_ms = int(self.appended_ms[-1] - self.appended_ms[first])
        if took_ms <= 0:
            raise BenchError(f"{len(self.appended_ms)} answers came within 1 ms: too few to tell a rate")
        return (len(self.appended_ms) - 1 - first) / took_ms * 1e3


def end_offsets(admin: AdminClient, topic: str, partitions: int) -> list[int]:
    """The end offset of every partition."""
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    wanted = {TopicPartition(topic, partition): latest for partition in range(partitions)}
    return [future.result(10).offset for future in admin.list_offsets(wanted).values()]


def wait_for_answers(answers: Callable[[], int], count: int, process: Process, warmup: float) -> float:
    """Until there are ``count`` ``answers``; the CPU seconds of each after the share ``warmup``.

    Raises `BenchError` where the process ends or stalls before.
    """
    seen, seen_s = 0, time.monotonic()
    warm: tuple[int, float] | None = None
    while seen < count:
        process.check()
        time.sleep(WATCH_S)
        now = answers()
        if warm is None and now >= count * warmup:
            warm = (now, process.cpu_s())
        if now > seen:
            seen, seen_s = now, time.monotonic()
        elif time.monotonic() - seen_s > STALL_S_MAX:
            raise process.stalled(STALL_S_MAX)
    assert warm is not None, "count is at least its share"
    return (process.cpu_s() - warm[1]) / (seen - warm[0]) if seen > warm[0] else math.nan


def read_back(broker: str, topic: str, partitions: int, requests: int, right: Callable[[int, bytes], bool]) -> Readback:
    """Read all that is committed: every request 0..``requests``-1 answered ``ok``, a sample of the values ``right``.

    Requests were preloaded as `pipeline.load.preload` says, so ``source`` names the request.
    Raises `BenchError` for a request without an answer, a status that is not ok, or a wrong value.
    """
    ends = end_offsets(Connection(broker).admin(), topic, partitions)
    answers = np.zeros(requests, np.int32)
    appended_ms: list[int] = []
    names: set[tuple[str, ...]] = set()
    content_bytes = 0
    for message in _messages(broker, topic, ends):
        headers = message.headers() or []
        named = dict(headers)
        if named.get(Header.STATUS) != Status.OK.encode():
            raise BenchError(f"{topic}: a request was not answered but {named}: {message.value()!r:.200}")
        partition, offset = named[Header.SOURCE].rsplit(b"/", 2)[1:]
        index = int(offset) * partitions + int(partition)
        value = message.value() or b""
        if index % SAMPLE_EVERY == 0 and not right(index, value):
            raise BenchError(f"{topic}: request {index} has a wrong answer")
        answers[index] += 1
        content_bytes += len(value)
        appended_ms.append(message.timestamp()[1])
        if len(names) < 2:
            names.add(tuple(sorted(name for name, _ in headers)))
    if not answers.all():
        raise BenchError(f"{topic}: {int((answers == 0).sum())} of {requests} requests have no answer")
    repeats = int(answers.sum()) - requests
    return Readback(requests, repeats, np.sort(np.array(appended_ms, np.int64)), min(names), content_bytes)


def _messages(broker: str, topic: str, ends: list[int]) -> Any:
    """The committed records below these ends, which also count what no reader sees: markers, aborted records."""
    consumer = Connection(broker).consumer(isolation_level="read_committed", enable_partition_eof=True)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(len(ends))])
    left, until_s = set(range(len(ends))), time.monotonic() + READ_S_MAX
    try:
        while left:
            if time.monotonic() > until_s:
                raise BenchError(f"{topic}: partitions {left} could not be read in {READ_S_MAX:.0f} s")
            for message in consumer.consume(CHUNK_MESSAGES, 0.1):
                if (error := message.error()) is None:
                    yield message
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                elif (reached := _place(message))[1] >= ends[reached[0]]:  # else a transaction is being completed
                    left.discard(reached[0])
    finally:
        consumer.close()


def _place(message: Message) -> tuple[int, int]:
    partition, offset = message.partition(), message.offset()
    assert partition is not None, "it was read from one"
    assert offset is not None, "and at one"
    return partition, offset
