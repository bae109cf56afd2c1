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
from topics.records import Header

__all__ = ["preload"]


def preload(broker: str, topic: str, values: list[bytes], count: int, partitions: int, content_type: str) -> None:
    """Produce ``count`` requests, cycling through ``values``; returns when all are acknowledged."""
    producer = Connection(broker).producer(linger_ms=50)
    headers: list[tuple[str, str | bytes | None]] = [(str(Header.CONTENT_TYPE), content_type.encode())]
    for index, value in enumerate(itertools.islice(itertools.cycle(values), count)):
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


def _delivered(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        raise KafkaException(error)


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
    arguments = parser.parse_args()
    (model,) = [m for m in load_repository(arguments.repository) if m.name == arguments.model]
    sequences = model.manifest.sequences
    shape = (arguments.rows, arguments.distinct)
    values = request_values(model.signature, arguments.content_type, *shape, sequences=sequences)
    preload(arguments.broker, arguments.topic, values, arguments.count, arguments.partitions, arguments.content_type)
    return 0


if __name__ == "__main__":
    sys.exit(main())
