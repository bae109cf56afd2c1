"""The echo: each message of one topic is copied to another at once; what the broker itself costs a request."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from pipeline.load.peers.arguments import PeerArguments, peer_arguments

CHUNK_MESSAGES = 4096
POLL_S = 0.05


class Echo:
    """A copying loop with the settings, the key and the headers that Sluice uses."""

    def __init__(self, arguments: PeerArguments) -> None:
        self.requests, self.predictions = arguments.requests, arguments.predictions
        self.label = arguments.label
        self.consumer = Consumer(
            {
                "bootstrap.servers": arguments.broker,
                "group.id": arguments.group,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "check.crcs": True,
                "fetch.queue.backoff.ms": 5,
            }
        )
        self.producer = Producer(
            {"bootstrap.servers": arguments.broker, "enable.idempotence": True, "linger.ms": arguments.linger_ms}
        )
        self.running = True

    def run(self) -> None:
        """Until `stop`. Waits for the first message and takes along what is behind it: none waits for another."""
        self.consumer.subscribe([self.requests], on_assign=lambda *_: print("ready", flush=True))
        while self.running:
            first = self.consumer.poll(POLL_S)
            if first is not None:
                for message in (first, *self.consumer.consume(CHUNK_MESSAGES, 0)):
                    self.copy(message)
            self.producer.poll(0)
        self.producer.flush()
        self.consumer.close()

    def copy(self, message: Message) -> None:
        """Produce the message again under the answer's headers."""
        if message.error() is not None:
            raise KafkaException(message.error())
        source = f"{message.topic()}/{message.partition()}/{message.offset()}".encode()
        named = dict(message.headers() or ())
        headers = [
            ("request-id", named.get("request-id", source)),
            ("content-type", named.get("content-type", b"application/json")),
            ("status", b"ok"),
            ("model", self.label),
            ("source", source),
        ]
        self.producer.produce(self.predictions, message.value(), message.key(), on_delivery=_delivered, headers=headers)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.running = False


def _delivered(error: KafkaError | None, message: Message) -> None:
    if error is not None:
        raise KafkaException(error)


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    echo = Echo(peer_arguments(__doc__ or ""))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, echo.stop)
    echo.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
