"""Headers and values of the terminal records: predictions, expired and rejected notices, dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from pipeline.admit import Admitted
from pipeline.intake import Chunk, RawHeaders
from pipeline.models import Model
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import JSON, Header, Status, source_of

__all__ = [
    "HeaderList",
    "Pair",
    "Record",
    "dead_letter_headers",
    "expirations",
    "notice_headers",
    "notice_value",
    "rejection",
    "request_id_of",
]

Pair = tuple[str, str | bytes | None]
HeaderList = list[Pair]

REASON_CHARS_MAX = 1_000  # a reason may quote the request; the header must not grow with it
# A notice repeats of a request what a good one may have: else it could be too large for a topic that took the request.
LIMITS = RequestLimits()

# What a dead letter says of itself. A replayed request may carry the last dead letter's: overwritten, never stacked.
_OWN = frozenset(
    str(name)
    for name in (
        Header.REQUEST_ID,
        Header.STATUS,
        Header.MODEL,
        Header.SOURCE,
        Header.RUNG,
        Header.STAGES,  # of a request it asks for stages; a dead letter has none to tell
        Header.ERROR_CODE,
        Header.ERROR_REASON,
        Header.ERROR_STAGE,
    )
)


_TOLD = frozenset(str(name) for name in (Header.REQUEST_ID, Header.TRACEPARENT, Header.TRACESTATE))


class Record(NamedTuple):
    """One record to produce."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: HeaderList


def request_id_of(headers: RawHeaders, source: str) -> str:
    """The request's own id where it brought one that is text, else its source; for requests that may be bad."""
    for name, raw in headers or ():
        if name == Header.REQUEST_ID and raw:
            try:
                return raw.decode()
            except UnicodeDecodeError:
                break
    return source


def dead_letter_headers(chunk: Chunk, index: int, model: str, code: Code, reason: str, stage: str) -> HeaderList:
    """The request's own headers as they were, then why and where it was rejected."""
    headers = chunk.headers()[index]
    source = source_of(chunk.topic, chunk.partition, chunk.offsets[index])
    kept: HeaderList = [(name, raw) for name, raw in headers or () if name not in _OWN]
    return [
        *kept,
        (Header.REQUEST_ID, request_id_of(headers, source)),
        (Header.STATUS, Status.REJECTED),
        (Header.MODEL, model),
        (Header.SOURCE, source),
        (Header.ERROR_CODE, code),
        (Header.ERROR_REASON, _one_line(reason)),
        (Header.ERROR_STAGE, stage),
    ]


def notice_headers(chunk: Chunk, index: int, model: str) -> HeaderList:
    """Headers of a ``rejected`` notice on the predictions topic; its value is JSON.

    A trace goes on and an id is told where they are well formed; the source always names the request.
    """
    headers = [
        (name, raw)
        for name, raw in chunk.headers()[index] or ()
        if name in _TOLD and raw is not None and len(raw) <= LIMITS.header_chars_max
    ]
    source = source_of(chunk.topic, chunk.partition, chunk.offsets[index])
    traced = dict(each for each in headers if each[0] != Header.REQUEST_ID)
    return [*_notice(request_id_of(headers, source), Status.REJECTED, model, source), *traced.items()]


def notice_value(code: Code, reason: str) -> bytes:
    """``{"code": ..., "reason": ...}``, as JSON."""
    return orjson.dumps({"code": str(code), "reason": _one_line(reason)})


def expirations(model: Model, admitted: Admitted, requests: Sequence[int]) -> list[Record]:
    """The notices of requests past their deadline: at twice the load that can be served they are most of the answers.

    As with `notice_headers`, but a request that was admitted has been read already.
    """
    value = notice_value(Code.DEADLINE_PASSED, "the deadline passes before the request can be answered")
    topic, label, chunk, records = model.topics.predictions, model.label, admitted.chunk, list[Record]()
    said = admitted.headers.pick(requests)
    columns = (said.column(field) for field in ("request_id", "traceparent", "tracestate"))
    for request, request_id, traceparent, tracestate in zip(requests, *columns, strict=True):
        index = admitted.indices[request]
        source = source_of(chunk.topic, chunk.partition, chunk.offsets[index])
        headers = _notice(request_id or source, Status.EXPIRED, label, source)
        if traceparent is not None:
            headers.append(("traceparent", traceparent))
        if tracestate is not None:
            headers.append(("tracestate", tracestate))
        records.append(Record(topic, value, chunk.keys()[index], headers))
    return records


def rejection(model: Model, stage: str, chunk: Chunk, index: int, why: BadRequest) -> list[Record]:
    """The records of a rejected request: its dead letter, and the notice where the manifest wants one."""
    value, key, topics = chunk.values()[index], chunk.keys()[index], model.topics
    headers = dead_letter_headers(chunk, index, model.label, why.code, why.reason, stage)
    records = [Record(topics.dead_letters, value, key, headers)]
    if model.manifest.answer_rejected:
        headers = notice_headers(chunk, index, model.label)
        if key is not None and len(key) > LIMITS.key_bytes_max:
            key = None
        records.append(Record(topics.predictions, notice_value(why.code, why.reason), key, headers))
    return records


def _notice(request_id: str, status: Status, model: str, source: str) -> HeaderList:
    """What every notice says of itself; in plain texts, which take a third of the time of an enumeration's members."""
    return [
        ("request-id", request_id),
        ("content-type", JSON),
        ("status", status),
        ("model", model),
        ("source", source),
    ]


def _one_line(reason: str) -> str:
    text = " ".join(reason.split())
    return text if len(text) <= REASON_CHARS_MAX else text[: REASON_CHARS_MAX - 1] + "…"
