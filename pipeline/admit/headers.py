"""A request's headers, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.intake import UNREADABLE, RawHeaders
from pipeline.observe import is_sampled
from topics.codecs import Codec, ModelName, codec_for, shown
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import JSON, Header

__all__ = ["HeaderReader", "RequestHeaders"]

PRIORITY_DEFAULT = 5
_KNOWN = frozenset(
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


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    """What a request's headers say; defaults where they say nothing."""

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
        if get(Header.MODEL) not in self._models:
            raise BadRequest(Code.UNKNOWN_MODEL, f"header model is {shown(get(Header.MODEL, ''))}, not the topic's")
        request_id = get(Header.REQUEST_ID)
        if request_id == "":
            raise BadRequest(Code.BAD_HEADER, "header request-id is empty")
        stages, traceparent = get(Header.STAGES), get(Header.TRACEPARENT)
        if stages not in (None, "0", "1"):
            raise BadRequest(Code.BAD_HEADER, "header stages is neither 0 nor 1")
        return RequestHeaders(
            codec=self._codec_of(get(Header.CONTENT_TYPE, JSON)),
            request_id=request_id,
            deadline_ms=_whole(get(Header.DEADLINE_MS), Header.DEADLINE_MS, Code.BAD_DEADLINE),
            priority=_priority(get(Header.PRIORITY)),
            stages=stages == "1",
            traceparent=traceparent,
            tracestate=get(Header.TRACESTATE),
            sampled=traceparent is not None and is_sampled(traceparent.encode()),
        )

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


def _whole(text: str | None, name: str, code: Code) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):  # which all fit 64 bits
        raise BadRequest(code, f"header {name} is not a whole number of at most 18 digits")
    return int(text)


def _priority(text: str | None) -> int:
    value = _whole(text, Header.PRIORITY, Code.BAD_HEADER)
    if value is None:
        return PRIORITY_DEFAULT
    if value > 9:
        raise BadRequest(Code.BAD_HEADER, "header priority is not 0 to 9")
    return value
