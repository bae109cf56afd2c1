"""Quix Streams: a streaming data frame that applies the model to each request and writes to the topic of predictions.

It hands over one message at a time, so the model runs once a request. At least once, with its own commit interval.
"""

from __future__ import annotations

import tempfile
from typing import Any

from quixstreams import Application, message_context

from pipeline.load.peers.arguments import PeerArguments, peer_arguments
from pipeline.load.peers.headers import answer_headers
from pipeline.load.peers.model import OnnxModel


def create(arguments: PeerArguments, folder: str) -> Application:
    """The application with its one data frame."""
    app = Application(
        arguments.broker,
        consumer_group=arguments.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        consumer_poll_timeout=0.05,
        state_dir=folder,
        loglevel="WARNING",
        producer_extra_config={"linger.ms": arguments.linger_ms, "enable.idempotence": True},
    )
    model, label = OnnxModel(arguments.onnx), arguments.label.encode()

    def headers_of(value: Any, key: Any, timestamp: int, headers: Any) -> Any:
        at = message_context()
        return answer_headers(headers, f"{at.topic}/{at.partition}/{at.offset}".encode(), label)

    raw: dict[str, Any] = {"key_serializer": "bytes", "value_serializer": "bytes"}
    requests = app.topic(arguments.requests, key_deserializer="bytes", value_deserializer="bytes")
    answers = app.dataframe(requests).apply(lambda value: model([value]).tobytes()).set_headers(headers_of)
    answers.to_topic(app.topic(arguments.predictions, **raw))
    return app


def main() -> None:
    """Run until SIGTERM, which it handles itself, or SIGINT."""
    with tempfile.TemporaryDirectory(prefix="quix-") as folder:
        app = create(peer_arguments(__doc__ or ""), folder)
        print("ready", flush=True)
        app.run()


if __name__ == "__main__":
    main()
