"""The producer process of a bench: fills a request topic before anyone is measured.

Request i goes to partition ``i % partitions`` and so has offset ``i // partitions`` in a fresh topic: who reads
a prediction's ``source`` knows which request it answers.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.load.requests import key_of, request_values
from pipeline.models import load_repository
from topics.connect import Connection
from topics.errors import undelivered
from topics.records import Header

__all__ = ["preload", "traceparent"]


def preload(
    broker: str,
    topic: str,
    values: list[bytes],
    count: int,
    partitions: int,
    content_type: str,
    sampled: float | None = None,
) -> None:
    """Produce ``count`` requests, cycling through ``values``; returns when all are acknowledged.

    With ``sampled``, each has a ``traceparent`` of its own, and that share of them asks to be recorded.
    """
    producer = Connection(broker).producer(linger_ms=50)
    same: list[tuple[str, str | bytes | None]] = [(str(Header.CONTENT_TYPE), content_type.encode())]
    for index, value in enumerate(itertools.islice(itertools.cycle(values), count)):
        headers = same if sampled is None else [*same, (str(Header.TRACEPARENT), traceparent(index, sampled))]
        while True:
            try:
                producer.produce(
                    topic, value, key_of(index), index % partitions, on_delivery=_delivered, headers=headers
                )
                break
            except BufferError:  # librdkafka's queue is full
                producer.poll(0.1)
        if index % 1000 == 0:
            producer.poll(0)
    producer.flush()


def traceparent(index: int, sampled: float) -> bytes:
    """The trace of request ``index``: evenly spread, ``sampled`` of them ask to be recorded."""
    recorded = int((index + 1) * sampled) > int(index * sampled)
    return b"00-%032x-%016x-%02x" % (index + 1, index + 1, recorded)


def _delivered(error: KafkaError | None, message: Message) -> None:
    if (failed := undelivered(error, message)) is not None:
        raise KafkaException(failed)


def main() -> int:
    """Preload one topic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--repository", required=True, type=Path, help="model repository that holds --model")
    parser.add_argument("--model", required=True)
    parser.add_argument("--content-type", required=True)
    parser.add_argument("--count", required=True, type=int, help="requests")
    parser.add_argument("--rows", type=int, default=1, help="rows of each request")
    parser.add_argument("--distinct", type=int, default=4096, help="different requests, sent in turn")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--sampled", type=float, help="share of requests whose traceparent asks to be recorded")
    arguments = parser.parse_args()
    (model,) = [m for m in load_repository(arguments.repository) if m.name == arguments.model]
    rows, distinct, sequences = arguments.rows, arguments.distinct, model.manifest.sequences
    values = request_values(model.signature, arguments.content_type, rows, distinct, sequences=sequences)
    shape = (arguments.count, arguments.partitions, arguments.content_type, arguments.sampled)
    preload(arguments.broker, arguments.topic, values, *shape)
    return 0


if __name__ == "__main__":
    sys.exit(main())
