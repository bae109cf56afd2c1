"""Good requests whose headers or key are not, each with the code of its dead letter."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.cases import HostileCase, good_request
from topics.codes import Code
from topics.records import JSON, RAW

__all__ = ["header_cases"]

YEAR_3000_MS = b"32503680000000"
BAD_HEADERS: dict[str, tuple[tuple[str, bytes | None], ...]] = {
    "request id twice": (("request-id", b"a"), ("request-id", b"b")),
    "request id twice, the same": (("request-id", b"a"), ("request-id", b"a")),
    "request id empty": (("request-id", b""),),
    "request id null": (("request-id", None),),
    "request id of 5,000 bytes": (("request-id", b"i" * 5_000),),
    "request id not UTF-8": (("request-id", b"\xff\xfe"),),
    "content type twice": (("content-type", RAW.encode()), ("content-type", JSON.encode())),
    "content type not UTF-8": (("content-type", b"application/\xff"),),
    "content type null": (("content-type", None),),
    "priority 10": (("priority", b"10"),),
    "priority below 0": (("priority", b"-1"),),
    "priority that is no number": (("priority", b"high"),),
    "priority in other digits": (("priority", "٣".encode()),),
    "priority of 4,000 digits": (("priority", b"9" * 4_000),),
    "priority not UTF-8": (("priority", b"\xff"),),
    "stages neither 0 nor 1": (("stages", b"yes"),),
    "tracestate not UTF-8": (("tracestate", b"\xff"),),
    "traceparent twice": (("traceparent", b"00-1-1-01"), ("traceparent", b"00-1-1-01")),
}
BAD_DEADLINES = {
    "absurdly far": YEAR_3000_MS,
    "absurdly long ago": b"0",
    "below 0": b"-1",
    "of 4,000 digits": b"9" * 4_000,
    "over 64 bits": b"18446744073709551616",
    "a fraction": b"1790000000000.5",
    "in hex": b"0x1a0c3b5f200",
    "text": b"soon",
    "empty": b"",
    "with a space": b" 1790000000000",
    "in other digits": "١٧٩٠٠٠٠٠٠٠٠٠٠".encode(),
}
OTHER_MODELS = {
    "another model": b"fingers",
    "another version": b"digits/2",
    "model name with ..": b"../digits",
    "version with ..": b"digits/../1",
    "model name with a slash": b"/digits",
    "model name with NUL": b"digits\0",
    "model name empty": b"",
}


def header_cases() -> list[HostileCase]:
    """Every malformed header; the values are good raw requests, but where the headers say what they are."""
    return list(_header_cases())


def _header_cases() -> Iterator[HostileCase]:
    good = good_request(RAW)
    for name, headers in BAD_HEADERS.items():
        typed = "" if headers[0][0] == "content-type" else RAW
        yield HostileCase(f"header: {name}", typed, good, Code.BAD_HEADER, headers=headers)
    for name, deadline in BAD_DEADLINES.items():
        yield HostileCase(f"deadline: {name}", RAW, good, Code.BAD_DEADLINE, headers=(("deadline-ms", deadline),))
    for name, model in OTHER_MODELS.items():
        yield HostileCase(f"header: {name}", RAW, good, Code.UNKNOWN_MODEL, headers=(("model", model),))
    yield HostileCase("header: missing, so that the value is no JSON", "", good, Code.MALFORMED)
    yield HostileCase("key of 65 KiB", RAW, good, Code.TOO_LARGE, key=b"k" * (64 * 1024 + 1))
