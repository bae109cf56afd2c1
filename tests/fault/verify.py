"""What became of every request: sets, repeats, order and offsets, after the queue check of Jepsen.

`verify` is a pure function of what clients sent, what a read-committed consumer of the predictions and dead letters
reads, and what the group's committed offsets were meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

from topics.names import Topics
from topics.records import Status, source_of

__all__ = ["Seen", "Sent", "Snap", "Verdict", "passed", "silence_s", "verify"]

Place = tuple[str, int]
"""Topic and partition."""


class Sent(NamedTuple):
    """A request the broker has acknowledged."""

    request_id: str
    key: bytes | None
    partition: int
    offset: int
    at_ms: int


class Seen(NamedTuple):
    """A terminal record, as a read-committed consumer sees it."""

    request_id: str
    status: Status
    source: str
    key: bytes | None
    value: bytes | None
    place: Place
    offset: int
    at_ms: int


class Snap(NamedTuple):
    """One look at the group: its committed offsets, and *after* that the ends of the topics it publishes to."""

    committed: Mapping[int, int]  # by partition of the requests; only where there is one
    ends: Mapping[Place, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of requests, if nothing else is said; the first five are what came out, all others should be 0."""

    sent: int = 0
    answered: int = 0
    expired: int = 0
    dead: int = 0
    repeated: int = 0  # records beyond the first of their request; at least once allows them
    lost: int = 0  # without an outcome
    strange: int = 0  # outcomes of requests nobody sent, or whose source or key is not their request's
    contradicting: int = 0  # two different outcomes, or a dead letter without its notice, or a notice without it
    wrong: int = 0  # predictions that are not the model's
    reordered: int = 0  # predictions that overtook an earlier one of their key; notices may, they wait for no batch
    passed: int = 0  # looks at which a committed offset was past a request without an outcome
    went_back: int = 0  # looks at which a committed offset was lower than before
    unfinished: int = 0  # partitions whose committed offset is not one past their last request, at the end

    def faults(self, *, exactly_once: bool = False, ordered: bool = True) -> dict[str, int]:
        """Everything that should be 0 and is not; repeats too where they are promised not to be."""
        names = [field.name for field in fields(self)][5:]
        names += ["repeated"] if exactly_once else []
        return {name: getattr(self, name) for name in names if getattr(self, name) and (ordered or name != "reordered")}

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


def verify(
    topics: Topics,
    sent: Collection[Sent],
    seen: Collection[Seen],
    snaps: Sequence[Snap] = (),
    *,
    unsure: Collection[str] = (),
    right: Callable[[str, bytes | None], bool] = lambda request_id, value: True,
) -> Verdict:
    """Compare. ``unsure`` are requests of which the client does not know whether the broker has them: either is right.

    ``right`` judges a prediction's value. The last snap is that of the end.
    """
    by_id = {each.request_id: each for each in sent}
    assert len(by_id) == len(sent), "request ids are unique"
    answers = [each for each in seen if each.place[0] == topics.predictions]
    letters = [each for each in seen if each.place[0] == topics.dead_letters]
    statuses: dict[str, set[Status]] = {}
    for each in answers:
        statuses.setdefault(each.request_id, set()).add(each.status)
    dead = {each.request_id for each in letters}
    outcomes = statuses.keys() | dead
    of = Counter(status for found in statuses.values() for status in found)
    return Verdict(
        sent=len(by_id),
        answered=of[Status.OK],
        expired=of[Status.EXPIRED],
        dead=len(dead),
        repeated=len(answers) - len(statuses) + len(letters) - len(dead),
        lost=len(by_id.keys() - outcomes),
        strange=sum(_strange(topics, each, by_id, unsure) for each in seen),
        contradicting=sum(len(found) > 1 for found in statuses.values())
        + len(dead ^ {request_id for request_id, found in statuses.items() if Status.REJECTED in found}),
        wrong=sum(each.status is Status.OK and not right(each.request_id, each.value) for each in answers),
        reordered=_reordered(answers),
        passed=len(passed(sent, seen, snaps)),
        went_back=sum(
            offset < before.committed.get(partition, 0)
            for before, after in pairwise(snaps)
            for partition, offset in after.committed.items()
        ),
        unfinished=_unfinished(sent, snaps[-1]) if snaps else 0,
    )


