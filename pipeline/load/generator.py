"""The open-loop generator: sends each request when it is due, whatever became of the others, and times the answers.

A latency runs from the moment a request was *due* to the moment its answer was read, so that a stall counts for
every request it delayed (no coordinated omission). It runs in its own process, which `pipeline.load.drive` starts.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from pipeline.core.errors import SluiceError
from pipeline.load.arrivals import SECOND_NS, Arrivals, Schedule, constant, mean_rate, read_trace, replayed, schedule
from pipeline.load.drive import Load
from pipeline.load.outcome import MISSING, Outcome, Sent, report
from pipeline.load.requests import key_of, request_values
from pipeline.models.manifest import read_manifest
from topics.connect import Connection
from topics.errors import TopicsError
from topics.names import topics_of
from topics.records import Header, Status

__all__ = ["generate"]

LEAD_S = 0.2  # from the call to the first request: threads are up before it is due
# Each on its own, a broker on two cores has its hands full with these: then it would be measured, not the worker.
AT_ONCE_PER_S = 1000
LINGER_MS = 5.0
LINGERS = ("linger.ms", "queue.buffering.max.ms")  # as librdkafka calls it
# While the producer gathers, what is due is sent, and what is answered is read, in such steps: a wake-up for each one
# took a worker on the same two cores, at twice its capacity, a fifth of its answers in time.
STEP_S = 0.002
SEND_MAX = 256  # requests sent before refused ones are heard of and the answers' thread gets its turn
SWITCH_S = 0.0005  # a thread that wants to note an answer waits so long for the one that sends, instead of 5 ms
CHUNK_MESSAGES = 4096
DISTINCT_MAX = 256
DISTINCT_BYTES_MAX = 64 * 1024 * 1024
REQUEST_ID, CONTENT_TYPE, PRIORITY, DEADLINE_MS = map(
    str, (Header.REQUEST_ID, Header.CONTENT_TYPE, Header.PRIORITY, Header.DEADLINE_MS)
)
ANY_PARTITION, NOW = -1, 0  # produce() by position: half as long as by keyword

OUTCOMES = {
    Status.OK.encode(): Outcome.OK,
    Status.EXPIRED.encode(): Outcome.EXPIRED,
    Status.REJECTED.encode(): Outcome.REJECTED,
}


class Answers(threading.Thread):
    """Reads the predictions topic from its present end: what became of each request of this run, and when it was seen.

    An answer is seen once it is committed, up to ``step_s`` later.
    """

    def __init__(self, connection: Connection, topic: str, run: bytes, count: int, step_s: float) -> None:
        super().__init__(name="answers", daemon=True)
        self.answered_ns = np.full(count, MISSING, np.int64)
        self.outcomes = np.zeros(count, np.int8)
        self.repeats = 0
        self.error: KafkaException | None = None
        self._run = run
        self._step_s = step_s
        self._open = count
        self._ended = threading.Event()
        self._consumer = connection.consumer(isolation_level="read_committed")
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._consumer.assign(
            [
                TopicPartition(topic, p, self._consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1])
                for p in partitions
            ]
        )

    def run(self) -> None:
        while self._open and not self._ended.is_set():
            first = self._consumer.poll(0.1)
            if first is not None:
                self._note([first], time.monotonic_ns())
                time.sleep(self._step_s)
                self._note(self._consumer.consume(CHUNK_MESSAGES, 0), time.monotonic_ns())
        self._consumer.close()

    def end(self, wait_s: float) -> None:
        """Wait for what is still open, at most ``wait_s``."""
        self.join(min(wait_s, threading.TIMEOUT_MAX))
        self._ended.set()
        self.join()
        if self.error is not None:
            raise self.error

    def _note(self, messages: list[Message], at_ns: int) -> None:
        run, length = self._run, len(self._run)
        for message in messages:
            if message.error() is not None:
                self.error = KafkaException(message.error())
                self._ended.set()
                return
            named: dict[str, Any] = dict(message.headers() or ())
            request_id = named.get(Header.REQUEST_ID, b"")
            if request_id[:length] != run:
                continue  # somebody else's
            index = int(request_id[length:])
            if self.outcomes[index]:
                self.repeats += 1
                continue
            self.answered_ns[index] = at_ns
            self.outcomes[index] = OUTCOMES[named[Header.STATUS]]
            self._open -= 1


class Requests:
    """Sends request by request: values and keys in turn, a deadline after each one's due time, counting refusals."""

    def __init__(self, load: Load, run: bytes, producer: Producer) -> None:
        manifest = read_manifest(Path(load.model))
        self.undelivered = 0
        self._topic = topics_of(manifest.name).requests
        self._producer = producer
        self._run = run
        signature = manifest.signature
        row_bytes = sum(t.dtype.itemsize * int(np.prod(t.shape, dtype=np.int64)) for t in signature.inputs)
        distinct = max(1, min(DISTINCT_MAX, DISTINCT_BYTES_MAX // max(1, row_bytes * load.rows)))
        self._values = request_values(signature, load.content_type, load.rows, distinct)
        self._keys: list[bytes | None] = [*map(key_of, range(load.keys))] or [None]
        self._same: list[tuple[str, str | bytes | None]] = [(CONTENT_TYPE, load.content_type.encode())]
        if load.priority is not None:
            self._same.append((PRIORITY, b"%d" % load.priority))
        self._deadline_ms = load.deadline_ms

    def send(self, due_ns: list[int], first: int, start_ns: int, start_unix_ms: float) -> list[int]:
        """Send what is due at ``due_ns``, numbered from ``first``; when each was handed over."""
        produce, topic, run, same = self._producer.produce, self._topic, self._run, self._same
        values, keys, deadline_ms, sent_ns = self._values, self._keys, self._deadline_ms, []
        for index, due in enumerate(due_ns, first):
            headers = [(REQUEST_ID, run + b"%d" % index), *same]
            if deadline_ms is not None:
                headers.append((DEADLINE_MS, b"%d" % (start_unix_ms + due / 1e6 + deadline_ms)))
            value, key = values[index % len(values)], keys[index % len(keys)]
            while True:
                try:
                    produce(topic, value, key, ANY_PARTITION, self._delivered, None, NOW, headers)
                    break
                except BufferError:  # Kafka takes less than is offered: what waits here is late, and is counted so
                    self._producer.poll(0.01)
            sent_ns.append(time.monotonic_ns() - start_ns)
        return sent_ns

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        """Called for those that failed only."""
        self.undelivered += error is not None


def due_times(load: Load) -> tuple[Schedule, float]:
    """The schedule after its warm-up, of the same kind or evenly spaced at a trace's rate; and the seconds counted.

    Raises ``ValueError``.
    """
    if load.trace is None:
        assert load.rate is not None and load.duration_s is not None, "only a trace has its own"
        return schedule(load.arrivals, load.rate, load.warmup_s + load.duration_s, load.seed), load.duration_s
    whole = read_trace(Path(load.trace))
    trace, duration_s = replayed(whole, load.rate, load.duration_s)
    if load.warmup_s == 0:
        return trace, duration_s
    warmup = constant(load.rate or mean_rate(whole), load.warmup_s)
    return np.concatenate([warmup, trace + int(load.warmup_s * SECOND_NS)]), duration_s


def linger_ms(load: Load, due: Schedule) -> float:
    """How long the producer gathers: as asked, else nothing at a low rate and librdkafka's default at a high one."""
    for name in LINGERS:  # which win over what is said here
        if name in load.kafka:
            return float(load.kafka[name])
    if load.linger_ms is not None:
        return load.linger_ms
    alone = due[0] == due[-1]  # or all at once
    return 0.0 if alone or mean_rate(due) <= AT_ONCE_PER_S else LINGER_MS


def generate(load: Load, due: Schedule) -> Sent:
    """Send one request per due time and wait for the answers. Raises `KafkaException`."""
    connection = Connection(load.broker, load.kafka)
    run = b"%s-" % uuid.uuid4().hex[:8].encode()
    gather_ms = linger_ms(load, due)
    step_s = min(STEP_S, gather_ms / 2000)
    answers = Answers(connection, topics_of(read_manifest(Path(load.model)).name).predictions, run, len(due), step_s)
    producer = connection.producer(linger_ms=gather_ms, delivery_report_only_error=True)
    requests = Requests(load, run, producer)
    sent_ns = np.empty(len(due), np.int64)
    answers.start()
    start_ns = time.monotonic_ns() + int(LEAD_S * SECOND_NS)
    start_unix_ms = time.time() * 1e3 + LEAD_S * 1e3
    at = 0
    while at < len(due):
        now_ns = time.monotonic_ns() - start_ns
        if (wait_ns := int(due[at]) - now_ns) > 0:
            producer.poll(0)
            time.sleep(max(wait_ns / SECOND_NS, step_s))
            continue
        until = min(int(np.searchsorted(due, now_ns, side="right")), at + SEND_MAX)
        sent_ns[at:until] = requests.send(due[at:until].tolist(), at, start_ns, start_unix_ms)
        producer.poll(0)
        at = until
    producer.flush()
    answers.end(load.answer_s_max)
    answered_ns = np.where(answers.outcomes == Outcome.UNANSWERED, MISSING, answers.answered_ns - start_ns)
    return Sent(due, sent_ns, answered_ns, answers.outcomes, answers.repeats, requests.undelivered)


def main() -> int:
    """Read a `Load` as JSON on standard input, generate it, print the report as JSON."""
    asked = json.load(sys.stdin)
    load = Load(**asked | {"arrivals": Arrivals(asked["arrivals"])})
    try:
        due, duration_s = due_times(load)
        counted_ns = due[due >= load.warmup_s * SECOND_NS]
        if len(counted_ns) == 0:
            raise ValueError("no request is due: the rate or the time is too small")
        sys.setswitchinterval(SWITCH_S)
        gc.freeze()
        gc.disable()  # nothing here makes cycles, and a collection would be a late request
        sent = generate(load, due)
    except (ValueError, OSError, SluiceError, TopicsError, KafkaException) as error:
        print(error, file=sys.stderr)
        return 1
    found = report(sent, load.warmup_s, duration_s, deadline_ms=load.deadline_ms, slo_ms=load.slo_ms)
    print(json.dumps(found | {"linger_ms": linger_ms(load, due)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
