"""A member of the group: what the intake calls of `confluent_kafka.Consumer`, with callbacks out of its polls."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from tests.simulate.broker import Broker
from tests.simulate.group import Membership
from tests.simulate.machine import Process

__all__ = ["Consumer", "membership_of"]

NOBODY: Membership = ("", -1)


class Consumer:
    """Positions of the partitions it has; what happens to them is heard, and acted on by the next poll."""

    def __init__(self, broker: Broker, process: Process, settings: dict[str, Any]) -> None:
        self.broker = broker
        self.membership = NOBODY
        self.positions: dict[int, int | None] = {}  # None: it asks for the committed offset
        self.polled: dict[int, dict[int, int]] = {}  # offsets by partition -> the assignment they came with
        self.over: dict[int, int] = {}  # assignments that are over -> at which step
        self.held: dict[int, int] = {}  # partition -> assignment
        self.assignments = 0
        self._process = process
        self._machine = broker.machine
        self._on_commit = settings["on_commit"]
        self._todo: deque[Callable[[], None]] = deque()
        self._reports: deque[Callable[[], None]] = deque()
        self._paused: set[int] = set()
        self._closed = False
        self._poller: Any = None
        self._commit_arrives_ns = 0

    # --- heard from the broker; on the hub ---------------------------------------------------------------------------

    def hear(self, membership: Membership, assigned: list[int], revoked: list[int]) -> None:
        if self._process.dead or self.membership[0] != membership[0]:
            return  # meant for who it was
        self.membership = membership
        if assigned:
            self._todo.append(partial(self._assign, assigned))
        if revoked:
            self._todo.append(partial(self._revoke, revoked))
        self._wake()

    def hear_removed(self, member_id: str) -> None:
        if not self._process.dead and self.membership[0] == member_id:
            self.membership = NOBODY
            self._todo.clear()  # meant for who it was
            self._todo.append(self._lose)
            self._wake()

    def _wake(self) -> None:
        if self._poller is not None:
            self._machine.wake(self._poller)

    # --- what the intake calls, on its poll thread -------------------------------------------------------------------

    def subscribe(self, topics: list[str], on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost
        (self.topic,) = topics
        self._poller = self._machine.current
        self.broker.on_append[self._process.name] = self._wake
        self._join()

    def unsubscribe(self) -> None:
        """Nothing to do: here `close` says goodbye whatever is assigned."""

    def _join(self) -> None:
        def join() -> None:
            if not self._process.dead and not self._closed:
                # The generation follows; until then it has a name only.
                self.membership = (self.broker.group.join(self), self.membership[1])

        self.broker.arrive(join, self.broker.latency_s())

    def poll(self, timeout: float) -> Message | None:
        end_ns = self._machine.now_ns + round(timeout * 1e9)
        while True:
            self._serve()
            if messages := self._fetch(1):
                return messages[0]
            if self._machine.now_ns >= end_ns:
                return None
            self._machine.park((end_ns - self._machine.now_ns) / 1e9)

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        assert timeout == 0, "a consume() that waits would wait for all it was asked for"
        self._machine.falter()
        self._serve()
        return self._fetch(num_messages)

    def assignment(self) -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition) for partition in self.positions]

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._machine.falter()
        self._paused |= {p.partition for p in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._paused -= {p.partition for p in partitions}

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        raise AssertionError("nothing is ever deleted here")

    def get_watermark_offsets(self, partition: TopicPartition, *, cached: bool) -> tuple[int, int]:
        return 0, 0  # the end is not looked at

    def consumer_group_metadata(self) -> bytes:
        """As librdkafka writes it."""
        self._machine.falter()
        member_id, generation = self.membership
        return b"CGMDv2:" + struct.pack("<i", generation) + b"g\0" + member_id.encode() + b"\0\1"

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> Sequence[TopicPartition] | None:
        broker, machine = self.broker, self._machine
        wanted, membership = {p.partition: p.offset for p in offsets}, self.membership
        apply: Callable[[], None] = partial(broker.commit, membership, wanted, self._process.name)
        fails = broker.weather.commit_fails and machine.random.random() < broker.weather.commit_fails
        if fails and machine.random.random() < 0.5:
            apply = _refuse_commit
        if not asynchronous:
            self._machine.sleep(max(0, self._commit_arrives_ns - machine.now_ns) / 1e9)  # behind those on their way
            broker.ask(apply)
            if fails:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return offsets

        def arrived() -> None:
            error = KafkaError(KafkaError._TIMED_OUT) if fails else None
            try:
                apply()
            except KafkaException as refused:
                error = refused.args[0]
            self._reports.append(partial(self._on_commit, error, offsets))
            self._wake()

        arrives_ns = max(self._commit_arrives_ns, machine.now_ns + int(broker.latency_s() * 1e9))
        self._commit_arrives_ns = arrives_ns
        broker.arrive(arrived, (arrives_ns - machine.now_ns) / 1e9)
        return None

    def close(self) -> None:
        if self._process.dead:
            return
        self._closed = True
        self._todo.clear()
        if self.positions:
            self._revoke(list(self.positions), leaving=True)
        member_id, self.membership = self.membership[0], NOBODY
        self.broker.on_append.pop(self._process.name, None)
        self.broker.ask(lambda: self.broker.group.remove(member_id))

    # --- inside polls ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        for calls in (self._reports, self._todo):
            while calls:
                calls.popleft()()

    def _fetch(self, count: int) -> list[Message]:
        found: list[Message] = []
        for partition, position in self.positions.items():
            if position is None or partition in self._paused or len(found) >= count:
                continue
            if messages := self.broker.fetch(partition, position, count - len(found)):
                self.positions[partition] = (messages[-1].offset() or 0) + 1
                polled, assignment = self.polled.setdefault(partition, {}), self.held[partition]
                for message in messages:
                    polled[message.offset() or 0] = assignment
                    self.broker.judge.polled((partition, message.offset() or 0))
                found += messages
                first, last = messages[0].offset(), messages[-1].offset()
                self._machine.tell("  {} polls {}/{}..{}", self._process.name, partition, first, last)
        return found

    def _assign(self, partitions: list[int]) -> None:
        self._machine.tell("{} is assigned {}", self._process.name, partitions)
        self._on_assign(self, [TopicPartition(self.topic, p) for p in partitions])
        for partition in partitions:
            self.assignments += 1
            self.held[partition] = self.assignments
            self.positions[partition] = None
            self._paused.discard(partition)
            self._ask_position(partition, self.assignments)

    def _ask_position(self, partition: int, assignment: int) -> None:
        def arrived() -> None:
            if self._process.dead or self.held.get(partition) != assignment:
                return
            if self.broker.group.pending[partition]:  # not stable: a transaction may still commit an offset
                self.broker.arrive(arrived, 0.02)
                return
            self.positions[partition] = self.broker.group.committed.get(partition, 0)
            self._wake()

        self.broker.arrive(arrived, self.broker.latency_s())

    def _revoke(self, partitions: list[int], *, leaving: bool = False) -> None:
        held = [partition for partition in partitions if partition in self.held]
        self._machine.tell("{} is to give up {}", self._process.name, held)
        self._on_revoke(self, [TopicPartition(self.topic, p) for p in held])
        self._forget(held)
        if not leaving and self.membership != NOBODY:
            released = partial(self.broker.group.released, self.membership[0], partitions)
            self.broker.arrive(released, self.broker.latency_s())

    def _lose(self) -> None:
        lost = list(self.positions)
        self._machine.tell("{} has lost {}", self._process.name, lost)
        self._on_lost(self, [TopicPartition(self.topic, p) for p in lost])
        self._forget(lost)
        self._join()

    def _forget(self, partitions: list[int]) -> None:
        for partition in partitions:
            del self.positions[partition]
            self.over[self.held.pop(partition)] = self._machine.steps


def membership_of(metadata: bytes) -> Membership:
    """What the bytes say of a consumer."""
    (generation,) = struct.unpack("<i", metadata[7:11])
    return metadata[11:].split(b"\0")[1].decode(), generation


def _refuse_commit() -> None:
    raise KafkaException(KafkaError(KafkaError.REBALANCE_IN_PROGRESS))  # the last one is tried again
