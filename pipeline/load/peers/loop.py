"""The hand-written loop: consume a chunk, run the model once, produce each prediction; commit what is acknowledged.

What a careful engineer writes with confluent-kafka alone: one thread besides librdkafka's, at-least-once with an
idempotent producer, and the bytes, key and headers that Sluice writes.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from pipeline.load.peers.arguments import PeerArguments, peer_arguments
from pipeline.load.peers.model import OnnxModel

CHUNK_MESSAGES = 4096
POLL_S = 0.05
COMMIT_INTERVAL_S = 0.1


@dataclass(slots=True)
class Chunk:
    """The messages of one poll: how many predictions are not acknowledged, and where the next poll goes on."""

    missing: int
    next_offsets: dict[int, int] = field(default_factory=dict)

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        """Delivery report of one prediction; a failed one ends the process, so its request is read again."""
        if error is not None:
            raise KafkaException(error)
        self.missing -= 1


class Loop:
    """The loop and what it holds between two polls."""

    def __init__(self, arguments: PeerArguments) -> None:
        self.requests, self.predictions = arguments.requests, arguments.predictions
        self.label = arguments.label
        self.model = OnnxModel(arguments.onnx)
        self.consumer = Consumer(
            {
                "bootstrap.servers": arguments.broker,
                "group.id": arguments.group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "partition.assignment.strategy": "cooperative-sticky",
                "check.crcs": True,
                "fetch.queue.backoff.ms": 5,
            }
        )
        self.producer = Producer(
            {"bootstrap.servers": arguments.broker, "enable.idempotence": True, "linger.ms": arguments.linger_ms}
        )
        self.running = True
        self.dwell_ms = 0
        self.chunks: deque[Chunk] = deque()
        self.next_commit_s = 0.0

    def run(self) -> None:
        """Until `stop`: then everything is acknowledged and committed before it returns."""
        self.consumer.subscribe([self.requests], on_assign=lambda *_: print("ready", flush=True))
        while self.running:
            messages = self.consumer.consume(CHUNK_MESSAGES, POLL_S)
            if messages:
                self.answer(messages)
            self.producer.poll(0)
            self.commit()
        self.producer.flush()
        self.commit(last=True)
        self.consumer.close()

    def answer(self, messages: list[Any]) -> None:
        """One model run over the chunk of messages, one prediction for each."""
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
        scores = self.model([message.value() for message in messages])
        width = scores.nbytes // len(messages)
        values = scores.tobytes()
        chunk = Chunk(len(messages))
        self.chunks.append(chunk)
        delivered, next_offsets = chunk.delivered, chunk.next_offsets
        produce, requests, topic, label = self.producer.produce, self.requests, self.predictions, self.label
        now_ms, dwell_ms, at = time.time_ns() // 1_000_000, 0, 0
        for message in messages:
            partition, offset = message.partition(), message.offset()
            source = request_id = f"{requests}/{partition}/{offset}"
            content_type = "application/json"
            for name, value in message.headers() or ():
                if name == "request-id":
                    request_id = value
                elif name == "content-type":
                    content_type = value
            dwell_ms += now_ms - message.timestamp()[1]
            prediction = values[at : at + width]
            at += width
            headers: list[tuple[str, str | bytes | None]] = [
                ("request-id", request_id),
                ("content-type", content_type),
                ("status", b"ok"),
                ("model", label),
                ("source", source),
            ]
            while True:
                try:
                    produce(topic, prediction, message.key(), on_delivery=delivered, headers=headers)
                    break
                except BufferError:  # librdkafka's queue is full: serve delivery reports until there is room
                    self.producer.poll(POLL_S)
            next_offsets[partition] = offset + 1
        self.dwell_ms += dwell_ms

    def commit(self, *, last: bool = False) -> None:
        """Commit past the chunks whose predictions are all acknowledged, at most every `COMMIT_INTERVAL_S`."""
        if not last and time.monotonic() < self.next_commit_s:
            return
        done: dict[int, int] = {}
        while self.chunks and self.chunks[0].missing == 0:
            done.update(self.chunks.popleft().next_offsets)
        if done:
            offsets = [TopicPartition(self.requests, partition, offset) for partition, offset in done.items()]
            self.consumer.commit(offsets=offsets, asynchronous=not last)  # type: ignore[call-overload]
        self.next_commit_s = time.monotonic() + COMMIT_INTERVAL_S

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.running = False


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    arguments = peer_arguments(__doc__ or "")
    loop = Loop(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, loop.stop)
    if arguments.quiet_gc:  # what is loaded stays, and a chunk's messages are not worth five collections
        gc.freeze()
        gc.set_threshold(100_000, 20, 20)
    loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
