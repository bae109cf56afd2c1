"""A request's headers, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from pipeline.intake import UNREADABLE, RawHeaders
from pipeline.observe import is_sampled
from topics.codecs import Codec, ModelName, codec_for, shown
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import JSON, PRIORITY_DEFAULT, Header

__all__ = ["HeaderReader", "RequestHeaders"]

# Plain texts: a dictionary finds a member of an enumeration three times as slowly, and each request looks for eight.
_NAMES = REQUEST_ID, CONTENT_TYPE, DEADLINE_MS, PRIORITY, TRACEPARENT, TRACESTATE, STAGES, MODEL = tuple(
    str(name)
    for name in (
        Header.REQUEST_ID,
        Header.CONTENT_TYPE,
        Header.DEADLINE_MS,
        Header.PRIORITY,
        Header.TRACEPARENT,
        Header.TRACESTATE,
        Header.STAGES,
        Header.MODEL,
    )
)
_KNOWN = frozenset(_NAMES)


class RequestHeaders(NamedTuple):
    """What a request's headers say; defaults where they say nothing. A tuple: made in a third of a dataclass's time."""

    codec: Codec
    request_id: str | None = None
    deadline_ms: int | None = None  # Unix
    priority: int = PRIORITY_DEFAULT
    stages: bool = False
    traceparent: str | None = None
    tracestate: str | None = None
    sampled: bool = False  # by the traceparent's flag


class HeaderReader:
    """Reads headers; unknown names are ignored, known ones must be there once and well formed.

    ``model`` is the name and version of the model that answers: a request need not name one, and may name no other.
    """

    def __init__(
        self, limits: RequestLimits, model: ModelName = ("", ""), *, codec: Callable[[str], Codec] = codec_for
    ) -> None:
        self._limits = limits
        self._models = {None, model[0], "/".join(model)}
        self._codec = codec
        self._codecs: dict[str, Codec] = {}
        self._plain = RequestHeaders(codec(JSON))

    def read(self, headers: RawHeaders) -> RequestHeaders:
        """Raises `BadRequest`."""
        if headers is UNREADABLE:
            raise BadRequest(Code.BAD_HEADER, "the name of a header is not UTF-8")
        if not headers:
            return self._plain
        get = self._known(headers).get
        if get(MODEL) not in self._models:
            raise BadRequest(Code.UNKNOWN_MODEL, f"header model is {shown(get(MODEL, ''))}, not the topic's")
        request_id, deadline, priority = get(REQUEST_ID), get(DEADLINE_MS), get(PRIORITY)
        stages, traceparent = get(STAGES), get(TRACEPARENT)
        if stages not in (None, "0", "1"):
            raise BadRequest(Code.BAD_HEADER, "header stages is neither 0 nor 1")
        return RequestHeaders(
            self._codec_of(get(CONTENT_TYPE, JSON)),
            None if request_id is None else _id(request_id),
            None if deadline is None else _deadline(deadline),
            PRIORITY_DEFAULT if priority is None else _priority(priority),
            stages == "1",
            traceparent,
            get(TRACESTATE),
            traceparent is not None and is_sampled(traceparent.encode()),
        )

    def read_alike(self, headers: Sequence[RawHeaders]) -> list[RequestHeaders] | None:
        """Read many requests' headers a column at a time; None where each has to be `read` by itself.

        It has to unless all have the same names in the same order, none is bad, and nothing of the contract differs
        but ids, deadlines, priorities and traces.
        """
        columns = _columns(headers)
        if columns is None:
            return None
        common = {name: values[0] for name, values in columns.items() if values.count(values[0]) == len(values)}
        try:
            read: dict[str, Iterable[Any]] = {
                field: repeat(said, len(headers)) for field, said in self.read([*common.items()])._asdict().items()
            }
            for name in columns.keys() - common.keys():
                values = columns[name]
                if name not in _DIFFERING or None in values or max(map(len, values)) > self._limits.header_chars_max:
                    return None
                field, parse = _DIFFERING[name]
                texts = map(bytes.decode, values)
                read[field] = texts if parse is None else map(parse, texts)
                if name == TRACEPARENT:
                    read["sampled"] = map(is_sampled, values)
            return list(map(RequestHeaders._make, zip(*read.values(), strict=True)))
        except (BadRequest, UnicodeDecodeError):
            return None

    def _known(self, headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
        """The headers of the contract as text."""
        found: dict[str, str] = {}
        for name, raw in headers:
            if name not in _KNOWN:
                continue
            if name in found:
                raise BadRequest(Code.BAD_HEADER, f"header {name} twice")
            if raw is None or len(raw) > self._limits.header_chars_max:
                raise BadRequest(
                    Code.BAD_HEADER, f"header {name} is null or over {self._limits.header_chars_max} bytes"
                )
            try:
                found[name] = raw.decode()
            except UnicodeDecodeError:
                raise BadRequest(Code.BAD_HEADER, f"header {name} is not UTF-8") from None
        return found

    def _codec_of(self, content_type: str) -> Codec:
        codec = self._codecs.get(content_type)
        if codec is None:
            codec = self._codec(content_type)
            if len(self._codecs) < 64:  # spellings of three types; a hostile variety of them is not remembered
                self._codecs[content_type] = codec
        return codec


def _columns(headers: Sequence[RawHeaders]) -> dict[str, tuple[Any, ...]] | None:
    """Each known header's values, of requests that all have the same names in the same order, none of them twice."""
    present = [each for each in headers if each]
    if len(present) < len(headers) or len(set(map(len, present))) > 1:
        return None
    found: dict[str, tuple[Any, ...]] = {}
    for column in zip(*present, strict=True):
        names, values = zip(*column, strict=True)
        if names.count(names[0]) < len(names) or names[0] in found:
            return None
        if names[0] in _KNOWN:
            found[names[0]] = values
    return found


def _id(text: str) -> str:
    if not text:
        raise BadRequest(Code.BAD_HEADER, "header request-id is empty")
    return text


def _deadline(text: str) -> int:
    return _whole(text, DEADLINE_MS, Code.BAD_DEADLINE)


def _whole(text: str, name: str, code: Code) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):  # which all fit 64 bits
        raise BadRequest(code, f"header {name} is not a whole number of at most 18 digits")
    return int(text)


def _priority(text: str) -> int:
    value = _whole(text, PRIORITY, Code.BAD_HEADER)
    if value > 9:
        raise BadRequest(Code.BAD_HEADER, "header priority is not 0 to 9")
    return value


# What requests that are alike otherwise have each of their own: the field it becomes, and how.
_DIFFERING: dict[str, tuple[str, Callable[[str], Any] | None]] = {
    REQUEST_ID: ("request_id", _id),
    DEADLINE_MS: ("deadline_ms", _deadline),
    PRIORITY: ("priority", _priority),
    TRACEPARENT: ("traceparent", None),
    TRACESTATE: ("tracestate", None),
}
