"""The ledger's waits, its epochs, and its promises under threads."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from pipeline.commit import Ledger

KEY = ("t", 0)


@dataclass
class Polled:
    """A chunk as the ledger sees it."""

    offsets: list[int]
    epoch: int
    topic: str = "t"
    partition: int = 0
    size_bytes: int = 100


def tracking(*offsets: list[int]) -> tuple[Ledger, list[Polled]]:
    """A ledger with one partition and its chunks."""
    ledger = Ledger()
    ledger.assign([KEY])
    chunks = [Polled(each, epoch=ledger.epoch(KEY) or 0) for each in offsets]
    for chunk in chunks:
        ledger.track(chunk)
    return ledger, chunks


def test_nothing_is_committable_before_the_first_request_is_finished() -> None:
    ledger, (chunk,) = tracking([5, 6])
    assert ledger.committable() == {}
    ledger.finish(chunk, [1])
    assert ledger.committable() == {}


def test_a_commit_stops_at_the_first_unfinished_request() -> None:
    ledger, (first, second) = tracking([0, 1, 2], [3, 4])
    ledger.finish(second)
    ledger.finish(first, slice(0, 1))
    assert ledger.committable() == {KEY: 1}
    ledger.finish(first, [2])
    assert ledger.committable() == {}
    ledger.finish(first, [1])
    assert ledger.committable() == {KEY: 5}


def test_a_request_is_open_until_it_is_finished_and_nobodys_once_its_assignment_is_lost() -> None:
    ledger, (first, second) = tracking([0, 3, 7], [9, 10])
    ledger.finish(first, [1])
    ledger.finish(second, [0])
    assert [ledger.is_open(KEY, first.epoch, offset) for offset in (0, 3, 7, 9, 10)] == [True, False, True, False, True]
    ledger.finish(first)
    assert [ledger.is_open(KEY, first.epoch, offset) for offset in (0, 7, 9, 10)] == [False, False, False, True]
    ledger.finish(second)
    assert ledger.is_open(KEY, first.epoch, 10) is False
    ledger.assign([KEY])
    assert ledger.is_open(KEY, first.epoch, 10) is None and ledger.is_open(("t", 1), 1, 10) is None


def test_holes_between_offsets_are_never_waited_for() -> None:
    ledger, (first, second) = tracking([3, 7, 20], [90])
    ledger.finish(first, [0])
    assert ledger.committable() == {KEY: 7}
    ledger.finish(first, [1, 2])
    assert ledger.committable() == {KEY: 21}
    ledger.finish(second)
    assert ledger.committable() == {KEY: 91}


def test_an_offset_is_handed_to_one_commit_until_that_fails() -> None:
    ledger, (chunk,) = tracking([0])
    ledger.finish(chunk)
    offsets = ledger.committable()
    assert (offsets, ledger.committable()) == ({KEY: 1}, {})
    ledger.forget_commit(offsets)
    assert ledger.committable() == {KEY: 1}


def test_only_the_partitions_asked_for_are_committable() -> None:
    ledger, (chunk,) = tracking([0])
    ledger.finish(chunk)
    assert ledger.committable([("t", 1)]) == {}
    assert ledger.committable([KEY]) == {KEY: 1}


def test_a_failed_commit_of_a_partition_that_is_gone_is_forgotten() -> None:
    ledger, (chunk,) = tracking([0])
    ledger.finish(chunk)
    offsets = ledger.committable()
    ledger.release([KEY])
    ledger.forget_commit(offsets)
    ledger.assign([KEY])
    ledger.forget_commit(offsets)
    assert ledger.committable() == {}


def test_completions_of_a_lost_assignment_are_ignored_and_counted() -> None:
    ledger, (old,) = tracking([0, 1])
    assert ledger.is_current(old)
    ledger.release([KEY])
    ledger.finish(old)
    ledger.assign([KEY])
    ledger.track(new := Polled([0, 1], epoch=ledger.epoch(KEY) or 0))
    ledger.finish(old)
    assert (ledger.ignored, ledger.committable(), ledger.in_flight_requests) == (2, {}, 2)
    assert not ledger.is_current(old) and ledger.is_current(new)


def test_a_release_gives_back_what_is_unfinished() -> None:
    ledger, (chunk, _) = tracking([0, 1, 2], [3])
    ledger.finish(chunk, [1])
    assert sum(ledger.release([KEY, ("other", 0)]).values()) == 3
    assert (ledger.in_flight_requests, ledger.in_flight_bytes, ledger.epoch(KEY)) == (0, 0, None)


def test_there_is_room_below_both_limits_only() -> None:
    ledger, _ = tracking([0, 1], [2])
    assert ledger.wait_below(4, 201, 0)
    assert not ledger.wait_below(3, 201, 0)
    assert not ledger.wait_below(4, 200, 0)


def soon(wait: Future[bool], ledger: Ledger) -> None:
    """Returns once the wait is under way in its thread."""
    deadline_s = time.monotonic() + 10
    while not ledger._changed._waiters and not wait.done():  # type: ignore[attr-defined]
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4)


def test_a_wait_for_room_ends_with_the_completion_that_makes_it(pool: ThreadPoolExecutor) -> None:
    ledger, (chunk,) = tracking([0, 1])
    wait = pool.submit(ledger.wait_below, 2, 1_000, 60)
    soon(wait, ledger)
    assert not wait.done()
    ledger.finish(chunk, [0])
    assert wait.result(10)


def test_a_wait_for_room_ends_with_the_release_that_makes_it(pool: ThreadPoolExecutor) -> None:
    ledger, _ = tracking([0, 1])
    wait = pool.submit(ledger.wait_below, 1, 1_000, 60)
    soon(wait, ledger)
    ledger.release([KEY])
    assert wait.result(10)


def test_a_drain_ends_with_the_last_completion(pool: ThreadPoolExecutor) -> None:
    ledger, (chunk,) = tracking([0, 1])
    wait = pool.submit(ledger.wait_drained, [KEY], time.monotonic() + 60)
    soon(wait, ledger)
    ledger.finish(chunk, [0])
    assert not wait.done()
    ledger.finish(chunk, [1])
    assert wait.result(10)


def test_a_drain_waits_for_its_own_partitions_only() -> None:
    ledger, _ = tracking([0])
    assert ledger.wait_drained([("t", 1)], time.monotonic() - 1)
    assert not ledger.wait_drained([KEY], time.monotonic() - 1)


def test_a_flow_that_has_failed_holds_nobody_up(pool: ThreadPoolExecutor) -> None:
    ledger, _ = tracking([0])
    drained = pool.submit(ledger.wait_drained, [KEY], time.monotonic() + 60)
    room = pool.submit(ledger.wait_below, 1, 1, 60)
    soon(drained, ledger)
    ledger.abandon()
    assert not drained.result(10), "what is abandoned is not drained"
    assert not room.result(10), "nor is there room for more"


def test_threads_finish_in_any_order_and_no_commit_passes_what_is_unfinished() -> None:
    chunks_of_100 = [list(range(start, start + 100)) for start in range(0, 4_000, 100)]
    ledger, chunks = tracking(*chunks_of_100)
    begun: set[int] = set()
    work = [(chunk, index) for chunk in chunks for index in range(100)]
    random.Random(3).shuffle(work)

    def finish(part: list[tuple[Polled, int]]) -> None:
        for chunk, index in part:
            begun.add(chunk.offsets[index])
            ledger.finish(chunk, [index])

    threads = [threading.Thread(target=finish, args=(work[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    last = 0
    while last < 4_000:
        for offset in ledger.committable().values():
            assert offset > last
            assert begun.issuperset(range(last, offset))
            last = offset
        assert any(thread.is_alive() for thread in threads) or ledger.in_flight_requests == 0
    for thread in threads:
        thread.join()
    assert (ledger.in_flight_requests, ledger.in_flight_bytes, ledger.ignored) == (0, 0, 0)
