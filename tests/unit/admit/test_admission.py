"""Chunks become columns: uniform and mixed ones, several content types, bad requests beside good ones (I7)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.admit import Admission, Admitted
from pipeline.admit.admission import NO_DEADLINE_MS, SCATTERED_BYTES
from pipeline.admit.scattered import Scattered
from pipeline.core.limits import Limits
from pipeline.intake import Chunk
from tests.unit.infer.makers import SIGNATURE, column_of, model_of
from tests.unit.intake.messages import POLLED_MS, chunk_of, message
from topics.codecs import CONTENT_TYPES, codec_for
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits
from topics.records import ARROW, JSON, RAW

LIMITS = Limits()
REQUEST_LIMITS = RequestLimits(key_bytes_max=10)
STAMP_MS = POLLED_MS - 10
HORIZON_MS = LIMITS.deadline_horizon_ms

Headers = list[tuple[str, bytes | None]]


def value(*rows: float, content_type: str = RAW) -> bytes:
    x = np.repeat(np.array(rows, np.float32), 2).reshape(-1, 2)
    return codec_for(content_type).encode_request({"x": x}, SIGNATURE.inputs)


def typed(content_type: str, *more: tuple[str, bytes | None]) -> Headers:
    return [("content-type", content_type.encode()), *more]


class Admitting:
    """An admission that keeps what it rejects."""

    def __init__(self) -> None:
        self.rejected: list[tuple[Chunk, Sequence[tuple[int, BadRequest]]]] = []
        self.admit = Admission(
            model_of(), LIMITS, REQUEST_LIMITS, reject=lambda chunk, bad: self.rejected.append((chunk, bad))
        )

    def codes(self) -> dict[int, Code]:
        """Why each message was rejected; none of them twice."""
        bad = [each for _, chunk in self.rejected for each in chunk]
        assert len({index for index, _ in bad}) == len(bad)
        return {index: why.code for index, why in bad}


def rows_by_message(admitted: Sequence[Admitted]) -> dict[int, list[float]]:
    """Index in the chunk -> first values of the request's rows."""
    found: dict[int, list[float]] = {}
    for each in admitted:
        assert len(each) == len(each.indices) == len(each.row_start) - 1
        assert each.row_start[0] == 0 and each.rows == len(each.columns["x"])
        assert len(each.headers) == len(each)
        assert each.deadlines_ms is None or len(each.deadlines_ms) == len(each)
        for request, index in enumerate(each.indices):
            rows = column_of(each)[each.row_start[request] : each.row_start[request + 1], 0]
            assert index not in found
            found[index] = rows.tolist()
    return found


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_chunk_of_equal_headers_is_read_once(content_type: str) -> None:
    bench = Admitting()
    chunk = chunk_of(
        [
            message(at, value(*[float(at)] * (at + 1), content_type=content_type), headers=typed(content_type))
            for at in range(3)
        ]
    )
    (admitted,) = bench.admit(chunk)
    assert admitted.chunk is chunk and admitted.codec is codec_for(content_type)
    assert admitted.headers.own == {} and admitted.headers[2] is admitted.headers.common
    assert (admitted.indices, admitted.deadlines_ms) == (range(3), None)
    assert rows_by_message([admitted]) == {0: [0.0], 1: [1.0, 1.0], 2: [2.0, 2.0, 2.0]}
    assert bench.rejected == []


def test_no_header_at_all_is_json() -> None:
    (admitted,) = Admitting().admit(chunk_of([message(0, value(4, content_type=JSON))]))
    assert admitted.codec is codec_for(JSON) and admitted.headers.own == {}


def test_requests_of_several_types_in_one_chunk_become_one_admitted_each() -> None:
    bench = Admitting()
    types = [JSON, RAW, ARROW, RAW, JSON]
    chunk = chunk_of([message(at, value(at, content_type=t), headers=typed(t)) for at, t in enumerate(types)])
    admitted = bench.admit(chunk)
    assert {each.codec.content_type: list(each.indices) for each in admitted} == {JSON: [0, 4], RAW: [1, 3], ARROW: [2]}
    assert rows_by_message(admitted) == {at: [float(at)] for at in range(5)}


