"""Stock Faust: an agent over its own Kafka transport with ``take_events(256, within=.05)``, each prediction sent.

`take_events` is `take` that yields events, so that key, headers and offset of a request are at hand.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from typing import Any, NoReturn

import faust

from pipeline.load.peers.arguments import PeerArguments, peer_arguments
from pipeline.load.peers.model import OnnxModel

TAKE_EVENTS = 256


def create(arguments: PeerArguments, datadir: str) -> faust.App:
    """The app: settings are Faust's own except for what this bench has no use of (web server, leader topic)."""
    app = faust.App(
        arguments.group,
        broker=f"kafka://{arguments.broker}",
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        datadir=datadir,
    )
    raw: dict[str, Any] = {"key_serializer": "raw", "value_serializer": "raw", "allow_empty": True}
    requests = app.topic(arguments.requests, **raw)
    predictions = app.topic(arguments.predictions, **raw)
    model = OnnxModel(arguments.onnx)
    label = arguments.label.encode()

    @app.agent(requests)
    async def serve(stream: Any) -> None:
        async for events in stream.take_events(TAKE_EVENTS, within=arguments.within_s):
            scores = model([event.value for event in events])
            sent = []
            for event, score in zip(events, scores, strict=True):
                message = event.message
                source = f"{message.topic}/{message.partition}/{message.offset}".encode()
                named = dict(message.headers or ())
                headers = [
                    ("request-id", named.get("request-id", source)),
                    ("content-type", named.get("content-type", b"application/json")),
                    ("status", b"ok"),
                    ("model", label),
                    ("source", source),
                ]
                sent.append(await predictions.send(key=event.key, value=score.tobytes(), headers=headers))
            await asyncio.gather(*sent)  # acknowledged by the broker before take acknowledges the events

    @app.task  # type: ignore[untyped-decorator]
    async def tell_ready() -> None:
        print("ready", file=sys.__stdout__, flush=True)  # past the logger that the worker makes of stdout

    return app


def main() -> NoReturn:
    """Run as ``faust worker`` does, until SIGTERM or SIGINT."""
    arguments = peer_arguments(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="faust-") as datadir:
        app = create(arguments, datadir)
        faust.Worker(app, loglevel="WARNING", logfile=sys.stderr).execute_from_commandline()


if __name__ == "__main__":
    main()