def _strange(topics: Topics, each: Seen, by_id: Mapping[str, Sent], unsure: Collection[str]) -> bool:
    request = by_id.get(each.request_id)
    if request is None:
        return each.request_id not in unsure
    return (each.source, each.key) != (source_of(topics.requests, request.partition, request.offset), request.key)


def first(seen: Iterable[Seen]) -> list[Seen]:
    """The first record of each request, in the order of the log (which is one per partition)."""
    firsts: dict[str, Seen] = {}
    for each in sorted(seen, key=lambda each: (each.place, each.offset)):
        firsts.setdefault(each.request_id, each)
    return list(firsts.values())


def _reordered(answers: Iterable[Seen]) -> int:
    latest: dict[tuple[bytes | None, str], int] = {}
    count = 0
    for each in first(each for each in answers if each.status is Status.OK):
        partition, _, text = each.source.rpartition("/")
        offset = int(text)
        count += offset < latest.get((each.key, partition), -1)
        latest[each.key, partition] = max(offset, latest.get((each.key, partition), -1))
    return count


def passed(sent: Iterable[Sent], seen: Iterable[Seen], snaps: Sequence[Snap]) -> dict[int, str]:
    """Which snaps had committed past a request whose outcome was not in the log yet, and what they missed."""
    outcome = {each.request_id: each for each in first(seen)}
    partitions: dict[int, list[Sent]] = {}
    for each in sorted(sent, key=lambda each: each.offset):
        partitions.setdefault(each.partition, []).append(each)
    found: dict[int, str] = {}
    for partition, requests in partitions.items():
        ends: dict[Place, int] = {}  # that the outcomes of the requests up to here need
        reached, missing = 0, ""
        order = sorted(range(len(snaps)), key=lambda index: snaps[index].committed.get(partition, 0))
        for index in order:
            snap = snaps[index]
            while reached < len(requests) and requests[reached].offset < snap.committed.get(partition, 0):
                record = outcome.get(requests[reached].request_id)
                if record is not None:
                    ends[record.place] = max(ends.get(record.place, 0), record.offset + 1)
                else:
                    missing = f"no outcome of {requests[reached]}"
                reached += 1
            short = [
                f"{place} ends at {snap.ends.get(place)}, not {end}"
                for place, end in ends.items()
                if snap.ends.get(place, 0) < end
            ]
            if missing or short:
                found[index] = f"of {partition} {snap.committed.get(partition)} is committed: {missing} {short}"
    return found


def _unfinished(sent: Iterable[Sent], last: Snap) -> int:
    ends: dict[int, int] = {}
    for each in sent:
        ends[each.partition] = max(ends.get(each.partition, 0), each.offset + 1)
    return sum(last.committed.get(partition, 0) != end for partition, end in ends.items())


def silence_s(sent: Iterable[Sent], seen: Iterable[Seen], since_ms: float = 0.0) -> float:
    """The longest time, from ``since_ms`` on, in which a partition with requests waiting had no outcome; seconds."""
    outcome = {each.request_id: each.at_ms for each in first(seen)}
    partitions: dict[int, list[tuple[int, int]]] = {}
    for each in sent:
        if each.request_id in outcome:
            partitions.setdefault(each.partition, []).append((outcome[each.request_id], each.at_ms))
    longest_ms = 0.0
    for times in partitions.values():
        times.sort(reverse=True)
        oldest_ms = times[0][1]  # sent, of those with an outcome from here on
        for (at_ms, sent_ms), (before_ms, _) in pairwise([*times, (0, 0)]):
            oldest_ms = min(oldest_ms, sent_ms)
            longest_ms = max(longest_ms, at_ms - max(before_ms, oldest_ms, since_ms))
    return longest_ms / 1000
