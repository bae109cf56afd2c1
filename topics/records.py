"""What travels: header names, statuses, and the three terminal records as Kafka key, value and headers.

The hot path of a worker reads whole chunks (`pipeline.admit`); these records are the same contract for
clients, tools and tests, one message at a time.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "ARROW",
    "JSON",
    "PRIORITY_DEFAULT",
    "RAW",
    "Header",
    "Headers",
    "Request",
    "Status",
    "Terminal",
    "new_request_id",
    "source_of",
]

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
RAW = "application/octet-stream"

PRIORITY_DEFAULT = 5  # of 0 to 9, the most important: a request's among those of its model, a model's among models

Headers = Sequence[tuple[str, bytes | None]]
"""Headers as librdkafka gives them: names may repeat, a value may be null."""


class Header(StrEnum):
    """Header names of the contract."""

    REQUEST_ID = "request-id"
    CONTENT_TYPE = "content-type"
    DEADLINE_MS = "deadline-ms"
    PRIORITY = "priority"
    TRACEPARENT = "traceparent"
    TRACESTATE = "tracestate"
    STATUS = "status"
    MODEL = "model"
    SOURCE = "source"
    STAGES = "stages"
    RUNG = "rung"
    ERROR_CODE = "x-error-code"
    ERROR_REASON = "x-error-reason"
    ERROR_STAGE = "x-error-stage"


class Status(StrEnum):
    """The ``status`` header of a record on a predictions topic."""

    OK = "ok"
    EXPIRED = "expired"
    REJECTED = "rejected"


_READ = frozenset(
    str(name)
    for name in (
        Header.STATUS,
        Header.REQUEST_ID,
        Header.SOURCE,
        Header.MODEL,
        Header.STAGES,
        Header.RUNG,
        Header.ERROR_CODE,
        Header.ERROR_REASON,
        Header.ERROR_STAGE,
    )
)


def new_request_id() -> str:
    """A fresh, unique request id."""
    return uuid.uuid4().hex


def source_of(topic: str, partition: int, offset: int) -> str:
    """``topic/partition/offset``: the ``source`` header, and a request's id where it brought none."""
    return f"{topic}/{partition}/{offset}"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a client produces it. ``deadline_ms`` is absolute, Unix epoch."""

    value: bytes
    key: bytes | None = None
    request_id: str | None = None
    content_type: str = JSON
    deadline_ms: int | None = None
    priority: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    stages: bool = False

    def headers(self) -> list[tuple[str, bytes]]:
        """The Kafka headers; what is unset is left out, as is the default content type."""
        fields: dict[Header, str | None] = {
            Header.REQUEST_ID: self.request_id,
            Header.CONTENT_TYPE: None if self.content_type == JSON else self.content_type,
            Header.DEADLINE_MS: None if self.deadline_ms is None else str(self.deadline_ms),
            Header.PRIORITY: None if self.priority is None else str(self.priority),
            Header.TRACEPARENT: self.traceparent,
            Header.TRACESTATE: self.tracestate,
            Header.STAGES: "1" if self.stages else None,
        }
        return [(str(name), value.encode()) for name, value in fields.items() if value is not None]


@dataclass(frozen=True, slots=True)
class Terminal:
    """A terminal record as a consumer reads it from a predictions or a dead-letter topic.

    On a predictions topic ``status`` is ``ok``, ``expired`` or ``rejected``; on a dead-letter topic it is
    ``rejected`` and ``value`` is the request's, byte for byte.
    """

    status: Status
    value: bytes | None
    key: bytes | None
    request_id: str
    source: str
    model: str
    content_type: str
    stages: str | None = None
    error_code: str | None = None
    error_reason: str | None = None
    error_stage: str | None = None
    rung: str | None = None

    @classmethod
    def from_kafka(cls, key: bytes | None, value: bytes | None, headers: Headers | None) -> Terminal:
        """Read a record. Raises ``ValueError`` where the contract's headers are missing or not UTF-8.

        A dead letter carries its request's headers as they were, whatever is in them: only what the contract
        puts on a terminal record is read, and a content type that is not text is shown with replacements.
        """
        named = {name: raw.decode() for name, raw in headers or () if raw is not None and name in _READ}
        types = [raw.decode(errors="replace") for name, raw in headers or () if name == Header.CONTENT_TYPE and raw]
        try:
            return cls(
                status=Status(named[Header.STATUS]),
                value=value,
                key=key,
                request_id=named[Header.REQUEST_ID],
                source=named[Header.SOURCE],
                model=named[Header.MODEL],
                content_type=types[-1] if types else JSON,
                stages=named.get(Header.STAGES),
                error_code=named.get(Header.ERROR_CODE),
                error_reason=named.get(Header.ERROR_REASON),
                error_stage=named.get(Header.ERROR_STAGE),
                rung=named.get(Header.RUNG),
            )
        except KeyError as error:
            raise ValueError(f"not a Sluice record: header {error} is missing") from error