def test_each_request_keeps_its_own_headers() -> None:
    bench = Admitting()
    own = [
        typed(RAW, ("request-id", b"a"), ("priority", b"9")),
        typed(RAW),
        typed(RAW, ("deadline-ms", str(STAMP_MS + 50).encode()), ("stages", b"1")),
    ]
    (admitted,) = bench.admit(chunk_of([message(at, value(at), headers=headers) for at, headers in enumerate(own)]))
    said = [admitted.headers[request] for request in range(3)]
    assert [each.request_id for each in said] == ["a", None, None]
    assert [each.priority for each in said] == [9, 5, 5]
    assert [each.stages for each in said] == [False, False, True]
    assert admitted.deadlines_ms is not None
    assert admitted.deadlines_ms.tolist() == [NO_DEADLINE_MS, NO_DEADLINE_MS, STAMP_MS + 50]


@pytest.mark.parametrize("header", [("request-id", b"same"), ("deadline-ms", str(STAMP_MS + 5).encode())])
def test_what_each_request_must_have_of_its_own_is_so_even_if_equal(header: tuple[str, bytes]) -> None:
    (admitted,) = Admitting().admit(chunk_of([message(at, value(at), headers=typed(RAW, header)) for at in range(3)]))
    if header[0] == "request-id":
        assert [each.request_id for each in admitted.headers] == ["same"] * 3
    else:
        assert admitted.deadlines_ms is not None and admitted.deadlines_ms.tolist() == [STAMP_MS + 5] * 3


def test_a_deadline_is_held_against_the_timestamp_of_its_own_request() -> None:
    bench, hour_ms = Admitting(), 3_600_000
    stamps_ms = [STAMP_MS, STAMP_MS, STAMP_MS - HORIZON_MS - hour_ms]
    own = [typed("none"), typed(RAW, ("priority", b"1")), typed(RAW, ("deadline-ms", b"%d" % stamps_ms[2]))]
    messages = [message(at, value(at), headers=own[at], timestamp_ms=stamps_ms[at]) for at in range(3)]
    (admitted,) = bench.admit(chunk_of(messages))
    assert list(admitted.indices) == [1, 2] and bench.codes().keys() == {0}


def test_what_is_rejected_is_told_in_the_order_it_came_in() -> None:
    bench = Admitting()
    far = typed(RAW, ("deadline-ms", b"1"))
    own = [far, typed("none"), typed(RAW, ("priority", b"9")), typed(RAW), far]
    values = [value(0), value(1), b"odd", value(3), value(4)]
    (admitted,) = bench.admit(chunk_of([message(at, values[at], headers=own[at]) for at in range(5)]))
    assert [[index for index, _ in bad] for _, bad in bench.rejected] == [[0, 1, 2, 4]]
    assert list(admitted.indices) == [3]
    assert admitted.deadlines_ms is None and admitted.headers.own == {}, "those that are left ask for nothing"


