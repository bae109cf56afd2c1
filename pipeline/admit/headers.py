"""A request's headers, read and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple, overload

from pipeline.intake import UNREADABLE, RawColumns, RawHeaders
from pipeline.observe import is_sampled
from topics.codecs import Codec, ModelName, codec_for, shown
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import JSON, PRIORITY_DEFAULT, Header

__all__ = ["HeaderColumns", "HeaderReader", "RequestHeaders"]

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
    """What a request's headers say; defaults where they say nothing."""

    codec: Codec
    request_id: str | None = None
    deadline_ms: int | None = None  # Unix
    priority: int = PRIORITY_DEFAULT
    stages: bool = False
    traceparent: bytes | None = None  # UTF-8, as is the next
    tracestate: bytes | None = None
    sampled: bool = False  # by the traceparent's flag


class HeaderColumns(Sequence[RequestHeaders]):
    """What the headers of some requests say: once where they agree, and a column for each field where they do not.

    As a sequence it makes each request's `RequestHeaders` when asked; of many requests `column` is faster. ``sparse``
    tells that in a column values may be None.
    """

    __slots__ = ("_count", "common", "own", "sparse")

    def __init__(
        self, count: int, common: RequestHeaders, own: Mapping[str, Sequence[Any]], *, sparse: bool = False
    ) -> None:
        self._count = count
        self.common = common  # of a field in ``own`` it says nothing that holds
        self.own = own
        self.sparse = sparse

    @classmethod
    def of(cls, each: Sequence[RequestHeaders]) -> HeaderColumns:
        """What these say, at least one."""
        columns = zip(RequestHeaders._fields, zip(*each, strict=True), strict=True)
        own = {field: values for field, values in columns if values.count(values[0]) < len(values)}
        return cls(len(each), each[0], own, sparse=True)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> RequestHeaders: ...
    @overload
    def __getitem__(self, index: slice) -> HeaderColumns: ...
    def __getitem__(self, index: int | slice) -> RequestHeaders | HeaderColumns:
        which = range(self._count)[index]
        own: dict[str, Any] = {field: values[index] for field, values in self.own.items()}
        if isinstance(which, range):
            return HeaderColumns(len(which), self.common, own, sparse=self.sparse)
        return self.common._replace(**own) if own else self.common

    def pick(self, requests: Sequence[int]) -> HeaderColumns:
        """What only these say, in this order."""
        picked = {field: [values[at] for at in requests] for field, values in self.own.items()} if requests else {}
        own = {field: values for field, values in picked.items() if values.count(values[0]) < len(values)}
        agreed: dict[str, Any] = {field: values[0] for field, values in picked.items() if field not in own}
        return HeaderColumns(len(requests), self.common._replace(**agreed), own, sparse=self.sparse)

    def says(self, field: str) -> bool:
        """Whether a field that may be None is anything else, for one request at least."""
        return field in self.own or getattr(self.common, field) is not None

    def column(self, field: str) -> Iterable[Any]:
        """What each request says."""
        values = self.own.get(field)
        return repeat(getattr(self.common, field), self._count) if values is None else values


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
        stages, traceparent, tracestate = get(STAGES), _utf8(get(TRACEPARENT)), _utf8(get(TRACESTATE))
        if stages not in (None, "0", "1"):
            raise BadRequest(Code.BAD_HEADER, "header stages is neither 0 nor 1")
        return RequestHeaders(
            self._codec_of(get(CONTENT_TYPE, JSON)),
            None if request_id is None else _id(request_id),
            None if deadline is None else _deadline(deadline),
            PRIORITY_DEFAULT if priority is None else _priority(priority),
            stages == "1",
            traceparent,
            tracestate,
            is_sampled(traceparent),
        )

    def read_columns(self, headers: RawColumns) -> HeaderColumns | None:
        """Read many requests' headers a column at a time; None where each has to be `read` by itself.

        It has to where one is bad, or something of the contract differs but ids, deadlines, priorities and traces.
        """
        known = [column for column in headers.columns if column.name in _KNOWN]
        if len({column.name for column in known}) < len(known):
            return None
        own: dict[str, Sequence[Any]] = {}
        try:
            said = self.read([(name, values[0]) for name, values, common in known if common])
            for name, values, common in known:
                if common:
                    continue
                if name not in _DIFFERING or None in values or max(map(len, values)) > self._limits.header_chars_max:
                    return None
                field, parse = _DIFFERING[name]
                own[field] = parse(values)
                if name == TRACEPARENT:
                    own["sampled"] = list(map(is_sampled, values))
        except (BadRequest, UnicodeDecodeError):
            return None
        return HeaderColumns(len(headers), said, own)

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


def _utf8(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


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


def _text(values: Sequence[bytes]) -> Sequence[bytes]:
    b"\n".join(values).decode()  # at once: no character spans two lines
    return values


def _each(parse: Callable[[str], Any]) -> Callable[[Sequence[bytes]], Sequence[Any]]:
    return lambda values: [parse(value.decode()) for value in values]


# What requests that are alike otherwise have each of their own: the field it becomes, and how.
_DIFFERING: dict[str, tuple[str, Callable[[Sequence[Any]], Sequence[Any]]]] = {
    REQUEST_ID: ("request_id", _each(_id)),
    DEADLINE_MS: ("deadline_ms", _each(_deadline)),
    PRIORITY: ("priority", _each(_priority)),
    TRACEPARENT: ("traceparent", _text),
    TRACESTATE: ("tracestate", _text),
}
