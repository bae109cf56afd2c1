"""Requests and terminal records as Kafka headers."""

from __future__ import annotations

import pytest

from topics.records import ARROW, JSON, Headers, Request, Status, Terminal, new_request_id, source_of

OK: list[tuple[str, bytes | None]] = [
    ("status", b"ok"),
    ("request-id", b"r-1"),
    ("source", b"digits.requests/2/7"),
    ("model", b"digits/1"),
]


def test_a_plain_request_needs_no_headers() -> None:
    assert Request(b"{}").headers() == []


def test_a_request_carries_what_was_set_as_text() -> None:
    request = Request(
        b"x",
        request_id="é",
        content_type=ARROW,
        deadline_ms=0,
        priority=0,
        traceparent="t",
        tracestate="s",
        stages=True,
    )
    assert dict(request.headers()) == {
        "request-id": "é".encode(),
        "content-type": ARROW.encode(),
        "deadline-ms": b"0",
        "priority": b"0",
        "traceparent": b"t",
        "tracestate": b"s",
        "stages": b"1",
    }
    assert all(type(name) is str for name, _ in request.headers())


def test_a_prediction_is_read_from_its_four_headers() -> None:
    record = Terminal.from_kafka(b"key", b"value", [*OK, ("someone-elses", None)])
    assert record == Terminal(Status.OK, b"value", b"key", "r-1", "digits.requests/2/7", "digits/1", JSON)


def test_a_prediction_of_a_model_with_a_ladder_says_its_rung() -> None:
    assert Terminal.from_kafka(None, b"", OK).rung is None
    assert Terminal.from_kafka(None, b"", [*OK, ("rung", b"int8")]).rung == "int8"


def test_a_dead_letter_says_why() -> None:
    errors = [("x-error-code", b"malformed"), ("x-error-reason", b"no JSON"), ("x-error-stage", b"decode")]
    record = Terminal.from_kafka(None, None, [("status", b"rejected"), *OK[1:], *errors])
    assert (record.status, record.value) == (Status.REJECTED, None)
    assert (record.error_code, record.error_reason, record.error_stage) == ("malformed", "no JSON", "decode")


@pytest.mark.parametrize("missing", [name for name, _ in OK])
def test_a_record_without_a_header_of_the_contract_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        Terminal.from_kafka(None, b"", [header for header in OK if header[0] != missing])


@pytest.mark.parametrize(
    "headers", [None, [], [("status", b"maybe"), *OK[1:]], [*OK[:3], ("model", b"\xff")], [*OK[:3], ("model", None)]]
)
def test_what_is_no_record_is_refused(headers: Headers | None) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Terminal.from_kafka(None, b"", headers)


def test_request_ids_are_unique_and_a_source_names_one_record() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100
    assert source_of("digits.requests", 2, 7) == "digits.requests/2/7"
