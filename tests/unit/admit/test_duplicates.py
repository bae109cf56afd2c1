"""What counts as asked before: id and body, the window, the assignment, deadlines, and what was forgotten."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.admit import Duplicates, HeaderColumns, RequestHeaders
from pipeline.commit import Ledger
from pipeline.intake import Chunk
from tests.unit.intake.messages import POLLED_MS, TOPIC, chunk_of, message
from topics.codecs import codec_for
from topics.records import JSON, RAW

WINDOW_S = 10


@dataclass
class Clock:
    ns: int = 0

    def now_ns(self) -> int:
        return self.ns

    def unix_ms(self) -> float:
        return self.ns / 1e6


def said(request_id: str | None = "a", *, content_type: str = RAW, deadline_ms: int | None = None) -> RequestHeaders:
    return RequestHeaders(codec_for(content_type), request_id=request_id, deadline_ms=deadline_ms)


def said_of(*each: RequestHeaders) -> HeaderColumns:
    return HeaderColumns.of(each)


class Case:
    """What is remembered, over a ledger that has two partitions; each request is a chunk of its own unless told."""

    def __init__(self, requests_max: int = 100) -> None:
        self.clock, self.ledger = Clock(), Ledger()
        self.duplicates = Duplicates(WINDOW_S, requests_max, ledger=self.ledger, clock=self.clock)
        self.ledger.assign([(TOPIC, 0), (TOPIC, 1)])
        self._offset = 0

    def poll(self, *values: bytes | None, partition: int = 0, topic: str = TOPIC) -> Chunk:
        epoch = self.ledger.epoch((topic, partition))
        assert epoch is not None
        messages = [message(self._offset + at, v, partition=partition, topic=topic) for at, v in enumerate(values)]
        self._offset += len(values)
        chunk = chunk_of(messages, epoch=epoch, finish=self.ledger.finish)
        self.ledger.track(chunk)
        return chunk

    def again(self, value: bytes | None = b"v", *, partition: int = 0, headers: RequestHeaders | None = None) -> bool:
        """Whether a request that is read now is a duplicate."""
        return self.duplicates.find(self.poll(value, partition=partition), [0], said_of(headers or said())) == [0]


def test_the_same_id_and_body_is_a_duplicate_in_the_same_chunk_and_in_another_partition() -> None:
    case = Case()
    chunk = case.poll(b"v", b"w", b"v", b"v")
    assert case.duplicates.find(chunk, [0, 2, 3], said_of(said(), said(), said("b"))) == [1], "positions, not indices"
    assert case.again() and case.again(partition=1)


def test_deadlines_are_those_of_each_request() -> None:
    case = Case()
    asked = said_of(said(deadline_ms=1), said("b", deadline_ms=2))
    assert case.duplicates.find(case.poll(b"v", b"v"), [0, 1], asked) == []
    assert case.again(headers=said("b", deadline_ms=2)) and not case.again(headers=said(deadline_ms=2))


@pytest.mark.parametrize("other", [said("b"), said(content_type=JSON), said(None)])
def test_another_id_or_content_type_is_not(other: RequestHeaders) -> None:
    case = Case()
    assert not case.again()
    assert not case.again(headers=other)


def test_of_a_model_with_an_slo_one_that_came_later_may_be_answered_where_the_first_expires() -> None:
    case = Case()
    stamp_ms = int(case.poll(b"v").timestamps_ms()[0])
    assert case.duplicates.find(case.poll(b"v"), [0], said_of(said()), slo_ms=50.0) == []
    assert case.duplicates.find(case.poll(b"v"), [0], said_of(said(deadline_ms=stamp_ms + 51)), slo_ms=50.0) == []
    assert case.duplicates.find(case.poll(b"v"), [0], said_of(said(deadline_ms=stamp_ms + 51)), slo_ms=50.0) == [0]
    assert case.duplicates.find(case.poll(b"v"), [0], said_of(said()), slo_ms=50.0) == [0], "due before"


def test_another_body_or_model_is_not_and_does_not_push_out_the_first() -> None:
    case = Case()
    case.ledger.assign([("other.requests", 0)])
    assert not case.again(b"v")
    assert not case.again(b"w") and not case.again(None) and not case.again(None)
    assert case.duplicates.find(case.poll(b"v", topic="other.requests"), [0], said_of(said())) == []
    assert case.again(b"v") and case.again(b"w")


def test_id_and_body_are_told_apart_where_they_meet() -> None:
    case = Case()
    assert not case.again(b"bc", headers=said("a"))
    assert not case.again(b"c", headers=said("ab"))


def test_without_an_id_nothing_is_remembered() -> None:
    case = Case()
    assert not case.again(headers=said(None)) and not case.again(headers=said(None))
    assert len(case.duplicates) == 0


def test_the_window_begins_with_the_original_and_a_duplicate_does_not_prolong_it() -> None:
    case = Case()
    assert not case.again()
    case.clock.ns += WINDOW_S * 10**9 - 1
    assert case.again()
    case.clock.ns += 1
    assert not case.again()
    assert case.again(), "that one began a window of its own"


def test_the_oldest_is_forgotten_early_where_there_are_too_many_and_that_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = Case(requests_max=2)
    with caplog.at_level(logging.WARNING):
        assert not any(case.again(headers=said(name)) for name in "abcd")
    assert len(case.duplicates) == 2 and len(caplog.records) == 1
    assert case.again(headers=said("c")) and case.again(headers=said("d"))
    assert not case.again(headers=said("a"))


@pytest.mark.parametrize("finished", [False, True])
def test_a_lost_assignments_requests_have_no_duplicates_and_one_read_again_is_none_of_itself(finished: bool) -> None:
    """Another worker may drop the original for a request that was read here: one of both has to be answered."""
    case = Case()
    original = case.poll(b"v")
    assert case.duplicates.find(original, [0], said_of(said())) == []
    if finished:
        original.finish()
    case.ledger.release([(TOPIC, 0)])
    assert not case.again(partition=1)
    case.ledger.assign([(TOPIC, 0)])
    reread = chunk_of([message(original.offsets[0], b"v")], epoch=case.ledger.epoch((TOPIC, 0)) or 0)
    case.ledger.track(reread)
    assert case.duplicates.find(reread, [0], said_of(said())) == [0], "its duplicate in partition 1 is in flight"
    case.ledger.release([(TOPIC, 1)])
    assert case.duplicates.find(reread, [0], said_of(said())) == []


def test_a_chunk_of_a_lost_assignment_is_remembered_to_no_effect() -> None:
    case = Case()
    stale = case.poll(b"v")
    case.ledger.assign([(TOPIC, 0)])
    assert case.duplicates.find(stale, [0], said_of(said())) == []
    assert not case.again()


def test_an_original_that_may_expire_first_counts_once_it_is_answered() -> None:
    case = Case()
    original = case.poll(b"v", b"w")
    assert case.duplicates.find(original, [0], said_of(said(deadline_ms=1000))) == []
    assert case.again(headers=said(deadline_ms=1000)) and case.again(headers=said(deadline_ms=999))
    original.finish([0])
    assert case.again(headers=said(deadline_ms=1001)) and case.again(headers=said())


@pytest.mark.parametrize("later_ms", [1001, None])
def test_who_asks_for_more_time_than_an_unanswered_original_is_answered_too(later_ms: int | None) -> None:
    case = Case()
    assert not case.again(headers=said(deadline_ms=1000))
    assert not case.again(headers=said(deadline_ms=later_ms))
    assert case.again(headers=said(deadline_ms=later_ms)), "and is the original from there on"


def test_what_gets_no_prediction_is_forgotten_unless_another_took_its_place() -> None:
    case = Case()
    first = case.poll(b"v", b"v")
    assert case.duplicates.find(first, [0], said_of(said(deadline_ms=1))) == []
    case.duplicates.forget(first, 1, said())
    assert case.again(headers=said(deadline_ms=1)), "another of the same kind was"
    assert not case.again(headers=said(deadline_ms=2))
    case.duplicates.forget(first, 0, said(deadline_ms=1))
    assert case.again(headers=said(deadline_ms=2))
    case.duplicates.forget(first, 0, said(None))
    again = case.poll(b"x")
    assert case.duplicates.find(again, [0], said_of(said())) == []
    case.duplicates.forget(again, 0, said())
    assert not case.again(b"x")


@given(st.data())
def test_bound_and_window_hold_whatever_comes(data: st.DataObject) -> None:
    """Against a list that keeps all: a duplicate has a standing original in the window, and what lacks one is none."""
    requests_max = data.draw(st.integers(1, 4))
    case = Case(requests_max)
    kept: list[tuple[str, int, int, int]] = []  # id, partition, epoch, moment; the oldest first
    for _ in range(data.draw(st.integers(1, 40))):
        step = data.draw(st.sampled_from(["ask", "ask", "ask", "wait", "lose"]))
        partition = data.draw(st.integers(0, 1))
        if step == "wait":
            case.clock.ns += data.draw(st.integers(0, WINDOW_S * 10**9))
        elif step == "lose":
            case.ledger.release([(TOPIC, partition)])
            case.ledger.assign([(TOPIC, partition)])
        else:
            name, epoch = data.draw(st.sampled_from("abcdef")), case.ledger.epoch((TOPIC, partition)) or 0
            kept = [each for each in kept if case.clock.ns - each[3] < WINDOW_S * 10**9]
            standing = any(n == name and case.ledger.epoch((TOPIC, p)) == e for n, p, e, _ in kept)
            assert case.again(partition=partition, headers=said(name)) == standing
            if not standing:
                kept = [each for each in kept if each[0] != name][-requests_max + 1 :] if requests_max > 1 else []
                kept.append((name, partition, epoch, case.clock.ns))
        assert len(case.duplicates) <= requests_max


def test_a_timestamp_ahead_of_our_clock_makes_no_deadline_later() -> None:
    """The window takes it for the moment of the poll: the first would expire, and who came later not be answered."""
    case = Case()
    epoch = case.ledger.epoch((TOPIC, 0)) or 0
    for offset, timestamp_ms in enumerate((POLLED_MS + 3_600_000, POLLED_MS)):
        ahead = message(offset, b"v", timestamp_ms=timestamp_ms)
        chunk = chunk_of([ahead], epoch=epoch, finish=case.ledger.finish)
        case.ledger.track(chunk)
        asked = said_of(said(deadline_ms=POLLED_MS + 70) if offset else said())
        assert case.duplicates.find(chunk, [0], asked, slo_ms=50.0) == []
