"""Consuming alone: reads its partitions to their ends with the worker's settings, looks at nothing, tells the rate.

The bytes a second that librdkafka can bring into a Python process at all; no worker reads faster. With --copy it also
does the least that any worker must: look at all floats for one that is not finite, and lay them where a device reads.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipeline.intake.consumer import consumer_settings

CHUNK_MESSAGES = 4096
POLL_S = 0.05
SLOT_BYTES = 2 * 1024 * 1024  # more than a request of 1 MB


def main() -> None:
    """Read ``--count`` messages, print the figures as JSON; the first tenth is the warm-up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", required=True, type=int)
    parser.add_argument("--count", required=True, type=int)
    parser.add_argument(
        "--warmup", required=True, type=float, help="share of the messages read before the clock starts"
    )
    parser.add_argument("--copy", action="store_true", help="look for what is not finite, and copy into one buffer")
    asked = parser.parse_args()
    slot = np.zeros(SLOT_BYTES // 4, np.float32)
    consumer = Consumer(
        consumer_settings(asked.broker, "bench-consume", offset_reset="earliest", instance_id=None, extra={})
    )
    consumer.assign([TopicPartition(asked.topic, partition, 0) for partition in range(asked.partitions)])
    messages = content = 0
    began: tuple[float, float, int, int] | None = None
    while messages < asked.count:
        first = consumer.poll(POLL_S)
        if first is None:
            continue
        for message in (first, *consumer.consume(CHUNK_MESSAGES, 0)):
            if message.error() is not None:
                raise KafkaException(message.error())
            messages += 1
            content += len(message)
            if asked.copy:
                _take(message.value() or b"", slot)
        if began is None and messages >= asked.count * asked.warmup:
            began = (time.monotonic(), _cpu_s(), messages, content)
    assert began is not None, "the warm-up is a share"
    took_s, cpu_s, messages, content = (
        time.monotonic() - began[0],
        _cpu_s() - began[1],
        messages - began[2],
        content - began[3],
    )
    consumer.close()
    print(json.dumps({"bytes_per_s": content / took_s, "cpu_us_per_message": cpu_s / messages * 1e6}))


def _take(value: bytes, slot: np.ndarray[Any, Any]) -> None:
    """As if all of ``value`` were floats: the few bytes around them in an Arrow stream change nothing here."""
    floats = np.frombuffer(value, np.float32, len(value) // 4)
    np.isfinite(floats).all()
    slot[: len(floats)] = floats


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
