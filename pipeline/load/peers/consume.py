"""Consuming alone: reads its partitions to their ends with the worker's settings, looks at nothing, tells the rate.

The bytes a second that librdkafka can bring into a Python process at all; no worker reads faster.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

from pipeline.intake.consumer import consumer_settings

CHUNK_MESSAGES = 4096
POLL_S = 0.05


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
    asked = parser.parse_args()
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


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
