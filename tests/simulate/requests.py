"""The requests of a schedule, and what may become of each."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from confluent_kafka import Message

from topics.records import JSON, RAW

__all__ = ["ROWS_EACH", "TOPIC", "Request", "request_of", "twin_of"]

TOPIC = "m.requests"
ROWS_EACH = 32  # row r of request n holds the number n * ROWS_EACH + r: float32 keeps it exactly

KINDS = ("plain",) * 12 + ("late", "late", "bad", "header", "poison", "big", "large", "large", "json")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A request and its message; ``kind`` says what is the matter with it."""

    number: int
    kind: str
    rows: int
    partition: int
    offset: int
    message: Message
    deadline_ms: float
    expires: bool = False  # by the model's SLO, where the header says nothing

    @property
    def answer(self) -> bytes:
        """A raw prediction's bytes: twice what was asked."""
        return _pairs(self.number, self.rows, 2)

    def may_be(self, status: str) -> bool:
        """Whether that is a right outcome; a good one may also be rejected where its batch failed with it alone."""
        if status == "expired":
            return self.kind == "late" or (self.expires and self.kind not in ("bad", "header"))
        return status == ("rejected" if self.kind in ("bad", "header", "poison", "big") else "ok")


def request_of(
    random: Random,
    number: int,
    partition: int,
    offset: int,
    unix_ms: float,
    *,
    kinds: tuple[str, ...],
    rows_max: int,
    named: bool,
) -> Request:
    """One at random; its key belongs to its partition. ``named`` ones all have an id."""
    kind = random.choice(kinds or KINDS)
    rows = random.randint(rows_max + 1, min(3 * rows_max, ROWS_EACH)) if kind == "large" else random.randint(1, 2)
    deadline_ms = 0.0
    headers: list[tuple[str, str | bytes | None]] = [("content-type", RAW.encode())]
    value = _pairs(number, rows, 1)
    if kind == "late":
        deadline_ms = float(int(unix_ms) + random.randint(0, 60))
        headers.append(("deadline-ms", b"%d" % int(deadline_ms)))
    elif kind == "bad":
        value = random.choice([b"", b"abc", value[:-1]])
    elif kind == "header":
        headers.append(("priority", b"urgent"))
    elif kind == "json":
        headers = [("content-type", JSON.encode())]
        value = _json(number, rows)
    if random.random() < 0.1 or named:
        headers.append(("request-id", b"id-%d" % number))
    key = b"%d" % (partition + 10 * random.randint(0, 2))
    message = _message(partition, offset, unix_ms, key, value, headers)
    return Request(number, kind, rows, partition, offset, message, deadline_ms)


def twin_of(random: Random, other: Request, partition: int, offset: int, unix_ms: float) -> Request:
    """The same id and body once more, anywhere; what may be late has a deadline of its own, or none."""
    message, kind, deadline_ms = other.message, other.kind, 0.0
    headers: list[tuple[str, str | bytes | None]] = [
        (each[0], each[1]) for each in message.headers() or () if each[0] != "deadline-ms"
    ]
    if kind in ("plain", "late"):
        kind = random.choice(["plain", "late"])
        if kind == "late":
            deadline_ms = other.deadline_ms or float(int(unix_ms))
            deadline_ms += random.choice([0, random.randint(-20, 60)])
            headers.append(("deadline-ms", b"%d" % int(deadline_ms)))
    key = b"%d" % (partition + 10 * random.randint(0, 2))
    message = _message(partition, offset, unix_ms, key, message.value(), headers)
    return Request(other.number, kind, other.rows, partition, offset, message, deadline_ms)


def _message(
    partition: int,
    offset: int,
    unix_ms: float,
    key: bytes,
    value: bytes | None,
    headers: list[tuple[str, str | bytes | None]],
) -> Message:
    return Message(
        topic=TOPIC,
        partition=partition,
        offset=offset,
        key=key,
        value=value,
        headers=headers,
        timestamp=(1, int(unix_ms)),
    )


def _pairs(number: int, rows: int, times: int) -> bytes:
    ids = np.arange(number * ROWS_EACH, number * ROWS_EACH + rows, dtype=np.float32) * times
    return np.repeat(ids, 2).tobytes()


def _json(number: int, rows: int) -> bytes:
    data = ",".join(f"{number * ROWS_EACH + row}.0,{number * ROWS_EACH + row}.0" for row in range(rows))
    return b'{"inputs":[{"name":"x","shape":[%d,2],"datatype":"FP32","data":[%s]}]}' % (rows, data.encode())
