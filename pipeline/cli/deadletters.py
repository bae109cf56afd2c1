"""`sluice deadletters`: look at what was rejected, and replay it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.broker import (
    BrokerOption,
    JsonOption,
    KafkaConfigOption,
    KafkaOption,
    broker_of,
    check_model,
    kafka_of,
)
from pipeline.cli.consume import text_or_base64

if TYPE_CHECKING:
    from confluent_kafka import Message

    from topics.client.stream import Outgoing
    from topics.connect import Connection
    from topics.records import Headers

__all__ = ["DeadLetter", "app"]

app = typer.Typer(no_args_is_help=True, help="Look at what a model rejected, and replay it.")

Model = Annotated[str, typer.Argument(help="Name of the model.", show_default=False)]
Code = Annotated[str | None, typer.Option(help="Only those with this x-error-code.", show_default=False)]
Source = Annotated[
    str | None, typer.Option(metavar="TOPIC/PARTITION/OFFSET", help="Only the one of this request.", show_default=False)
]

SHOWN_BYTES_MAX = 4096  # of a value that is not text, as hex; --json gives all of it


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record of a dead-letter topic, read leniently: a header that is missing is None."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @classmethod
    def of(cls, message: Message[Any, Any]) -> DeadLetter:
        from topics.headers import headers_of

        place = (message.partition() or 0, message.offset() or 0, message.timestamp()[1])
        return cls(*place, message.key(), message.value(), tuple(headers_of([message])[0] or ()))

    def header(self, name: str) -> str | None:
        """The last one of that name, as UTF-8 with what is not replaced."""
        found = [value for said, value in self.headers if said == name and value is not None]
        return found[-1].decode(errors="replace") if found else None

    def to_dict(self) -> dict[str, Any]:
        """What `list` prints of it."""
        from topics.records import Header

        return {
            "partition": self.partition,
            "offset": self.offset,
            "timestamp_ms": self.timestamp_ms,
            "code": self.header(Header.ERROR_CODE),
            "reason": self.header(Header.ERROR_REASON),
            "stage": self.header(Header.ERROR_STAGE),
            "source": self.header(Header.SOURCE),
            "request_id": self.header(Header.REQUEST_ID),
            **text_or_base64("key", self.key),
            "value_bytes": None if self.value is None else len(self.value),
        }

    def to_line(self) -> dict[str, Any]:
        """What `sluice consume --dead-letters` prints of it: the value too."""
        from topics.records import Header

        told = {"status": self.header(Header.STATUS), "model": self.header(Header.MODEL)}
        return self.to_dict() | told | text_or_base64("value", self.value)

    def replayed(self, dropped: tuple[str, ...] = ()) -> Outgoing:
        """The request again: its key, value and headers, without what the pipeline added and ``dropped``."""
        from topics.client.stream import Outgoing
        from topics.records import Header

        added = {Header.STATUS, Header.SOURCE, Header.MODEL, *dropped}
        headers = [
            # The answer's stage times stand where the request asked for them.
            (name, b"1" if name == Header.STAGES else value)
            for name, value in self.headers
            if name not in added and not name.startswith("x-error-")
        ]
        return Outgoing(self.value, self.key, headers)


@app.command("list")
def list_(
    model: Model,
    code: Code = None,
    limit: Annotated[int, typer.Option(help="Print at most the newest so many; all are counted.", min=0)] = 100,
    broker: BrokerOption = None,
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the dead letters by code and print the newest: code, reason, stage, source and key.

    For instance: sluice deadletters list digits --code wrong-shape
    """
    from pipeline.cli.output import emit

    codes: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for letter in _read(_connection(broker, kafka, kafka_config), model, _selected(code, None)):
            said = letter.to_dict()
            codes[said["code"] or "unknown"] += 1
            yield said

    # Partitions come as they are fetched. Of nothing the largest would not be looked for, and nothing counted.
    newest = nlargest(max(1, limit), counted(), lambda said: (said["timestamp_ms"], said["partition"], said["offset"]))
    letters = newest[:limit][::-1]
    lines = [f"{codes.total()} dead letters" + "".join(f"  {name} {n}" for name, n in codes.most_common())]
    lines += [
        f"{said['partition']}/{said['offset']}  {said['code']}  at {said['stage']}  from {said['source']}"
        f"  key {said.get('key', said.get('key_base64'))}  {said['reason']}"
        for said in letters
    ]
    emit({"count": codes.total(), "codes": dict(codes), "dead_letters": letters}, as_json, table=lines)