@pytest.mark.parametrize("late", [[], [2], [0, 4]])
@pytest.mark.parametrize("long_key", [None, 1])
def test_requests_alike_but_for_their_ids_and_deadlines_stay_together_unless_one_is_bad(
    late: list[int], long_key: int | None
) -> None:
    bench = Admitting()
    deadlines = [STAMP_MS + at + (10 * HORIZON_MS if at in late else 0) for at in range(5)]
    own = [typed(RAW, ("request-id", b"%d" % at), ("deadline-ms", b"%d" % deadlines[at])) for at in range(5)]
    chunk = chunk_of(
        [
            message(at, value(at), headers=headers, key=b"k" * (11 if at == long_key else 10))
            for at, headers in enumerate(own)
        ]
    )
    (admitted,) = bench.admit(chunk)
    kept = [at for at in range(5) if at not in late and at != long_key]
    assert isinstance(admitted.indices, range) == (len(kept) == 5), "a range is cut without a look at each"
    assert rows_by_message([admitted]) == {at: [float(at)] for at in kept}
    assert [read.request_id for read in admitted.headers] == [str(at) for at in kept]
    assert admitted.deadlines_ms is not None and admitted.deadlines_ms.tolist() == [deadlines[at] for at in kept]
    assert bench.codes() == dict.fromkeys(late, Code.BAD_DEADLINE) | (
        {} if long_key is None else {long_key: Code.TOO_LARGE}
    )


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@pytest.mark.parametrize("mixed", [False, True])
def test_bad_values_harm_no_neighbour(content_type: str, mixed: bool) -> None:
    bench = Admitting()
    own = [("request-id", b"x"), ("deadline-ms", str(STAMP_MS + 7).encode())] if mixed else []
    good = value(1, 2, content_type=content_type)
    values = [
        None,
        good,
        b"junk!",
        value(3, content_type=content_type),
        b"",
        good[:-1],
        value(4, content_type=content_type),
    ]
    chunk = chunk_of([message(10 * at, each, headers=typed(content_type, *own)) for at, each in enumerate(values)])
    admitted = bench.admit(chunk)
    assert rows_by_message(admitted) == {1: [1.0, 2.0], 3: [3.0], 6: [4.0]}
    assert bench.codes().keys() == {0, 2, 4, 5}
    assert (bench.codes()[0], bench.codes()[4]) == (Code.NULL_VALUE, Code.EMPTY_VALUE)
    assert [rejected is chunk for rejected, _ in bench.rejected] == [True], "one call for all of a chunk"
    if mixed:
        assert admitted[0].deadlines_ms is not None and admitted[0].deadlines_ms.tolist() == [STAMP_MS + 7] * 3


def test_a_chunk_without_a_good_request_admits_nothing() -> None:
    bench = Admitting()
    assert bench.admit(chunk_of([message(at, b"1", headers=typed(RAW)) for at in range(3)])) == []
    assert bench.codes() == dict.fromkeys(range(3), Code.WRONG_SHAPE)


def test_equal_headers_that_are_bad_reject_all() -> None:
    bench = Admitting()
    assert bench.admit(chunk_of([message(at, value(1), headers=typed("text/plain")) for at in range(3)])) == []
    assert bench.codes() == dict.fromkeys(range(3), Code.UNKNOWN_CONTENT_TYPE)


def test_bad_headers_harm_no_neighbour() -> None:
    bench = Admitting()
    headers: list[Headers] = [
        typed(RAW),
        typed(RAW, ("priority", b"99")),
        typed("text/plain"),
        typed(RAW, ("request-id", b"\xff")),
        typed(RAW, ("stages", None)),
        typed(RAW, ("tracestate", b"a"), ("tracestate", b"b")),
        typed(RAW, ("request-id", b"good")),
    ]
    admitted = bench.admit(chunk_of([message(at, value(at), headers=each) for at, each in enumerate(headers)]))
    assert rows_by_message(admitted) == {0: [0.0], 6: [6.0]}
    assert bench.codes() == {
        1: Code.BAD_HEADER,
        2: Code.UNKNOWN_CONTENT_TYPE,
        3: Code.BAD_HEADER,
        4: Code.BAD_HEADER,
        5: Code.BAD_HEADER,
    }
    assert admitted[0].headers[1].request_id == "good"


def test_a_key_over_its_limit_is_refused_alone() -> None:
    bench = Admitting()
    keys = [None, b"k" * 10, b"k" * 11]
    admitted = bench.admit(
        chunk_of([message(at, value(at), key=key, headers=typed(RAW)) for at, key in enumerate(keys)])
    )
    assert rows_by_message(admitted) == {0: [0.0], 1: [1.0]}
    assert bench.codes() == {2: Code.TOO_LARGE}


@pytest.mark.parametrize(
    ("deadline_ms", "good"),
    [
        (STAMP_MS, True),
        (STAMP_MS - 1, True),
        (STAMP_MS + HORIZON_MS, True),
        (STAMP_MS - HORIZON_MS, True),
        (STAMP_MS + HORIZON_MS + 1, False),
        (STAMP_MS - HORIZON_MS - 1, False),
        (0, False),
        (2**63, False),
        (10**19 - 1, False),
    ],
)
def test_a_deadline_far_from_the_requests_timestamp_is_a_wrong_clock(deadline_ms: int, good: bool) -> None:
    bench = Admitting()
    headers = [typed(RAW), typed(RAW, ("deadline-ms", str(deadline_ms).encode()))]
    admitted = bench.admit(chunk_of([message(at, value(at), headers=each) for at, each in enumerate(headers)]))
    assert bench.codes() == ({} if good else {1: Code.BAD_DEADLINE})
    assert rows_by_message(admitted).keys() == ({0, 1} if good else {0})


