"""Bytewax: its Kafka source, one batched step that runs the model, its Kafka sink.

The source reads partitions without a consumer group, since Bytewax keeps offsets in snapshots of its own; they are off
here, as they are by default, so nothing is committed. The sink waits for the acknowledgement of each batch it is given.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from types import FrameType
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main

from pipeline.load.peers.arguments import PeerArguments, peer_arguments
from pipeline.load.peers.headers import answer_headers
from pipeline.load.peers.model import OnnxModel

CHUNK_MESSAGES = 4096


def create(arguments: PeerArguments) -> Dataflow:
    """The dataflow: requests, answers, predictions."""
    model, label = OnnxModel(arguments.onnx), arguments.label.encode()

    def answer(messages: list[Any]) -> Iterable[KafkaSinkMessage[Any, Any]]:
        for message, score in zip(messages, model([message.value for message in messages]), strict=True):
            source = f"{message.topic}/{message.partition}/{message.offset}".encode()
            headers = answer_headers(message.headers, source, label)
            yield KafkaSinkMessage(message.key, score.tobytes(), headers=headers)

    flow = Dataflow("answers")
    source = KafkaSource([arguments.broker], [arguments.requests], batch_size=CHUNK_MESSAGES)
    linger_ms, idempotent = str(arguments.linger_ms), "true"
    settings = {"linger.ms": linger_ms, "enable.idempotence": idempotent}
    answers = op.flat_map_batch("model", op.input("requests", flow, source), answer)
    op.output("predictions", answers, KafkaSink([arguments.broker], arguments.predictions, settings))
    return flow


def _stop(number: int, frame: FrameType | None) -> None:
    os._exit(0)  # it has no other end than an exception, which it would report; the sink has flushed what is answered


def main() -> None:
    """Run until SIGTERM or SIGINT, one worker in one process, as ``python -m bytewax.run`` does."""
    flow = create(peer_arguments(__doc__ or ""))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    print("ready", flush=True)
    cli_main(flow)


if __name__ == "__main__":
    main()
