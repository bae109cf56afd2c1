"""What the intake promises, whatever transport is below it; inherited by one class per transport."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from pipeline.commit import Ledger
from pipeline.core.limits import Limits
from pipeline.intake import Chunk, Intake

__all__ = ["IntakeSuite", "Transport"]

PARTITIONS = 4
WAIT_S = 30.0


class Transport(Protocol):
    """A broker that a test can fill and look into."""

    def intake(self, group: str, ledger: Ledger, limits: Limits) -> Intake: ...
    def create(self, topic: str) -> None: ...
    def produce(
        self, topic: str, partition: int, value: bytes, key: bytes | None = None, headers: Any = ()
    ) -> None: ...
    def flush(self) -> None: ...
    def committed(self, group: str, topic: str) -> list[int]:
        """Committed offset by partition, 0 where none."""
        ...


class Member:
    """A running intake and all it has delivered; finishes chunks at once unless ``hold``."""

    def __init__(self, transport: Transport, group: str, topic: str, *, limits: Limits, hold: bool) -> None:
        self.ledger = Ledger()
        self.intake = transport.intake(group, self.ledger, limits)
        self.chunks: list[Chunk] = []
        self.hold = hold
        self.gate = asyncio.Event()
        self.gate.set()
        self.queue: asyncio.Queue[Chunk] = asyncio.Queue()
        self.intake.route(topic, self.queue.put_nowait)

    async def take(self) -> None:
        """What an agent does."""
        while True:
            await self.gate.wait()
            chunk = await self.queue.get()
            self.intake.taken()
            self.chunks.append(chunk)
            if not self.hold:
                chunk.finish()

    @property
    def requests(self) -> list[tuple[int, int]]:
        return [(chunk.partition, offset) for chunk in self.chunks for offset in chunk.offsets]

    @property
    def values(self) -> list[bytes | None]:
        return [value for chunk in self.chunks for value in chunk.values()]

    def finish_all(self) -> None:
        for chunk in self.chunks:
            chunk.finish()


@contextlib.asynccontextmanager
async def member(
    transport: Transport, group: str, topic: str, *, limits: Limits | None = None, hold: bool = False
) -> AsyncIterator[Member]:
    one = Member(transport, group, topic, limits=limits or Limits(), hold=hold)
    taking = asyncio.ensure_future(one.take())
    await one.intake.start()
    try:
        yield one
    finally:
        await one.intake.stop()
        taking.cancel()


async def until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


class IntakeSuite:
    """Needs fixtures ``transport`` and ``topic`` (names)."""

    def _filled(self, transport: Transport, topic: Callable[..., str], per_partition: int) -> tuple[str, str]:
        name, group = topic("requests"), topic("group")
        transport.create(name)
        for number in range(per_partition):
            for partition in range(PARTITIONS):
                transport.produce(name, partition, f"{partition}/{number}".encode())
        transport.flush()
        return name, group

    def test_chunks_carry_each_request_once_in_partition_order(
        self, transport: Transport, topic: Callable[..., str]
    ) -> None:
        name, group = self._filled(transport, topic, 100)

        async def scenario() -> None:
            async with member(transport, group, name) as one:
                await until(lambda: len(one.requests) >= PARTITIONS * 100, "all arrive")
                for partition in range(PARTITIONS):
                    assert [o for p, o in one.requests if p == partition] == list(range(100))
                assert set(one.values) == {f"{p}/{n}".encode() for p in range(PARTITIONS) for n in range(100)}

        asyncio.run(scenario())

    def test_a_chunk_gives_keys_headers_and_timestamps(self, transport: Transport, topic: Callable[..., str]) -> None:
        name, group = topic("requests"), topic("group")
        transport.create(name)
        transport.produce(name, 1, b"value", b"key", [("content-type", b"x"), ("twice", b"1"), ("twice", b"2")])
        transport.flush()

        async def scenario() -> None:
            async with member(transport, group, name) as one:
                await until(lambda: bool(one.chunks), "it arrives")
                chunk = one.chunks[0]
                assert (chunk.topic, chunk.partition, chunk.offsets) == (name, 1, [0])
                assert (chunk.keys(), chunk.values()) == ([b"key"], [b"value"])
                assert [*chunk.headers()] == [[("content-type", b"x"), ("twice", b"1"), ("twice", b"2")]]
                assert abs(int(chunk.timestamps_ms()[0]) - chunk.polled_unix_ms) < 60_000

        asyncio.run(scenario())

    def test_commits_stop_before_the_first_unfinished_request(
        self, transport: Transport, topic: Callable[..., str]
    ) -> None:
        name, group = topic("requests"), topic("group")
        transport.create(name)
        for number in range(10):
            transport.produce(name, 0, str(number).encode())
        transport.flush()

        async def scenario() -> None:
            async with member(transport, group, name, hold=True) as one:
                await until(lambda: len(one.requests) == 10, "all arrive")
                at = {offset: (chunk, i) for chunk in one.chunks for i, offset in enumerate(chunk.offsets)}
                for offset in (9, 0, 1, 2, 4, 8):  # 3 is not finished
                    chunk, index = at[offset]
                    chunk.finish([index])
                await until(lambda: transport.committed(group, name)[0] == 3, "committed up to the gap")
                await asyncio.sleep(0.3)
                assert transport.committed(group, name)[0] == 3
                one.finish_all()
                await until(lambda: transport.committed(group, name)[0] == 10, "the gap is closed")

        asyncio.run(scenario())

    def test_stopping_drains_and_commits_what_was_handed_over(
        self, transport: Transport, topic: Callable[..., str]
    ) -> None:
        name, group = self._filled(transport, topic, 50)

        async def scenario() -> None:
            async with member(transport, group, name, hold=True) as one:
                await until(lambda: len(one.requests) == PARTITIONS * 50, "all arrive")
                asyncio.get_running_loop().call_later(0.5, one.finish_all)
            assert transport.committed(group, name) == [50] * PARTITIONS
            assert (one.ledger.in_flight_requests, one.ledger.in_flight_bytes) == (0, 0)

        asyncio.run(scenario())

    def test_a_drain_that_takes_too_long_commits_only_the_prefix(
        self, transport: Transport, topic: Callable[..., str]
    ) -> None:
        name, group = topic("requests"), topic("group")
        transport.create(name)
        for number in range(6):
            transport.produce(name, 2, str(number).encode())
        transport.flush()

        async def scenario() -> None:
            limits = Limits(drain_ms_max=300)
            async with member(transport, group, name, limits=limits, hold=True) as one:
                await until(lambda: len(one.requests) == 6, "all arrive")
                at = {offset: (chunk, i) for chunk in one.chunks for i, offset in enumerate(chunk.offsets)}
                for offset in (0, 1, 5):
                    at[offset][0].finish([at[offset][1]])
            assert transport.committed(group, name)[2] == 2
            ignored = one.ledger.ignored
            one.finish_all()  # the zombie's completions
            assert one.ledger.ignored > ignored
            async with member(transport, group, name) as two:
                await until(lambda: len(two.requests) >= 4, "the rest comes again")
                assert two.requests == [(2, 2), (2, 3), (2, 4), (2, 5)]

        asyncio.run(scenario())

    def test_over_its_limits_it_stops_taking_and_goes_on_when_there_is_room(
        self, transport: Transport, topic: Callable[..., str]
    ) -> None:
        name, group = self._filled(transport, topic, 500)

        async def scenario() -> None:
            limits = Limits(in_flight_requests_max=100, poll_requests_max=50, pause_after_ms=20)
            async with member(transport, group, name, limits=limits, hold=True) as one:
                await until(lambda: len(one.requests) >= 100, "it takes up to its limit")
                await asyncio.sleep(0.5)
                # One poll may begin just below the limit, and a message may be on its way as partitions pause.
                assert len(one.requests) <= 100 + 50 + PARTITIONS
                one.hold = False
                one.finish_all()
                await until(lambda: len(one.requests) >= PARTITIONS * 500, "the rest follows")
                assert sorted(one.requests) == [(p, o) for p in range(PARTITIONS) for o in range(500)]

        asyncio.run(scenario())

    def test_a_consumer_of_chunks_that_waits_holds_the_poll_back(
        self, transport: Transport, topic: Callable[..., str]
    ) -> None:
        name, group = self._filled(transport, topic, 100)

        async def scenario() -> None:
            limits = Limits(poll_requests_max=10, pause_after_ms=20)
            async with member(transport, group, name, limits=limits) as one:
                one.gate.clear()
                before = len(one.requests)
                await asyncio.sleep(0.7)
                assert len(one.requests) <= before + 10 * PARTITIONS
                assert one.ledger.in_flight_requests <= 10 * PARTITIONS
                one.gate.set()
                await until(lambda: len(one.requests) >= PARTITIONS * 100, "the rest follows")
                for partition in range(PARTITIONS):
                    assert [o for p, o in one.requests if p == partition] == list(range(100))

        asyncio.run(scenario())

    def test_a_joining_member_takes_partitions_only_after_they_are_drained(
        self, transport: Transport, topic: Callable[..., str]
    ) -> None:
        name, group = self._filled(transport, topic, 50)

        async def scenario() -> None:
            async with member(transport, group, name, hold=True) as one:
                await until(lambda: len(one.requests) == PARTITIONS * 50, "all arrive")
                async with member(transport, group, name) as two:
                    asyncio.get_running_loop().call_later(1.0, one.finish_all)
                    await until(two.intake.assigned.is_set, "the second member gets its share")
                    one.hold = False
                    for partition in range(PARTITIONS):
                        transport.produce(name, partition, b"late")
                    transport.flush()
                    await until(lambda: len(one.requests) + len(two.requests) >= PARTITIONS * 51, "late ones arrive")
                    assert len(two.chunks) > 0
                    together = one.requests + two.requests
                    assert len(together) == len(set(together)), "drained before they moved: nothing comes twice"
            assert transport.committed(group, name) == [51] * PARTITIONS

        asyncio.run(scenario())

    def test_partitions_that_leave_while_paused_come_back_and_are_read(
        self, transport: Transport, topic: Callable[..., str]
    ) -> None:
        name, group = self._filled(transport, topic, 100)

        async def scenario() -> None:
            limits = Limits(in_flight_requests_max=20, poll_requests_max=10, pause_after_ms=20, drain_ms_max=300)
            async with member(transport, group, name, limits=limits, hold=True) as one:
                await until(lambda: len(one.requests) >= 20, "it takes up to its limit")
                await asyncio.sleep(0.5)  # and pauses
                async with member(transport, group, name) as two:
                    await until(lambda: len(two.requests) >= 100, "another has some of its partitions")
                    one.hold = False
                    one.finish_all()
                    places = [(name, partition) for partition in range(PARTITIONS)]
                    mine = [at for _, at in filter(one.ledger.epoch, places)]
                    assert 0 < len(mine) < PARTITIONS
                    await until(lambda: {p for p, o in one.requests if o == 99} >= {*mine}, "it reads what it has kept")
                for partition in range(PARTITIONS):
                    transport.produce(name, partition, b"late")
                transport.flush()
                every = {(partition, 100) for partition in range(PARTITIONS)}
                await until(lambda: every <= set(one.requests), "and what comes back")

        asyncio.run(scenario())

    def test_each_assignment_has_an_epoch_of_its_own(self, transport: Transport, topic: Callable[..., str]) -> None:
        name, group = self._filled(transport, topic, 5)

        async def scenario() -> None:
            async with member(transport, group, name, hold=True) as one:
                await until(lambda: len(one.requests) == PARTITIONS * 5, "all arrive")
                epochs = {chunk.partition: chunk.epoch for chunk in one.chunks}
                assert len(set(epochs.values())) == PARTITIONS
                assert all(one.ledger.is_current(chunk) for chunk in one.chunks)
                one.finish_all()
            assert not any(one.ledger.is_current(chunk) for chunk in one.chunks)

        asyncio.run(scenario())
