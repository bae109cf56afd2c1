"""The Faust service that owns the librdkafka consumer and its one poll thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from mode import Service

from pipeline.commit import Ledger, Offsets, TopicPartitionKey
from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.core.limits import Limits
from pipeline.intake.chunk import Chunk
from pipeline.intake.consumer import ConsumerFactory, ConsumerLike, kafka_consumer, raise_if_fatal
from pipeline.intake.pauses import Pauses
from pipeline.intake.pressure import Demand, Pressure

__all__ = ["Intake", "IntakeListener"]

log = logging.getLogger(__name__)

POLL_S = 0.1  # an idle poll wakes so often to commit, to see a stop; a message ends it at once
# A consumer's error event that goes on by itself is told once per so much time and topic.
QUIET_S = 30.0
# Between its join and its new assignment a member still has what it had, and may commit in a moment. Not where its
# generation is illegal or it is unknown: it is out, or librdkafka takes it so.
MOMENTARY = frozenset({KafkaError.REBALANCE_IN_PROGRESS, KafkaError.STALE_MEMBER_EPOCH})
MOMENT_S = 0.1
COMMITTED_S = 5.0  # to ask where an assignment was to begin; only where retention has deleted from the partition

Put = Callable[[Chunk], None]


class IntakeListener(Protocol):
    """What the intake tells of; called on the poll thread."""

    def received(self, topic: str, requests: int) -> None:
        """So many requests were polled."""
        ...

    def committed(self, offsets: Offsets) -> None:
        """The broker has these next offsets now."""
        ...

    def released(self, topic: str, partition: int, requests: int) -> None:
        """A partition went, so many of its requests unfinished; whoever owns it next answers them."""
        ...

    def vanished(self, topic: str, requests: int) -> None:
        """So many requests, at most, were deleted from the topic before they were read: nobody answers them."""
        ...


@dataclass(frozen=True, slots=True)
class _Silent:
    """A listener nobody listens to."""

    def received(self, topic: str, requests: int) -> None: ...
    def committed(self, offsets: Offsets) -> None: ...
    def released(self, topic: str, partition: int, requests: int) -> None: ...
    def vanished(self, topic: str, requests: int) -> None: ...


class Intake(Service):
    """Polls requests, hands them over as chunks, commits what the ledger says is finished.

    The poll thread never waits for inference: over the in-flight limits it pauses its partitions and polls on; those of
    less important topics earlier (`Pressure`).
    A revoke blocks inside librdkafka's callback until the partitions' chunks are finished or ``drain_ms_max`` has
    passed, commits, and only then lets them go; what completes later is ignored (I3). Stopping drains alike.

    ``gather_s`` says how long requests had better gather behind the first of a poll: each poll costs as much as ten
    requests do. ``demands`` says of each topic what its requests want of the device.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        ledger: Ledger,
        limits: Limits,
        listener: IntakeListener | None = None,
        clock: Clock = SYSTEM_CLOCK,
        consumer_factory: ConsumerFactory = kafka_consumer,
        commits: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._commits = commits  # else somebody's transactions do
        self.gather_s: Callable[[], float] = lambda: 0.0  # set before the start only, as the next
        self.demands: Callable[[], Mapping[str, Demand]] = dict
        self._metadata: Any = None
        self._nobody: Any = None  # what librdkafka says of a consumer that is no member of its group
        self.ledger = ledger
        self.limits = limits
        self.assigned = asyncio.Event()  # set with the first assignment
        self._settings = dict(settings)
        self._listener: IntakeListener = listener or _Silent()
        self._clock = clock
        self._factory = consumer_factory
        self._put: dict[str, Put] = {}
        self._stopping = threading.Event()
        self.thread: threading.Thread | None = None  # the poll thread, once it has started
        self._taking = threading.Condition()
        self._untaken = 0  # chunks handed over that no agent has taken yet
        self._commit_due_s = 0.0
        self._committing: Offsets | None = None
        self._request_bytes = 1.0  # running mean, so that one poll stays below its limit in bytes
        self.polled_bytes = 0  # so far; any thread
        self._pressure = Pressure(limits, transactions=not commits)
        self._pauses = Pauses()
        self._generation = 0
        self._told_s: dict[str, float] = {}
        self._next: dict[TopicPartitionKey, int] = {}  # offset expected next; none before an assignment's first chunk

    def route(self, topic: str, put: Put) -> None:
        """Chunks of ``topic`` go to ``put``, on the event loop; who takes one calls `taken`. Before the start only."""
        assert self.thread is None, "topics are routed before the intake starts"
        assert topic not in self._put, f"{topic} has its channel already"
        self._put[topic] = put

    def group_metadata(self) -> Any:
        """The consumer's membership at its last poll or rebalance, for a transaction's offsets; any thread.

        It may be older than a rebalance under way: the broker refuses the offsets then. It is read on the poll thread
        because confluent-kafka lets one call at a time into a consumer, and another thread's hardly ever gets in.
        """
        return self._metadata

    def taken(self) -> None:
        """A chunk was taken from where it was put: there is room for one more. Any thread."""
        with self._taking:
            self._untaken -= 1
            self._taking.notify()

    async def on_start(self) -> None:
        self._running = asyncio.get_running_loop()

    async def on_started(self) -> None:
        """Poll only when the services this one depends on are up."""
        self.thread = threading.Thread(target=self._guarded, name="sluice-poll", daemon=True)
        self.thread.start()

    async def on_stop(self) -> None:
        self._stopping.set()
        if self.crashed:
            self.ledger.abandon()  # who should finish what is in flight is gone too
        if self.thread is not None:
            # The loop runs on meanwhile: the agents still have to finish what was handed over.
            await asyncio.get_running_loop().run_in_executor(None, self.thread.join)

    # --- the poll thread ---------------------------------------------------------------------------------------

    def _guarded(self) -> None:
        """An intake that fails takes its worker down, so that the group gives its partitions to another."""
        try:
            self._poll_loop()
        except Exception as error:  # handed on: the service crashes with it
            log.exception("the poll thread failed")
            reason = error
            self._running.call_soon_threadsafe(lambda: asyncio.ensure_future(self.crash(reason)))

    def _poll_loop(self) -> None:
        consumer = self._factory({**self._settings, "on_commit": self._on_commit})
        try:
            self._nobody = consumer.consumer_group_metadata()
            consumer.subscribe(
                list(self._put), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping.is_set():
                self._commit(consumer)
                self._look(consumer)
                allowed = self._pressure.allowed(self.demands(), self.ledger.in_flight())
                if self._has_room(allowed.requests):
                    self._pauses.pause(consumer, allowed.held, self._generation)
                    self._hand_over(consumer, self._poll(consumer, allowed.requests))
                else:
                    self._pauses.pause(consumer, self._put.keys(), self._generation)
                    self._hand_over(consumer, self._take(consumer.poll(POLL_S), []))
            owned = [(p.topic, p.partition) for p in consumer.assignment()]
            self._let_go(consumer, owned)
            if not owned and "group.instance.id" not in self._settings:
                # librdkafka (2.16) says goodbye only after giving back partitions. One that was still to get its first
                # would be missed by its session's time-out alone, and what was meant for it would lie idle so long.
                consumer.unsubscribe()
        finally:
            consumer.close()

    def _poll(self, consumer: ConsumerLike, requests_max: int) -> list[Message]:
        # consume() alone would wait until it has all it was asked for; poll() returns with the first message.
        first = consumer.poll(POLL_S)
        if first is None:
            return []
        if (wait_s := self.gather_s()) > 0:
            self._stopping.wait(wait_s)
        room = requests_max - self.ledger.in_flight_requests
        count = min(self.limits.poll_requests_max, int(self.limits.poll_bytes_max / self._request_bytes), room) - 1
        epoch = self._epoch_of(first)
        rest = consumer.consume(count, 0) if count > 0 else []
        # A rebalance inside consume() may have taken the first message's partition away, or anew.
        return self._take(first if self._epoch_of(first) == epoch else None, rest)

    def _epoch_of(self, message: Message) -> int | None:
        topic, partition = message.topic(), message.partition()
        return None if topic is None or partition is None else self.ledger.epoch((topic, partition))

    def _take(self, first: Message | None, rest: Sequence[Message]) -> list[Message]:
        messages = [*([] if first is None else [first]), *rest]
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._tell(error, message.topic() or "")
            messages = [message for message in messages if message.error() is None]
        return messages

    def _tell(self, error: KafkaError, topic: str) -> None:
        raise_if_fatal(error)
        now_s = time.monotonic()
        key = f"{topic} {error.name()}"
        if now_s - self._told_s.get(key, -QUIET_S) >= QUIET_S:
            self._told_s[key] = now_s
            log.warning("%s: %s", topic or "consumer", error.str())

    def _hand_over(self, consumer: ConsumerLike, messages: list[Message]) -> None:
        """Track the messages and give them to the event loop, a chunk per partition, in one call."""
        if not messages:
            return
        polled_ns, polled_unix_ms = self._clock.now_ns(), self._clock.unix_ms()
        runs: dict[TopicPartitionKey, list[Message]] = {}
        for partition_of, by_partition in groupby(messages, Message.partition):
            for topic_of, by_topic in groupby(by_partition, Message.topic):
                runs.setdefault((str(topic_of), partition_of or 0), []).extend(by_topic)
        chunks = []
        for (topic, partition), run in runs.items():
            if (run[0].offset() or 0) < self._next.get((topic, partition), 0):  # other requests, at offsets seen before
                log.error("%s/%d: its offsets begin again; what of it is in flight counts as lost", topic, partition)
                self._release([(topic, partition)])
                self.ledger.assign([(topic, partition)])
            epoch = self.ledger.epoch((topic, partition))
            if epoch is None:
                continue  # revoked while it was polled: its next owner reads it again
            chunk = Chunk(
                topic,
                partition,
                epoch,
                run,
                polled_ns=polled_ns,
                polled_unix_ms=polled_unix_ms,
                finish=self.ledger.finish,
            )
            if self._next.get((topic, partition)) != chunk.offsets[0]:
                self._look_for_vanished(consumer, topic, partition, chunk.offsets[0])
            self._next[topic, partition] = chunk.offsets[-1] + 1
            self.ledger.track(chunk)
            self._listener.received(topic, len(run))
            chunks.append(chunk)
        if chunks:
            size_bytes = sum(chunk.size_bytes for chunk in chunks)
            self._request_bytes = 0.5 * self._request_bytes + 0.5 * size_bytes / sum(map(len, chunks))
            self.polled_bytes += size_bytes
        with self._taking:
            self._untaken += len(chunks)
        self._running.call_soon_threadsafe(self._arrive, chunks)

    def _look_for_vanished(self, consumer: ConsumerLike, topic: str, partition: int, offset: int) -> None:
        """Tell of requests that retention has deleted unread: librdkafka then goes on elsewhere, as if nothing were.

        Transaction markers and compaction leave holes, too, but none that begins below the partition's start.
        """
        place = TopicPartition(topic, partition)
        start, _ = consumer.get_watermark_offsets(place, cached=True)
        expected = self._next.get((topic, partition))
        if expected is None and start > 0:
            try:
                expected = consumer.committed([place], COMMITTED_S)[0].offset  # negative where there is none
            except KafkaException as error:
                log.warning("cannot tell whether requests of %s/%d were deleted unread: %s", topic, partition, error)
        if expected is not None and 0 <= expected < start:
            log.error("%s/%d: %d requests were deleted unread, from offset %d on; retention is too short",
                      topic, partition, offset - expected, expected)  # fmt: skip
            self._listener.vanished(topic, offset - expected)

    def _arrive(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._put[chunk.topic](chunk)

    def _has_room(self, requests_max: int) -> bool:
        """Whether the flow can take another poll; waits a little, since pausing is dearer than waiting."""
        wait_s = 0.0 if self._pauses.topics == self._put.keys() else self.limits.pause_after_ms / 1000
        with self._taking:
            if not self._taking.wait_for(lambda: self._untaken < self.limits.channel_chunks_max, wait_s):
                return False
        return self.ledger.wait_below(requests_max, self.limits.in_flight_bytes_max, wait_s)

    # --- commits -----------------------------------------------------------------------------------------------

    def _commit(self, consumer: ConsumerLike) -> None:
        now_s = time.monotonic()
        if not self._commits or now_s < self._commit_due_s or self._committing is not None:
            return
        self._commit_due_s = now_s + self.limits.commit_interval_ms / 1000
        if offsets := self._committable(consumer, None):
            self._committing = offsets
            consumer.commit(offsets=_as_list(offsets), asynchronous=True)

    def _committable(self, consumer: ConsumerLike, keys: Sequence[TopicPartitionKey] | None) -> Offsets:
        """What to commit at once: nothing by one thrown out, which a group without members takes, even backwards."""
        offsets = self.ledger.committable(keys)
        if offsets and consumer.consumer_group_metadata() == self._nobody:
            self.ledger.forget_commit(offsets)
            return {}
        return offsets

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Outcome of an asynchronous commit; called from a poll."""
        offsets, self._committing = self._committing or {}, None
        for each in (error, *(p.error for p in partitions)):
            raise_if_fatal(each)
        failed = {(p.topic, p.partition) for p in partitions if error is not None or p.error is not None}
        if failed:
            log.warning("commit failed, will be repeated: %s", error or [p.error for p in partitions if p.error])
            self.ledger.forget_commit({key: offset for key, offset in offsets.items() if key in failed})
        self._listener.committed({key: offset for key, offset in offsets.items() if key not in failed})

    def _commit_now(self, consumer: ConsumerLike, keys: Sequence[TopicPartitionKey], deadline_s: float) -> None:
        """The last commit of these; again until the deadline where a rebalance under way refuses it."""
        if self._committing is not None:  # on its way; whether it fails is told by a later poll, too late for these
            self.ledger.forget_commit({key: offset for key, offset in self._committing.items() if key in keys})
        while offsets := self._committable(consumer, keys) if self._commits else {}:
            try:
                outcome = consumer.commit(offsets=_as_list(offsets), asynchronous=False)
            except KafkaException as error:
                if error.args[0].code() in MOMENTARY and time.monotonic() + MOMENT_S < deadline_s:
                    self.ledger.forget_commit(offsets)
                    time.sleep(MOMENT_S)
                    continue
                # The next owner repeats these requests: at least once.
                log.warning("last commit of %s failed: %s", sorted(offsets), error)
                return
            failed = {(p.topic, p.partition) for p in outcome or () if p.error is not None}
            self._listener.committed({key: offset for key, offset in offsets.items() if key not in failed})
            return

    # --- rebalances: inside librdkafka's callbacks, on the poll thread ----------------------------------------------

    def _look(self, consumer: ConsumerLike) -> None:
        """Note the membership; not that there is none any more, between its loss and the callback that tells of it.

        The broker takes offsets without a member for those of an old producer and checks nothing (KIP-447): with its
        last membership, which it refuses, nothing of a lost assignment can be committed (I3).
        """
        if not self._commits and (metadata := consumer.consumer_group_metadata()) != self._nobody:
            self._metadata = metadata

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._generation += 1
        self._look(consumer)
        for each in partitions:
            self._next.pop((each.topic, each.partition), None)
        self.ledger.assign((p.topic, p.partition) for p in partitions)
        log.info("assigned %s", _names(partitions))
        self._running.call_soon_threadsafe(self.assigned.set)

    def _on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._generation += 1
        self._look(consumer)
        log.info("revoked %s", _names(partitions))
        self._let_go(consumer, [(p.topic, p.partition) for p in partitions])

    def _on_lost(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        self._generation += 1
        log.warning("lost %s: nothing of them is published or committed any more", _names(partitions))
        self._release([(p.topic, p.partition) for p in partitions])

    def _let_go(self, consumer: ConsumerLike, keys: Sequence[TopicPartitionKey]) -> None:
        """Drain and commit within the shared deadline, release."""
        deadline_s = time.monotonic() + self.limits.drain_ms_max / 1000
        if not self.ledger.wait_drained(keys, deadline_s):
            log.warning("given back unfinished; a drain takes %d ms at most", self.limits.drain_ms_max)
        self._commit_now(consumer, keys, deadline_s)
        self._release(keys)

    def _release(self, keys: Sequence[TopicPartitionKey]) -> None:
        for (topic, partition), requests in self.ledger.release(keys).items():
            self._listener.released(topic, partition, requests)


def _as_list(offsets: Offsets) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]


def _names(partitions: Sequence[TopicPartition]) -> str:
    return " ".join(f"{p.topic}/{p.partition}" for p in partitions) or "nothing"
