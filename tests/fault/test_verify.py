"""The verifier itself: it finds what is wrong, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pytest

from tests.fault.verify import Seen, Sent, Snap, Verdict, silence_s, verify
from topics.names import topics_of
from topics.records import Status

TOPICS = topics_of("m")
PREDICTIONS, DEAD_LETTERS = (TOPICS.predictions, 0), (TOPICS.dead_letters, 0)
SENT = [Sent(str(n), b"key", 0, n, 1000 * n) for n in range(5)]


def outcome(n: int, at: int, status: Status = Status.OK, place: tuple[str, int] = PREDICTIONS) -> Seen:
    return Seen(str(n), status, f"{TOPICS.requests}/0/{n}", b"key", b"right", place, at, 1000 * n + 100)


ALL = [outcome(n, n) for n in range(5)]
END = Snap({0: 5}, {PREDICTIONS: 5})


def judge(seen: Sequence[Seen], *snaps: Snap, sent: Sequence[Sent] = SENT) -> Verdict:
    return verify(TOPICS, sent, seen, [*snaps, END], right=lambda request_id, value: value == b"right")


def test_all_is_well() -> None:
    verdict = judge(ALL, Snap({}, {PREDICTIONS: 0}), Snap({0: 2}, {PREDICTIONS: 3}))
    assert verdict == Verdict(sent=5, answered=5)
    assert not verdict.faults(exactly_once=True)


def test_the_three_outcomes_are_told_apart() -> None:
    seen = [outcome(0, 0), outcome(1, 1, Status.EXPIRED), outcome(2, 2, Status.REJECTED), *ALL[3:]]
    seen.append(outcome(2, 0, Status.REJECTED, DEAD_LETTERS))
    snap = Snap({0: 5}, {PREDICTIONS: 5, DEAD_LETTERS: 1})
    verdict = verify(TOPICS, SENT, seen, [snap])
    assert asdict(verdict) == asdict(Verdict(sent=5, answered=3, expired=1, dead=1))


@pytest.mark.parametrize(
    ("seen", "snaps", "faults"),
    [
        # a lost request that was committed past is found twice
        (ALL[:2] + ALL[3:], [], {"lost": 1, "passed": 1}),
        ([*ALL, outcome(1, 5)], [], {"repeated": 1}),
        ([outcome(1, 0), outcome(0, 1), *ALL[2:]], [], {"reordered": 1}),
        ([*ALL, outcome(7, 5)], [], {"strange": 1}),
        ([*ALL[:4], ALL[4]._replace(source=f"{TOPICS.requests}/0/9")], [], {"strange": 1}),
        ([*ALL[:4], ALL[4]._replace(key=b"other")], [], {"strange": 1}),
        ([*ALL[:4], ALL[4]._replace(value=b"another request's")], [], {"wrong": 1}),
        ([*ALL, outcome(1, 5, Status.EXPIRED)], [], {"contradicting": 1, "repeated": 1}),
        ([*ALL[:4], outcome(4, 4, Status.REJECTED)], [], {"contradicting": 1}),
        ([*ALL, outcome(4, 0, Status.REJECTED, DEAD_LETTERS)], [], {"contradicting": 1, "passed": 1}),
        (ALL, [Snap({0: 3}, {PREDICTIONS: 2})], {"passed": 1}),
        (ALL, [Snap({0: 3}, {PREDICTIONS: 3}), Snap({0: 2}, {PREDICTIONS: 3})], {"went_back": 1}),
    ],
)
def test_each_fault_is_found_and_no_other(seen: list[Seen], snaps: list[Snap], faults: dict[str, int]) -> None:
    assert judge(seen, *snaps).faults(exactly_once=True) == faults


def test_an_end_that_is_not_reached_is_found() -> None:
    verdict = verify(TOPICS, SENT, ALL, [Snap({0: 4}, {PREDICTIONS: 5})])
    assert verdict.faults() == {"unfinished": 1}


def test_repeats_and_order_are_faults_only_where_they_are_promised() -> None:
    seen = [outcome(1, 0), outcome(0, 1), *ALL[2:], outcome(0, 5)]
    assert judge(seen).faults() == {"reordered": 1}
    assert judge(seen).faults(ordered=False) == {}
    assert judge(seen).repeated == 1


def test_a_request_whose_sending_nobody_knows_of_may_be_answered_or_not() -> None:
    assert not verify(TOPICS, SENT[:4], ALL, unsure={"4"}).faults(exactly_once=True)
    assert not verify(TOPICS, SENT[:4], ALL[:4], unsure={"4"}).faults(exactly_once=True)


def test_silence_is_the_longest_wait_of_a_partition_for_any_outcome() -> None:
    assert silence_s(SENT, ALL) == pytest.approx(0.1)  # each is answered 100 ms after it was sent, a second apart
    late = [each._replace(at_ms=each.at_ms + (7000 if each.offset >= 3 else 0)) for each in ALL]
    assert silence_s(SENT, late) == pytest.approx(7.1)
    assert silence_s(SENT, late, since_ms=8000) == pytest.approx(2.1)
    elsewhere = [Sent(f"x{n}", b"key", 1, n, 1000 * n) for n in range(5)]
    other = [each._replace(request_id=f"x{each.request_id}", place=(TOPICS.predictions, 1)) for each in ALL]
    assert silence_s([*SENT, *elsewhere], [*late, *other]) == pytest.approx(7.1), "another partition's do not count"
