"""Every rule of a request's headers."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.admit import HeaderColumns, HeaderReader, RequestHeaders
from pipeline.intake import UNREADABLE, RawColumns, RawHeaders
from pipeline.intake.headers import in_columns
from topics.codecs import CONTENT_TYPES, Codec, codec_for
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import JSON

LIMITS = RequestLimits(header_chars_max=100)
SAMPLED = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def read(*headers: tuple[str, bytes | None]) -> RequestHeaders:
    return HeaderReader(LIMITS).read(list(headers))


@pytest.mark.parametrize("headers", [None, [], [("unknown", b"\xff"), ("unknown", None), ("x" * 999, b"y" * 999)]])
def test_headers_nobody_knows_say_nothing(headers: list[tuple[str, bytes | None]] | None) -> None:
    assert HeaderReader(LIMITS).read(headers) == RequestHeaders(codec_for(JSON), priority=5)


def test_known_headers_are_read_in_any_order() -> None:
    said = read(
        ("tracestate", b"a=1"),
        ("priority", b"9"),
        ("own", b"mine"),
        ("stages", b"1"),
        ("request-id", "nämlich".encode()),
        ("deadline-ms", b"1790000000000"),
        ("traceparent", SAMPLED),
        ("content-type", b"application/octet-stream"),
    )
    assert said == RequestHeaders(
        codec_for("application/octet-stream"),
        request_id="nämlich",
        deadline_ms=1_790_000_000_000,
        priority=9,
        stages=True,
        traceparent=SAMPLED,
        tracestate=b"a=1",
        sampled=True,
    )


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("request-id", b"a"),
        ("content-type", b"application/json"),
        ("deadline-ms", b"1"),
        ("priority", b"1"),
        ("traceparent", SAMPLED),
        ("tracestate", b"a"),
        ("stages", b"1"),
    ],
)
def test_a_known_header_is_there_once_not_null_not_long_and_utf8(name: str, good: bytes) -> None:
    read((name, good))
    for bad, told in (
        ([(name, good), (name, good)], "twice"),
        ([(name, None)], "null"),
        ([(name, b"a" * 101)], "over 100 bytes"),
        ([(name, b"\xc3\x28")], "not UTF-8"),
        ([("own", b"1"), (name, b"\xff")], "not UTF-8"),
    ):
        with pytest.raises(BadRequest, match=told) as caught:
            read(*bad)
        assert caught.value.code is Code.BAD_HEADER and name in caught.value.reason


def test_a_header_may_be_as_long_as_the_limit() -> None:
    assert read(("request-id", b"a" * 100)).request_id == "a" * 100


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("request-id", b"", Code.BAD_HEADER),
        ("content-type", b"", Code.UNKNOWN_CONTENT_TYPE),
        ("content-type", b"text/plain", Code.UNKNOWN_CONTENT_TYPE),
        ("content-type", b"application/x-python-pickle", Code.UNKNOWN_CONTENT_TYPE),
        ("priority", b"10", Code.BAD_HEADER),
        ("priority", b"-1", Code.BAD_HEADER),
        ("priority", b"", Code.BAD_HEADER),
        ("priority", b"high", Code.BAD_HEADER),
        ("priority", "٣".encode(), Code.BAD_HEADER),
        ("deadline-ms", b"", Code.BAD_DEADLINE),
        ("deadline-ms", b"-5", Code.BAD_DEADLINE),
        ("deadline-ms", b"+5", Code.BAD_DEADLINE),
        ("deadline-ms", b" 5", Code.BAD_DEADLINE),
        ("deadline-ms", b"5.0", Code.BAD_DEADLINE),
        ("deadline-ms", b"1e12", Code.BAD_DEADLINE),
        ("deadline-ms", b"1_000", Code.BAD_DEADLINE),
        ("deadline-ms", "\uff11\uff12".encode(), Code.BAD_DEADLINE),
        ("deadline-ms", "²".encode(), Code.BAD_DEADLINE),
        ("deadline-ms", b"9" * 19, Code.BAD_DEADLINE),
        ("stages", b"", Code.BAD_HEADER),
        ("stages", b"yes", Code.BAD_HEADER),
    ],
)
def test_a_value_that_says_nothing_sensible_is_refused(name: str, value: bytes, code: Code) -> None:
    with pytest.raises(BadRequest) as caught:
        read((name, value))
    assert caught.value.code is code


@pytest.mark.parametrize("value", range(10))
def test_every_priority_of_the_contract_is_read(value: int) -> None:
    assert read(("priority", str(value).encode())).priority == value


@pytest.mark.parametrize(("value", "stages"), [(b"0", False), (b"1", True)])
def test_stages_are_asked_for_or_not(value: bytes, stages: bool) -> None:
    assert read(("stages", value)).stages is stages


@pytest.mark.parametrize("traceparent", [SAMPLED[:-1] + b"0", b"", b"nonsense", SAMPLED.upper(), SAMPLED + b"1"])
def test_a_trace_that_is_not_sampled_or_not_well_formed_harms_nothing(traceparent: bytes) -> None:
    said = read(("traceparent", traceparent))
    assert (said.sampled, said.traceparent) == (False, traceparent)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_content_type_is_read_whatever_its_case_and_parameters(content_type: str) -> None:
    for spelled in (content_type, content_type.upper(), f"{content_type}; charset=utf-8"):
        assert read(("content-type", spelled.encode())).codec is codec_for(content_type)


def test_spellings_are_remembered_but_not_without_end() -> None:
    asked: list[str] = []

    def codec(content_type: str) -> Codec:
        asked.append(content_type)
        return codec_for(JSON)

    reader = HeaderReader(LIMITS, codec=codec)
    for _ in range(3):
        reader.read([("content-type", b"a")])
    assert asked == [JSON, "a"]
    for number in range(200):
        reader.read([("content-type", str(number).encode())])
    assert len(reader._codecs) <= 64, "I4"


def of(number: int, **changed: bytes | None) -> RawHeaders:
    """What a client with a deadline and tracing sends; ``number`` tells its requests apart."""
    headers: dict[str, bytes | None] = {
        "content_type": b"application/json",
        "request_id": b"id-%d" % number,
        "deadline_ms": b"%d" % (1_790_000_000_000 + number),
        "priority": b"%d" % (number % 10),
        "traceparent": SAMPLED[:-1] + b"%d" % (number % 2),
        "tracestate": b"a=%d" % number,
        "own": None if number % 3 else b"\xff",
    }
    return [(name.replace("_", "-"), value) for name, value in (headers | changed).items()]


def at_once(reader: HeaderReader, headers: Sequence[RawHeaders]) -> HeaderColumns | None:
    raw = in_columns([*headers])
    return reader.read_columns(raw) if isinstance(raw, RawColumns) else None


def test_requests_that_are_alike_are_read_a_column_at_a_time() -> None:
    reader, headers = HeaderReader(LIMITS), [of(number) for number in range(20)]
    each = [reader.read(raw) for raw in headers]
    with patch.object(reader, "read", wraps=reader.read) as read_one:
        read = at_once(reader, headers)
    assert read is not None and [*read] == each
    read_one.assert_called_once_with([("content-type", b"application/json")])
    assert [read.sampled for read in each] == [False, True] * 10


@pytest.mark.parametrize(
    "odd",
    [
        None,
        [],
        UNREADABLE,
        of(1, more=b"1"),
        list(reversed(of(1) or ())),
        [*(of(1) or ())[:-1], ("priority", b"3")],
        of(1, content_type=b"application/octet-stream"),
        of(1, content_type=b"text/plain"),
        of(1, request_id=b""),
        of(1, request_id=None),
        of(1, request_id=b"a" * 101),
        of(1, request_id=b"\xff"),
        of(1, deadline_ms=b"soon"),
        of(1, priority=b"10"),
        of(1, traceparent=None),
        of(1, tracestate=b"\xff"),
    ],
)
def test_one_that_is_bad_or_unlike_the_others_has_each_read_by_itself(odd: RawHeaders) -> None:
    reader = HeaderReader(LIMITS)
    assert at_once(reader, [of(0), of(2), of(3)]) is not None
    for headers in ([of(0), odd, of(2)], [odd, of(0)], [of(0), odd]):
        assert at_once(reader, headers) is None


def test_a_character_does_not_span_two_requests() -> None:
    halves = [of(at, tracestate=half, own=b"1") for at, half in enumerate("é".encode()[i : i + 1] for i in range(2))]
    assert at_once(HeaderReader(LIMITS), halves) is None


SAID = st.builds(
    RequestHeaders,
    st.just(codec_for(JSON)),
    st.sampled_from([None, "a", "b"]),
    st.sampled_from([None, 1]),
    st.integers(4, 5),
    st.booleans(),
    st.sampled_from([None, SAMPLED]),
)


@given(each=st.lists(SAID, min_size=1, max_size=5), data=st.data())
def test_columns_say_what_each_says(each: list[RequestHeaders], data: st.DataObject) -> None:
    columns = HeaderColumns.of(each)
    places = st.integers(0, len(each) - 1)
    picked, first = data.draw(st.lists(places)), data.draw(places)
    for some, expected in (
        (columns, each),
        (columns.pick(picked), [each[at] for at in picked]),
        (columns[first:], each[first:]),
    ):
        assert [*some] == expected and len(some) == len(expected) and some.sparse
        for field in RequestHeaders._fields:
            assert [*some.column(field)] == [getattr(one, field) for one in expected]
    for field in ("request_id", "deadline_ms", "traceparent"):
        assert columns.says(field) == any(getattr(one, field) is not None for one in each)
    with pytest.raises(IndexError):
        columns[len(each)]


@pytest.mark.parametrize("headers", [[], UNREADABLE, [("priority", b"10")], [("stages", b"1"), ("stages", b"1")]])
def test_where_all_are_bad_each_is_read_by_itself(headers: RawHeaders) -> None:
    assert at_once(HeaderReader(LIMITS), [headers] * 3) is None


def test_no_headers_at_all_are_read_at_once() -> None:
    reader = HeaderReader(LIMITS)
    read = at_once(reader, [None] * 3)
    assert read is not None and [*read] == [reader.read(None)] * 3


NAMED = st.sampled_from(
    [
        ("request-id", (b"a", b"b", b"")),
        ("content-type", (b"application/json", b"APPLICATION/JSON", b"text/plain")),
        ("deadline-ms", (b"1", b"2", b"x")),
        ("priority", (b"1", b"2", b"10")),
        ("traceparent", (SAMPLED, SAMPLED[:-1] + b"0", b"odd", None)),
        ("tracestate", (b"a", b"b", b"\xff")),
        ("stages", (b"0", b"1", b"2")),
        ("own", (b"1", b"\xff", None)),
    ]
)


@given(named=st.lists(NAMED, max_size=4), count=st.integers(1, 4), data=st.data())
def test_what_is_read_at_once_is_what_each_says(
    named: Sequence[tuple[str, tuple[bytes | None, ...]]], count: int, data: st.DataObject
) -> None:
    headers: list[RawHeaders] = [
        [(name, data.draw(st.sampled_from(values))) for name, values in named] for _ in range(count)
    ]
    reader = HeaderReader(LIMITS)
    assert [*in_columns(headers)] == headers
    read = at_once(reader, headers)
    if read is not None:
        assert [*read] == [reader.read(raw) for raw in headers]
