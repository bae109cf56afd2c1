"""The open-loop generator: sends each request when it is due, whatever became of the others, and times the answers.

A latency runs from the moment a request was *due* to the moment its answer was read, so that a stall counts for
every request it delayed (no coordinated omission). It runs in its own process.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import KafkaException, Message, TopicPartition

from pipeline.load.arrivals import Arrivals, Schedule, schedule
from pipeline.load.requests import key_of, request_values
from pipeline.models import load_repository
from topics.connect import Connection
from topics.records import Header

__all__ = ["Sent", "generate", "report"]

ANSWER_S_MAX = 10.0  # after the last request was due; what is not answered by then counts as unanswered
LEAD_S = 0.2  # from the call to the first request: threads are up before it is due
MISSING = -1


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of every request, in order of the schedule; `MISSING` where there was no answer."""

    due_ns: Schedule
    sent_ns: Schedule
    answered_ns: Schedule
    statuses: dict[str, int]


class Answers(threading.Thread):
    """Reads the predictions topic from its present end and notes when each answer came, or was committed."""

    def __init__(self, broker: str, topic: str, count: int) -> None:
        super().__init__(name="answers", daemon=True)
        self.answered_ns = np.full(count, MISSING, np.int64)
        self.statuses: Counter[str] = Counter()
        self.error: KafkaException | None = None
        self._open = count
        self._ended = threading.Event()
        self._consumer = Connection(broker).consumer(isolation_level="read_committed")
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._consumer.assign(
            [
                TopicPartition(topic, p, self._consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1])
                for p in partitions
            ]
        )

    def run(self) -> None:
        while self._open and not self._ended.is_set():
            message = self._consumer.poll(0.1)
            if message is not None:
                self._note(message, time.monotonic_ns())
        self._consumer.close()

    def end(self) -> None:
        """Wait for what is still open, at most `ANSWER_S_MAX`."""
        self.join(ANSWER_S_MAX)
        self._ended.set()
        self.join()
        if self.error is not None:
            raise self.error

    def _note(self, message: Message, at_ns: int) -> None:
        if message.error() is not None:
            self.error = KafkaException(message.error())
            self._ended.set()
            return
        named: dict[str, Any] = dict(message.headers() or ())
        index = int(named[Header.REQUEST_ID])
        self.statuses[named[Header.STATUS].decode()] += 1
        if self.answered_ns[index] == MISSING:  # a repeat is counted in the statuses only
            self.answered_ns[index] = at_ns
            self._open -= 1


def generate(
    broker: str, requests: str, predictions: str, values: list[bytes], content_type: str, due: Schedule
) -> Sent:
    """Send one request per due time, its index as request id, and wait for the answers."""
    answers = Answers(broker, predictions, len(due))
    producer = Connection(broker).producer(linger_ms=0)
    sent_ns = np.empty(len(due), np.int64)
    answers.start()
    start_ns = time.monotonic_ns() + int(LEAD_S * 1e9)
    for index, due_ns in enumerate((due + start_ns).tolist()):
        while (wait_ns := due_ns - time.monotonic_ns()) > 0:
            producer.poll(0)
            time.sleep(wait_ns / 1e9)
        headers: list[tuple[str, str | bytes | None]] = [
            (str(Header.REQUEST_ID), b"%d" % index),
            (str(Header.CONTENT_TYPE), content_type.encode()),
        ]
        producer.produce(requests, values[index % len(values)], key_of(index), headers=headers)
        sent_ns[index] = time.monotonic_ns()
    producer.flush()
    answers.end()
    return Sent(due + start_ns, sent_ns, answers.answered_ns, dict(answers.statuses))


def report(sent: Sent, warmup_s: float) -> dict[str, Any]:
    """Counts and latency percentiles in ms, leaving out what was due in the first ``warmup_s`` seconds."""
    counted = sent.due_ns >= sent.due_ns[0] + warmup_s * 1e9
    answered = counted & (sent.answered_ns != MISSING)
    latency_ms = (sent.answered_ns - sent.due_ns)[answered] / 1e6
    late_ms = (sent.sent_ns - sent.due_ns)[counted] / 1e6
    result: dict[str, Any] = {
        "requests": int(counted.sum()),
        "answered": int(answered.sum()),
        "statuses": sent.statuses,
        "sent_late_ms_p99": float(np.percentile(late_ms, 99)),
    }
    if latency_ms.size:
        for percent in (50, 90, 99, 99.9):
            result[f"p{percent:g}_ms"] = float(np.percentile(latency_ms, percent))
        result |= {"mean_ms": float(latency_ms.mean()), "max_ms": float(latency_ms.max())}
    return result


def main() -> int:
    """Generate load and print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--repository", required=True, type=Path, help="model repository that holds --model")
    parser.add_argument("--model", required=True)
    parser.add_argument("--content-type", required=True)
    parser.add_argument("--rows", type=int, default=1, help="rows of each request")
    parser.add_argument("--rate", type=float, required=True, help="mean requests a second")
    parser.add_argument("--duration-s", type=float, required=True, help="counted time, after the warm-up")
    parser.add_argument("--warmup-s", type=float, default=2.0)
    parser.add_argument("--arrivals", type=Arrivals, choices=list(Arrivals), default=Arrivals.POISSON)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    (model,) = [m for m in load_repository(arguments.repository) if m.name == arguments.model]
    values = request_values(model.signature, arguments.content_type, arguments.rows, distinct=256)
    due = schedule(arguments.arrivals, arguments.rate, arguments.warmup_s + arguments.duration_s, arguments.seed)
    sent = generate(
        arguments.broker, model.topics.requests, model.topics.predictions, values, arguments.content_type, due
    )
    print(json.dumps(report(sent, arguments.warmup_s)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
