"""Knows what was asked, sees what the broker gets, and says where an invariant is broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from tests.simulate.broker import Landed, Source, Transaction
from tests.simulate.consumer import Consumer
from tests.simulate.group import Group, Membership
from tests.simulate.requests import Request

__all__ = ["Judge", "Violation"]

PREDICTIONS, DEAD_LETTERS = "m.predictions", "m.dead-letters"


class Violation(AssertionError):
    """An invariant is broken."""


class Judge:
    """Sees each request's records as a read-committed consumer does."""

    def __init__(self, *, exactly_once: bool) -> None:
        self.exactly_once = exactly_once
        self.group: Group  # set by who makes both
        self.requests: dict[Source, Request] = {}
        self.offsets: dict[int, list[int]] = defaultdict(list)
        self.twins: dict[int, list[Source]] = defaultdict(
            list
        )  # by number: requests that are alike, one may answer all
        self.violations: list[str] = []
        self.polls: Counter[Source] = Counter()
        self.failed: Counter[Source] = Counter()  # deliveries
        self.alone: set[int] = set()  # requests whose batch failed with them alone, though nothing is wrong with them
        self.disturbed: set[int] = set()  # requests whose batch failed
        self.poison: set[int] = set()
        self.statuses: defaultdict[Source, list[str]] = defaultdict(list)
        self.dead_letters: Counter[Source] = Counter()
        self.first_answers: defaultdict[bytes | None, list[int]] = defaultdict(list)

    def violate(self, what: str) -> None:
        self.violations.append(what)
        raise Violation(what)

    def asked(self, request: Request) -> None:
        self.requests[request.partition, request.offset] = request
        self.offsets[request.partition].append(request.offset)
        self.twins[request.number].append((request.partition, request.offset))
        if request.kind == "poison":
            self.poison.add(request.number)

    def batch_failed(self, numbers: set[int]) -> None:
        self.disturbed |= numbers
        if len(numbers) == 1:
            self.alone |= numbers

    # --- what the broker tells ---------------------------------------------------------------------------------------

    def polled(self, source: Source) -> None:
        self.polls[source] += 1

    def undelivered(self, source: Source) -> None:
        self.failed[source] += 1

    def produced(self, record: Landed, consumer: Consumer, work_began: int) -> None:
        partition, offset = record.source
        over = consumer.over.get(consumer.polled.get(partition, {}).get(offset, 0))
        if over is not None and over < work_began:
            self.violate(f"I3: {record.worker} produces {record.source} of an assignment that was over before")

    def appended(self, record: Landed) -> None:
        if record.transaction is None:
            self._seen(record)

    def accepted(self, membership: Membership, offsets: Mapping[int, int]) -> None:
        for partition in offsets:
            if (owner := self.group.owners[partition]) != membership[0]:
                self.violate(f"I3: {membership} commits partition {partition}, which is {owner}'s")

    def committed(self, offsets: Mapping[int, int], worker: str) -> None:
        if self.exactly_once:
            self.violate(f"I1: {worker} commits {offsets} outside of a transaction")
        for partition, offset in offsets.items():
            for each in self._between(partition, offset):
                if not self._is_cared_for((partition, each), offsets):
                    self.violate(f"I2: {worker} commits {partition}/{offset} and {each} has no outcome")

    def transacted(self, transaction: Transaction) -> None:
        within = {
            (partition, each)
            for partition, offset in transaction.offsets.items()
            for each in self._between(partition, offset)
        }
        for record in transaction.records:
            if record.source not in within:
                self.violate(f"I1: a transaction of {record.worker} does not cover {record.source} of a record in it")
            self._seen(record)
        for source in sorted(within):
            if not self._is_cared_for(source, transaction.offsets):
                self.violate(f"I2: a transaction covers {source}, which has no outcome")

    def _between(self, partition: int, offset: int) -> list[int]:
        """Offsets of the requests that a commit newly covers."""
        before = self.group.committed.get(partition, 0)
        if offset < before:
            self.violate(f"I2: partition {partition} is committed at {offset} after {before}")
        return [each for each in self.offsets[partition] if before <= each < offset]

    def _is_cared_for(self, source: Source, offsets: Mapping[int, int]) -> bool:
        """Whether it, or one like it, has an outcome or will after a commit of ``offsets``, whatever fails by then."""
        for twin in self.twins[self.requests[source].number]:
            partition, offset = twin
            if self._is_done(twin) or offset >= max(self.group.committed.get(partition, 0), offsets.get(partition, 0)):
                return True
        return False

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def _is_done(self, source: Source) -> bool:
        statuses = self.statuses.get(source, ())
        return "ok" in statuses or "expired" in statuses or ("rejected" in statuses and source in self.dead_letters)

    def _seen(self, record: Landed) -> None:
        request, source, status = self.requests[record.source], record.source, record.status
        if record.key != request.message.key():
            self.violate(f"I1: {source} is answered under the key {record.key!r}")
        if not request.may_be(status) and not (status == "rejected" and request.number in self.alone):
            self.violate(f"I7: {source}, which is {request.kind}, is {status}: {record.headers} {record.value!r}")
        if record.topic == DEAD_LETTERS:
            self.dead_letters[source] += 1
            if record.value != request.message.value():
                self.violate(f"I1: the dead letter of {source} has other bytes")
            return
        if status == "ok":
            if request.kind != "json" and record.value != request.answer:
                self.violate(f"I7: {source} has another request's answer")
            if "ok" not in self.statuses[source]:
                self.first_answers[record.key].append(record.source[1])
        self.statuses[source].append(status)

    # --- at the end --------------------------------------------------------------------------------------------------

    def finish(self, *, clean: bool) -> None:
        """Everything is over: one outcome each, in the order of their keys. ``clean``: nothing failed on the way."""
        for source in self.requests:
            if not self._is_done(source) and not self._is_duplicate(source):
                self.violate(f"I1: {source} has no outcome")
            allowed = 1 if self.exactly_once or clean else self.polls[source] + self._failed(source)
            if max(len(self.statuses[source]), self.dead_letters[source]) > allowed:
                self.violate(
                    f"I1: {source} has {self.statuses[source]} and {self.dead_letters[source]} dead letters, "
                    f"polled {self.polls[source]} times with {self.failed[source]} failed deliveries"
                )
        for key, answered in self.first_answers.items():
            partition = int(key or b"0") % 10
            kept = [offset for offset in answered if self._keeps_order((partition, offset))]
            if kept != sorted(kept):
                self.violate(f"order: key {key!r} is answered in the order {kept}")

    def _is_duplicate(self, source: Source) -> bool:
        """Whether one like it was answered, or had as much time to be."""
        request = self.requests[source]
        for twin in self.twins[request.number]:
            statuses = self.statuses[twin]
            if "ok" in statuses or (twin != source and "rejected" in statuses and self._is_done(twin)):
                return True
            if "expired" in statuses and 0 < request.deadline_ms <= self.requests[twin].deadline_ms:
                return True
        return False

    def _keeps_order(self, source: Source) -> bool:
        """Whether it may not overtake others: what is answered again may, halves of a batch, another content type."""
        request = self.requests[source]
        again = self.polls[source] > 1 or self.failed[source] or request.number in self.disturbed
        return not again and request.kind != "json"

    def _failed(self, source: Source) -> int:
        """Deliveries of it that failed; expired notices of a key are alike, so that with one all are made again."""
        if set(self.statuses[source]) != {"expired"}:
            return self.failed[source]
        key = self.requests[source].message.key()
        return sum(self.failed[other] for other, request in self.requests.items() if request.message.key() == key)
