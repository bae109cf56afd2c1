"""aiokafka by hand: `getmany` a chunk, run the model once, `send` each prediction, commit when all are acknowledged.

What a careful engineer writes with asyncio alone: at-least-once with an idempotent producer, and the bytes, key and
headers that Sluice writes. The next chunk is answered while the last one's predictions are on their way.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from pipeline.load.peers.arguments import PeerArguments, peer_arguments
from pipeline.load.peers.headers import answer_headers
from pipeline.load.peers.model import OnnxModel

CHUNK_MESSAGES = 4096
POLL_MS = 50


async def run(arguments: PeerArguments) -> None:
    """Until SIGTERM or SIGINT: then everything is acknowledged and committed before it returns."""
    model, label = OnnxModel(arguments.onnx), arguments.label.encode()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    consumer: Any = AIOKafkaConsumer(
        arguments.requests,
        bootstrap_servers=arguments.broker,
        group_id=arguments.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    producer: Any = AIOKafkaProducer(
        bootstrap_servers=arguments.broker, enable_idempotence=True, linger_ms=round(arguments.linger_ms)
    )
    async with producer, consumer:
        print("ready", flush=True)
        acknowledging: asyncio.Task[None] | None = None
        while not stopped.is_set():
            chunks = await consumer.getmany(timeout_ms=POLL_MS, max_records=CHUNK_MESSAGES)
            messages = [message for chunk in chunks.values() for message in chunk]
            if not messages:
                continue
            sent = []
            for message, score in zip(messages, model([message.value for message in messages]), strict=True):
                place = f"{message.topic}/{message.partition}/{message.offset}".encode()
                headers = answer_headers(message.headers, place, label)
                sent.append(await producer.send(arguments.predictions, score.tobytes(), message.key, headers=headers))
            if acknowledging is not None:
                await acknowledging
            offsets = {partition: chunk[-1].offset + 1 for partition, chunk in chunks.items()}
            acknowledging = asyncio.create_task(_commit(consumer, sent, offsets))
        if acknowledging is not None:
            await acknowledging


async def _commit(consumer: Any, sent: list[Any], offsets: dict[TopicPartition, int]) -> None:
    """Commit a chunk once all its predictions are acknowledged; a failed one ends the process."""
    await asyncio.gather(*sent)
    await consumer.commit(offsets)


if __name__ == "__main__":
    asyncio.run(run(peer_arguments(__doc__ or "")))
