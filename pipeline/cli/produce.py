"""`sluice produce`: requests from JSON lines, NumPy or Arrow files to a model's request topic."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.broker import (
    BrokerOption,
    JsonOption,
    KafkaConfigOption,
    KafkaOption,
    ModelsOption,
    broker_of,
    kafka_of,
    named_values,
    signature_of,
)

if TYPE_CHECKING:
    from topics.client.stream import Outgoing

__all__ = ["produce"]


def produce(
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    source: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="JSON lines, .npy, .npz, .arrow or .arrows; - is standard input.")
    ] = "-",
    key: Annotated[str | None, typer.Option(help="Of every request that brings none.", show_default=False)] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(help="Milliseconds from the moment each is sent.", min=1, show_default=False)
    ] = None,
    content_type: Annotated[
        str | None,
        typer.Option(help="json, arrow or raw; JSON lines are sent as JSON and files as Arrow if not given."),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header of every request; may be repeated.")
    ] = None,
    rows_per_request: Annotated[int, typer.Option(help="Rows of NumPy and Arrow files in each request.", min=1)] = 1,
    models: ModelsOption = None,
    broker: BrokerOption = None,
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send requests and say how many Kafka acknowledged; their answers are read with `sluice consume`.

    A line of JSON is a full Open Inference Protocol request; or one row, {"image": [...]}; or either as "inputs"
    beside its own "key" and "headers": {"inputs": {"image": [...]}, "key": "k", "headers": {"priority": "9"}}.

    For instance: sluice produce digits images.npy --rows-per-request 64
    """
    from pipeline.cli.output import emit
    from pipeline.cli.sources import Form, read_requests
    from pipeline.core.errors import ConfigError
    from topics.client.messages import content_type_of
    from topics.client.stream import send_all
    from topics.connect import Connection
    from topics.names import topics_of

    if source != "-" and not Path(source).exists():  # before Kafka is asked anything
        raise ConfigError(f"{source}: no such file")
    signature = signature_of(model, models)
    form = Form(
        tensors=signature.inputs if signature else None,
        content_type=content_type_of(content_type) if content_type else None,
        key=os.fsencode(key) if key is not None else None,
        headers=named_values("--header", header),
        deadline_ms=None if deadline_ms is None else lambda: time.time_ns() // 1_000_000 + deadline_ms,
        rows_per_request=rows_per_request,
    )
    topic = topics_of(model).requests
    started_s = time.monotonic()
    requests = _watched(read_requests(source, form), shown=source != "-" and sys.stderr.isatty() and not as_json)
    produced = send_all(Connection(broker_of(broker), kafka_of(kafka, kafka_config)), topic, requests)
    seconds = time.monotonic() - started_s
    emit(
        {"produced": produced, "topic": topic, "seconds": round(seconds, 3)},
        as_json,
        table=[f"produced {produced} requests to {topic}"],
    )


def _watched(requests: Iterable[Outgoing], *, shown: bool) -> Iterable[Outgoing]:
    """``requests``, with a progress line on a terminal's standard error."""
    if not shown:
        return requests
    from rich.console import Console
    from rich.progress import track

    return track(requests, "producing", console=Console(stderr=True), transient=True)
