"""From headers and the SLO to deadlines and the order of service."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.admit import Admitted, HeaderColumns, RequestHeaders
from pipeline.admit.admission import NO_DEADLINE_MS
from pipeline.window.asked import PATIENCE_NS, PRIORITY_NS, asked_of, of_turn
from pipeline.window.ordered import NEVER_NS
from tests.unit.infer.makers import RAW_CODEC, admitted_of
from tests.unit.intake.messages import POLLED_MS, POLLED_NS, chunk_of, message

MS = 1_000_000
UNIX_NS = POLLED_NS - POLLED_MS * MS  # the clocks of a chunk made by hand agree at its poll


def with_priorities(admitted: Admitted, *priorities: int) -> Admitted:
    return replace(
        admitted, headers=HeaderColumns.of([RequestHeaders(RAW_CODEC, priority=each) for each in priorities])
    )


def test_nothing_is_asked_where_there_is_no_slo_no_deadline_and_no_priority() -> None:
    assert asked_of(admitted_of([1, 1]), None, UNIX_NS) is None
    assert asked_of(with_priorities(admitted_of([1, 1]), 5, 5), None, UNIX_NS) is None


def test_a_deadline_is_the_headers_else_the_arrival_in_kafka_and_the_slo() -> None:
    admitted = admitted_of([1, 1, 1], deadlines_ms=[POLLED_MS + 3, NO_DEADLINE_MS, POLLED_MS + 900])
    asked = asked_of(admitted, 25.5, UNIX_NS)  # messages made by hand are 10 ms old when they are polled
    assert asked is not None
    assert ((asked.deadline_ns - POLLED_NS) / MS).tolist() == [3, 15.5, 900]
    assert ((asked.due_ns - POLLED_NS) / MS).tolist() == [3, 15.5, 15.5], "a lax deadline does not put others off"


def test_without_an_slo_only_headers_are_deadlines() -> None:
    asked = asked_of(admitted_of([1, 1], deadlines_ms=[NO_DEADLINE_MS, POLLED_MS - 7]), None, UNIX_NS)
    assert asked is not None
    assert asked.deadline_ns.tolist() == [NEVER_NS, POLLED_NS - 7 * MS]
    assert asked.order_ns.tolist() == [POLLED_NS + PATIENCE_NS, POLLED_NS - 7 * MS]


def test_a_priority_moves_a_request_by_a_bounded_time() -> None:
    asked = asked_of(with_priorities(admitted_of([1, 1, 1]), 0, 5, 9), None, UNIX_NS)
    assert asked is not None
    moved = [PATIENCE_NS + 5 * PRIORITY_NS, PATIENCE_NS, PATIENCE_NS - 4 * PRIORITY_NS]
    assert (asked.order_ns - POLLED_NS).tolist() == moved
    late_urgent = asked_of(with_priorities(admitted_of([1, 1]), 5, 9), None, UNIX_NS)
    assert late_urgent is not None and (late_urgent.order_ns - POLLED_NS).tolist() == moved[1:]
    all_urgent = with_priorities(admitted_of([1, 1]), 9, 9)
    urgent = asked_of(all_urgent, None, UNIX_NS)
    assert urgent is not None and (urgent.order_ns - POLLED_NS).tolist() == moved[2:] * 2


def test_a_client_whose_clock_is_ahead_gains_nothing() -> None:
    chunk = chunk_of([message(0, timestamp_ms=POLLED_MS + 60_000), message(1, timestamp_ms=POLLED_MS)])
    asked = asked_of(replace(admitted_of([1, 1]), chunk=chunk), 10, UNIX_NS)
    assert asked is not None and asked.deadline_ns.tolist() == [POLLED_NS + 10 * MS] * 2


@pytest.mark.parametrize("deadline_ms", [NO_DEADLINE_MS - 1, POLLED_MS * 1_000_000])
def test_a_deadline_at_the_end_of_time_overflows_nothing(deadline_ms: int) -> None:
    asked = asked_of(admitted_of([1], deadlines_ms=[deadline_ms]), None, UNIX_NS)
    assert asked is not None and POLLED_NS < asked.deadline_ns[0] < NEVER_NS
    assert asked.order_ns[0] == POLLED_NS + PATIENCE_NS


def test_keys_are_told_apart_and_none_is_no_key() -> None:
    messages = [message(0, key=b"a"), message(1), message(2, key=b""), message(3, key=b"a"), message(4)]
    admitted = replace(admitted_of([1] * 3), chunk=chunk_of(messages), indices=[0, 1, 3])
    assert (np.diff(of_turn(admitted).keys) != 0).tolist() == [True, True]
    keys = of_turn(replace(admitted_of([1] * 5), chunk=chunk_of(messages))).keys
    assert (keys == 0).tolist() == [False, True, False, False, True] and keys[0] == keys[3] != keys[2]