@app.command()
def show(
    model: Model,
    place: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="As `list` prints it.", show_default=False)],
    broker: BrokerOption = None,
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print one dead letter whole: its headers, and its value as text or, where it is not text, in hex.

    For instance: sluice deadletters show digits 0/12
    """
    from pipeline.cli.output import emit
    from pipeline.core.errors import ConfigError, SluiceError

    partition, slash, offset = place.partition("/")
    if not (slash and partition.isdecimal() and offset.isdecimal()):
        raise ConfigError(f"{place}: write PARTITION/OFFSET, such as 0/12")
    where = (int(partition), int(offset))
    letters = _read(
        _connection(broker, kafka, kafka_config), model, lambda letter: (letter.partition, letter.offset) == where
    )
    letter = next(letters, None)
    if letter is None:
        raise SluiceError(f"no dead letter of {model} at {place}")
    headers = [{"name": name, **text_or_base64("value", value)} for name, value in letter.headers]
    lines = [f"{name}: {said}" for h in headers for name, said in [(h["name"], h.get("value", h.get("value_base64")))]]
    key = letter.to_dict()
    lines += [f"key: {key.get('key', key.get('key_base64'))}", "", *_shown(letter.value)]
    emit({**key, "headers": headers, **text_or_base64("value", letter.value)}, as_json, table=lines)


@app.command()
def replay(
    model: Model,
    code: Code = None,
    source: Source = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    drop_header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave this header out, such as a deadline-ms long past; may be repeated."),
    ] = None,
    broker: BrokerOption = None,
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send dead letters to the request topic again, with their key, value, headers and request id.

    Those that lie there now are taken once; what is rejected again becomes a new dead letter. For instance:
    sluice deadletters replay digits --code model-failed --dry-run
    """
    from pipeline.cli.output import emit
    from pipeline.core.errors import ConfigError
    from topics.client.stream import send_all
    from topics.names import topics_of

    if everything == bool(code or source):
        raise ConfigError("say which: --code CODE, --source TOPIC/PARTITION/OFFSET, or --all")
    connection = _connection(broker, kafka, kafka_config)
    letters = _read(connection, model, _selected(code, source))
    topic = topics_of(model).requests
    if dry_run:
        count = sum(1 for _ in letters)
    else:
        dropped = tuple(drop_header or ())
        count = send_all(connection, topic, (letter.replayed(dropped) for letter in letters))
    said = f"would replay {count} requests" if dry_run else f"replayed {count} requests"
    emit({"replayed": count, "dry_run": dry_run, "topic": topic}, as_json, table=[f"{said} to {topic}"])


def _connection(broker: str | None, kafka: list[str] | None, kafka_config: Path | None) -> Connection:
    from topics.connect import Connection

    return Connection(broker_of(broker), kafka_of(kafka, kafka_config))


def _selected(code: str | None, source: str | None) -> Callable[[DeadLetter], bool]:
    from topics.records import Header

    def wanted(letter: DeadLetter) -> bool:
        return code in (None, letter.header(Header.ERROR_CODE)) and source in (None, letter.header(Header.SOURCE))

    return wanted


def _read(connection: Connection, model: str, wanted: Callable[[DeadLetter], bool]) -> Iterator[DeadLetter]:
    """What lies on the dead-letter topic now."""
    from topics.client import Reader
    from topics.names import topics_of

    check_model(model)
    with Reader(connection, topics_of(model).dead_letters, "earliest", to_end=True) as reader:
        yield from filter(wanted, map(DeadLetter.of, reader.read_to_end()))


def _shown(value: bytes | None) -> list[str]:
    if value is None:
        return ["(no value)"]
    text = value.decode(errors="replace")
    if "\ufffd" not in text and all(c.isprintable() or c in "\n\t\r" for c in text):
        return text.splitlines() or ["(empty value)"]
    part = value[:SHOWN_BYTES_MAX]
    lines = [f"{at:08x}  {part[at : at + 32].hex(' ', 2)}" for at in range(0, len(part), 32)]
    return lines + ([f"... {len(value) - len(part)} more bytes"] if len(part) < len(value) else [])
