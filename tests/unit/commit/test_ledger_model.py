"""The ledger against a naive model: any interleaving of assignments, chunks, completions and commits (F10-F12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from pipeline.commit import Ledger, Offsets, TopicPartitionKey

KEYS: list[TopicPartitionKey] = [("a", 0), ("a", 1), ("b", 0)]


@dataclass(eq=False)
class Polled:
    """A chunk as the ledger sees it, and which of its requests are done."""

    topic: str
    partition: int
    epoch: int
    offsets: list[int]
    size_bytes: int
    done: set[int] = field(default_factory=set)


@dataclass
class Owned:
    """What the model knows of a partition that is ours."""

    epoch: int
    chunks: list[Polled] = field(default_factory=list)
    handed: int | None = None

    def bounds(self) -> tuple[int | None, int | None]:
        """One past the finished prefix, and the first unfinished offset."""
        past = None
        for chunk in self.chunks:
            for index, offset in enumerate(chunk.offsets):
                if index not in chunk.done:
                    return past, offset
                past = offset + 1
        return past, None


class LedgerMachine(RuleBasedStateMachine):
    chunks: Bundle[Polled] = Bundle("chunks")
    commits: Bundle[Offsets] = Bundle("commits")

    @initialize()
    def start(self) -> None:
        self.ledger = Ledger()
        self.owned: dict[TopicPartitionKey, Owned] = {}
        self.next_offset = dict.fromkeys(KEYS, 0)
        self.ignored = 0

    @rule(key=st.sampled_from(KEYS))
    def assign(self, key: TopicPartitionKey) -> None:
        if key not in self.owned:
            before = self.ledger.epoch(key)
            self.ledger.assign([key])
            epoch = self.ledger.epoch(key)
            assert before is None and epoch is not None
            self.owned[key] = Owned(epoch)

    @rule(keys=st.sets(st.sampled_from(KEYS)))
    def release(self, keys: set[TopicPartitionKey]) -> None:
        gone = [self.owned.pop(key) for key in sorted(keys) if key in self.owned]
        unfinished = sum(len(chunk.offsets) - len(chunk.done) for owned in gone for chunk in owned.chunks)
        assert sum(self.ledger.release(sorted(keys)).values()) == unfinished

    @rule(
        target=chunks,
        data=st.data(),
        gaps=st.lists(st.sampled_from([1, 1, 1, 2, 9]), min_size=1, max_size=6),
        size_bytes=st.integers(0, 99),
    )
    def track(self, data: Any, gaps: list[int], size_bytes: int) -> Any:
        if not self.owned:
            return multiple()
        key = data.draw(st.sampled_from(sorted(self.owned)))
        owned, start = self.owned[key], self.next_offset[key]
        offsets = list(accumulate(gaps[1:], initial=start + gaps[0] - 1))
        self.next_offset[key] = offsets[-1] + 1
        chunk = Polled(key[0], key[1], owned.epoch, offsets, size_bytes)
        self.ledger.track(chunk)
        owned.chunks.append(chunk)
        return chunk

    @rule(chunk=chunks, data=st.data())
    def finish(self, chunk: Polled, data: Any) -> None:
        """All, a run, or a few of a chunk's requests, some of them perhaps again, of any assignment."""
        size = len(chunk.offsets)
        runs = st.tuples(st.integers(0, size), st.integers(0, size)).map(lambda ends: slice(*sorted(ends)))
        few = st.lists(st.integers(0, size - 1), max_size=size + 1)
        indices = data.draw(st.one_of(st.none(), runs, few))
        owned = self.owned.get((chunk.topic, chunk.partition))
        current = owned is not None and owned.epoch == chunk.epoch
        self.ignored += not current or len(chunk.done) == size
        assert self.ledger.is_current(chunk) == current
        newly = self.ledger.finish(chunk, indices)
        before = len(chunk.done)
        if current:
            picked = indices if isinstance(indices, list) else range(size)[indices or slice(None)]
            chunk.done.update(picked)
        assert newly == len(chunk.done) - before

    @rule(target=commits, keys=st.one_of(st.none(), st.sets(st.sampled_from(KEYS))))
    def commit(self, keys: set[TopicPartitionKey] | None) -> Offsets:
        offsets = self.ledger.committable(keys)
        assert offsets.keys() <= (self.owned.keys() if keys is None else keys & self.owned.keys())
        for key in self.owned.keys() if keys is None else keys & self.owned.keys():
            owned = self.owned[key]
            past, unfinished = owned.bounds()
            if key in offsets:
                assert offsets[key] != owned.handed
                owned.handed = offsets[key]
            if owned.handed is not None:
                assert unfinished is None or owned.handed <= unfinished, "I2"
            if past is not None:
                assert owned.handed is not None and owned.handed >= past, "a stuck gap"
        return offsets

    @rule(offsets=consumes(commits))
    def fail_commit(self, offsets: Offsets) -> None:
        self.ledger.forget_commit(offsets)
        for key in offsets:
            if key in self.owned:
                self.owned[key].handed = None

    @invariant()
    def counts(self) -> None:
        if not hasattr(self, "owned"):
            return
        chunks = [chunk for owned in self.owned.values() for chunk in owned.chunks]
        unfinished = [len(chunk.offsets) - len(chunk.done) for chunk in chunks]
        open_bytes = sum(chunk.size_bytes for chunk, left in zip(chunks, unfinished, strict=True) if left)
        assert self.ledger.in_flight_requests == sum(unfinished)
        assert sum(self.ledger.in_flight().values()) == sum(unfinished)
        assert self.ledger.in_flight_bytes == open_bytes
        assert self.ledger.ignored == self.ignored
        for key in KEYS:
            open_here = any(len(c.offsets) > len(c.done) for c in chunks if (c.topic, c.partition) == key)
            assert self.ledger.wait_drained([key], 0.0) == (not open_here)

    def teardown(self) -> None:
        """What is still open ends, and nothing is left over."""
        if hasattr(self, "owned"):
            for owned in self.owned.values():
                for chunk in owned.chunks:
                    self.ledger.finish(chunk)
            assert (self.ledger.in_flight_requests, self.ledger.in_flight_bytes) == (0, 0)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