@pytest.mark.parametrize("deadline_ms", [2**63 - 1, 2**63, 2**63 + 5])
def test_a_timestamp_as_absurd_as_its_deadline_takes_nobody_down(deadline_ms: int) -> None:
    """A topic may take any timestamp its clients give; the deadline beside it need not fit 64 bits."""
    bench = Admitting()
    absurd = message(
        0, value(0), headers=typed(RAW, ("deadline-ms", str(deadline_ms).encode())), timestamp_ms=2**63 - 1
    )
    admitted = bench.admit(chunk_of([absurd, message(1, value(1), headers=typed(RAW))]))
    assert rows_by_message(admitted)[1] == [1.0]


def test_a_deadline_is_measured_from_the_poll_where_a_message_has_no_timestamp() -> None:
    bench = Admitting()
    headers = typed(RAW, ("deadline-ms", str(POLLED_MS + HORIZON_MS).encode()))
    assert len(bench.admit(chunk_of([message(0, value(0), headers=headers, timestamp_ms=None)]))) == 1


REQUEST = st.tuples(
    st.sampled_from([JSON, RAW, ARROW, "text/plain"]),
    st.sampled_from([[], [("request-id", b"i")], [("priority", b"77")], [("own", b"\xff")]]),
    st.sampled_from([1, 2, 3, None, 0]),
)


@settings(deadline=None)
@given(requests=st.lists(REQUEST, min_size=1, max_size=8))
def test_every_request_is_admitted_with_its_rows_or_rejected(
    requests: list[tuple[str, list[tuple[str, bytes]], int | None]],
) -> None:
    bench, messages, good = Admitting(), [], {}
    for at, (content_type, more, rows) in enumerate(requests):
        sound = content_type != "text/plain" and ("priority", b"77") not in more
        codec = content_type if content_type in CONTENT_TYPES else RAW
        body = None if rows is None else b"junk!" if rows == 0 else value(*[float(at)] * rows, content_type=codec)
        messages.append(message(at, body, headers=typed(content_type, *more)))
        if sound and rows:
            good[at] = [float(at)] * rows
    admitted = bench.admit(chunk_of(messages))
    assert rows_by_message(admitted) == good
    assert bench.codes().keys() == set(range(len(requests))) - good.keys()


@pytest.mark.parametrize("content_type", [RAW, ARROW])
@pytest.mark.parametrize("own_headers", [False, True])
def test_large_requests_stay_where_they_are_until_they_are_written(content_type: str, own_headers: bool) -> None:
    bench = Admitting()
    rows = SCATTERED_BYTES // 8
    values = [value(*np.arange(at, at + rows, dtype=np.float32), content_type=content_type) for at in range(4)]
    values[2] = value(*[float("nan")] * rows, content_type=content_type)
    headers = [
        typed(content_type, *([("deadline-ms", b"%d" % (STAMP_MS + at))] if own_headers else [])) for at in range(4)
    ]
    chunk = chunk_of([message(at, values[at], headers=headers[at]) for at in range(4)])
    (admitted,) = bench.admit(chunk)
    found, column = rows_by_message([admitted]), admitted.columns["x"]
    assert {index: rows[:2] for index, rows in found.items()} == {at: [at, at + 1] for at in (0, 1, 3)}
    assert bench.codes() == {2: Code.NOT_FINITE}
    assert isinstance(column, Scattered) and len(column.parts) == 3
    for index, part in zip(admitted.indices, column.parts, strict=True):
        assert np.shares_memory(part, np.frombuffer(values[index], np.uint8))
    own = None if admitted.deadlines_ms is None else admitted.deadlines_ms.tolist()
    assert own == ([STAMP_MS + at for at in (0, 1, 3)] if own_headers else None)
