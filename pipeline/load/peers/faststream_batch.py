"""FastStream: a batch subscriber on its confluent-kafka broker runs the model once and publishes each prediction.

A batch that it publishes has one set of headers for all, so each prediction is published by itself. A batch is
acknowledged, which commits it, once the broker has acknowledged all its predictions.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker

from pipeline.load.peers.arguments import PeerArguments, peer_arguments
from pipeline.load.peers.headers import answer_headers
from pipeline.load.peers.model import OnnxModel

CHUNK_MESSAGES = 4096
POLL_S = 0.05


def create(arguments: PeerArguments) -> FastStream:
    """The application with its one subscriber, which is given librdkafka's messages as they are."""
    broker = KafkaBroker(
        arguments.broker,
        linger_ms=round(arguments.linger_ms),
        enable_idempotence=True,
        id_generator=str,  # empty: no header `correlation_id`, which the others do not write
        apply_types=False,
        logger=None,
    )
    model, label = OnnxModel(arguments.onnx), arguments.label.encode()

    async def as_they_are(batch: Any) -> Any:
        return batch.raw_message

    requests = broker.subscriber(
        arguments.requests,
        group_id=arguments.group,
        auto_offset_reset="earliest",
        batch=True,
        max_records=CHUNK_MESSAGES,
        polling_interval=POLL_S,
        ack_policy=AckPolicy.ACK,
        decoder=as_they_are,
    )

    @requests  # type: ignore[untyped-decorator]
    async def answer(messages: tuple[Any, ...]) -> None:
        sent = []
        for message, score in zip(messages, model([message.value() for message in messages]), strict=True):
            source = f"{message.topic()}/{message.partition()}/{message.offset()}".encode()
            headers = {name: value.decode() for name, value in answer_headers(message.headers(), source, label)}
            to = {"topic": arguments.predictions, "key": message.key(), "headers": headers}
            sent.append(await broker.publish(score.tobytes(), **to, no_confirm=True))
        await asyncio.gather(*sent)

    return FastStream(broker, logger=None)


async def main() -> None:
    """Run until SIGTERM or SIGINT, which it handles itself."""
    app = create(peer_arguments(__doc__ or ""))
    app.after_startup(lambda: print("ready", flush=True))
    await app.run(log_level=logging.WARNING)


if __name__ == "__main__":
    asyncio.run(main())
