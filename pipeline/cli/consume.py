"""`sluice consume`: a model's predictions, or its dead letters, as JSON lines."""

from __future__ import annotations

import base64
import sys
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.broker import (
    BrokerOption,
    KafkaConfigOption,
    KafkaOption,
    ModelsOption,
    broker_of,
    kafka_of,
    signature_of,
)

if TYPE_CHECKING:
    from confluent_kafka import Message

    from topics.client import Answer
    from topics.signature import Signature

__all__ = ["From", "consume", "describe", "text_or_base64"]

READ_S = 0.1


class From(StrEnum):
    """Where to begin."""

    EARLIEST = "earliest"
    LATEST = "latest"


def consume(
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    count: Annotated[int | None, typer.Option(help="Stop after so many records.", min=1, show_default=False)] = None,
    start: Annotated[From, typer.Option("--from", help="The oldest record there is, or only new ones.")] = From.LATEST,
    timeout: Annotated[
        float | None,
        typer.Option(help="Stop when nothing came for so many seconds; exit code 1 short of --count.", min=0),
    ] = None,
    dead_letters: Annotated[bool, typer.Option("--dead-letters", help="Read the dead letters instead.")] = False,
    models: ModelsOption = None,
    broker: BrokerOption = None,
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
) -> None:
    """Print what the model answers, one JSON object a line; joins no group and commits nothing.

    For instance: sluice consume digits --from earliest --count 10
    """
    from pipeline.cli.deadletters import DeadLetter
    from pipeline.core.errors import SluiceError
    from topics.client import Reader
    from topics.connect import Connection
    from topics.names import topics_of

    signature = signature_of(model, models)
    names = topics_of(model)
    topic = names.dead_letters if dead_letters else names.predictions
    printed = 0
    with Reader(Connection(broker_of(broker), kafka_of(kafka, kafka_config)), topic, start.value) as reader:
        heard_s = time.monotonic()
        while (count is None or printed < count) and (timeout is None or time.monotonic() - heard_s < timeout):
            left = 1000 if count is None else min(1000, count - printed)
            for message in reader.read(READ_S, left):
                _print_line(DeadLetter.of(message).to_line() if dead_letters else describe(message, signature))
                printed += 1
                heard_s = time.monotonic()
            sys.stdout.flush()
            reader.look()
    if count is not None and printed < count:
        raise SluiceError(f"{printed} of {count} records came; none for {timeout:g} s")


def describe(message: Message[Any, Any], signature: Signature | None) -> dict[str, Any]:
    """One terminal record as printed: ``outputs`` of a prediction, ``code`` and ``reason`` of a notice."""
    from topics.client import Answer
    from topics.client.messages import notice_of
    from topics.records import Status

    place = {"partition": message.partition(), "offset": message.offset(), "timestamp_ms": message.timestamp()[1]}
    try:
        answer = Answer.of(message, signature)
    except ValueError as error:
        return {**text_or_base64("key", message.key()), **place, "error": str(error)}
    record = answer.record
    line = {
        "request_id": record.request_id,
        **text_or_base64("key", record.key),
        "status": record.status.value,
        "model": record.model,
        "source": record.source,
        **place,
    }
    if record.status is Status.OK:
        line |= _outputs(answer)
    else:
        code, reason = notice_of(record)
        line |= {"code": code, "reason": reason}
    if record.rung is not None:
        line["rung"] = record.rung
    return line | _stages(record.stages)


def text_or_base64(name: str, value: bytes | None) -> dict[str, str | None]:
    """``{name: text}``, or ``{name_base64: ...}`` where ``value`` is not UTF-8."""
    try:
        return {name: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value or b"").decode()}


def _outputs(answer: Answer) -> dict[str, Any]:
    from topics.errors import TopicsError
    from topics.records import RAW

    record = answer.record
    if answer.signature is None and record.content_type == RAW:
        return {"outputs_base64": base64.b64encode(record.value or b"").decode()}
    try:
        return {"outputs": answer.outputs()}
    except TopicsError as error:
        return {"error": str(error), **text_or_base64("value", record.value)}


def _stages(text: str | None) -> dict[str, Any]:
    import orjson

    if text is None:
        return {}
    try:
        return {"stages": orjson.loads(text)}
    except orjson.JSONDecodeError:
        return {"stages": text}


def _print_line(line: dict[str, Any]) -> None:
    import orjson

    text = orjson.dumps(line, default=lambda array: array.tolist(), option=orjson.OPT_SERIALIZE_NUMPY)
    sys.stdout.write(text.decode() + "\n")
