"""Faults of topics: holes, deletions by retention, topics that cannot be written or are not there."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but without __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from pipeline.local import EmbeddedKafka
from pipeline.local.kafka import quiet
from tests.fault.conftest import MakeScene
from tests.fault.scene import Scene
from tests.fault.verify import Sent
from tests.fault.workload import Client, Made, made
from topics.admin import apply_topics

AT_LEAST, EXACTLY = "at-least-once", "exactly-once"
LONG = pytest.mark.long
ONLY = ("--instance-id", "only")


def configure(admin: AdminClient, topic: str, **settings: str | float) -> None:
    entries = [
        ConfigEntry(name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET)
        for name, value in settings.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)


def delete_topic(admin: AdminClient, topic: str) -> None:
    for done in admin.delete_topics([topic]).values():
        done.result(30)


def delete_records(admin: AdminClient, topic: str, before: dict[int, int]) -> None:
    for done in admin.delete_records([TopicPartition(topic, p, offset) for p, offset in before.items()]).values():
        done.result(30)


@pytest.mark.parametrize("guarantee", [AT_LEAST, pytest.param(EXACTLY, marks=LONG)])
def test_f12_markers_and_what_was_rolled_back_between_requests(scene: MakeScene, guarantee: str) -> None:
    """Holes in the offsets are nobody's requests: commits pass them, and end one past the last request."""
    with scene("F12", "requests in transactions, a third rolled back", guarantee) as at:
        at.client = Client(
            at.broker,
            at.topics.requests,
            at.workload.make,
            settings={"transactional.id": at.group, "retry.backoff.ms": 5},
        )
        at.client.begin_transactions()
        at.start()
        for number in range(60):
            at.client.transaction(1 + number % 7, rolled_back=number % 3 == 1)
        at.injected(60)
        at.finish(repeats=False)


@pytest.fixture
def compacting() -> Iterator[EmbeddedKafka]:
    """A broker whose cleaner looks for work ten times a second."""
    with EmbeddedKafka(properties={"log.cleaner.backoff.ms": "100"}) as kafka:
        yield kafka


@LONG
def test_f12_compacted_requests(scene: MakeScene, compacting: EmbeddedKafka) -> None:
    with scene("F12", "a compacted topic of requests", AT_LEAST, broker=compacting.bootstrap) as at:
        admin = AdminClient(quiet(at.broker))
        configure(
            admin,
            at.topics.requests,
            cleanup_policy="compact",
            segment_ms=100,
            min_cleanable_dirty_ratio=0.001,
            max_compaction_lag_ms=100,
        )
        sent = 0
        for _ in range(10):
            at.client.send(1000)
            sent += 1000
            at.pause(0.3)
        at.wait(lambda: len(readable(at)) < sent // 2, "compaction")
        at.pause(2.0)
        at.client.send(1000)  # right behind, and in the end one that is there in each partition
        configure(admin, at.topics.requests, cleanup_policy="delete")  # what is there now stays
        at.pause(1.0)
        at.injected()
        left = readable(at)
        at.client.sent = [each for each in at.client.sent if (each.partition, each.offset) in left]
        assert len(at.client.sent) == len(left) < sent // 2
        at.start()
        at.finish(repeats=False)


def readable(at: Scene) -> set[tuple[int, int]]:
    """Partition and offset of every request that is still there."""
    consumer = Consumer({**quiet(at.broker), "group.id": "readable", "enable.partition.eof": True})
    try:
        places = [TopicPartition(each.topic, each.partition, 0) for each in at.watch.requests]
        consumer.assign(places)
        found, ended = set[tuple[int, int]](), 0
        while ended < len(places):
            for message in consumer.consume(10_000, 0.2):
                if message.error() is None:
                    found.add((message.partition() or 0, message.offset() or 0))
                else:
                    ended += 1
        return found
    finally:
        consumer.close()


def gone(at: Scene, before: dict[int, int]) -> list[Sent]:
    """Requests that were deleted; from now on nobody need answer them."""
    deleted = [each for each in at.client.sent if each.offset < before.get(each.partition, 0)]
    ids = {each.request_id for each in deleted}
    at.client.sent = [each for each in at.client.sent if each.request_id not in ids]
    at.client.unsure |= ids
    return deleted


def ends(sent: Iterable[Sent]) -> dict[int, int]:
    """One past the last request of each partition."""
    found: dict[int, int] = {}
    for each in sent:
        found[each.partition] = max(found.get(each.partition, 0), each.offset + 1)
    return found


@pytest.mark.parametrize("guarantee", [AT_LEAST, pytest.param(EXACTLY, marks=LONG)])
def test_f17_retention_passes_the_committed_offset(scene: MakeScene, guarantee: str) -> None:
    """While no worker runs: the next one goes on where requests are left, and counts what it never saw."""
    with scene("F17", "requests deleted past the committed offset", guarantee) as at:
        report = at.folder / "report.json"
        at.client.send(1000)
        worker = at.start(*ONLY)
        at.wait(lambda: at.committed() == 1000, "all committed")
        at.stop(worker)
        at.client.send(1000)
        last = ends(at.client.sent)
        at.client.send(1000)
        delete_records(AdminClient(quiet(at.broker)), at.topics.requests, last)
        at.injected()
        deleted = len(gone(at, last)) - 1000  # of the first thousand all were answered
        at.start(*ONLY, "--report", str(report))
        at.finish(repeats=False)
        counts = json.loads(report.read_text())["total"]["requests"]
        assert deleted == 1000
        assert (counts["vanished"], counts["answered"], counts["in_flight"]) == (1000, 1000, 0)


@LONG
def test_f17_retention_passes_a_worker_that_lags(scene: MakeScene) -> None:
    with scene("F17", "requests deleted before a slow worker", AT_LEAST) as at:
        report = at.folder / "report.json"
        worker = at.start("--report", str(report))
        at.client.send(1000)
        at.wait(lambda: at.committed() == 1000, "all committed")
        worker.process.send_signal(signal.SIGSTOP)
        at.client.send(20_000)
        last = ends(at.client.sent)
        at.client.send(1000)
        delete_records(AdminClient(quiet(at.broker)), at.topics.requests, last)
        at.injected()
        worker.process.send_signal(signal.SIGCONT)
        deleted = gone(at, last)
        at.finish(repeats=False)
        counts = json.loads(report.read_text())["total"]["requests"]
        assert (
            0 < counts["vanished"] == len({each.request_id for each in deleted} - {each.request_id for each in at.seen})
        )


def bad(number: int) -> Made:
    """A request that is no tensor of the model's."""
    return made(number, b"bad")


@pytest.mark.parametrize("guarantee", [AT_LEAST, pytest.param(EXACTLY, marks=LONG)])
@pytest.mark.parametrize("how", ["refused", pytest.param("deleted", marks=LONG)])
def test_f18_dead_letters_cannot_be_written(scene: MakeScene, guarantee: str, how: str) -> None:
    """Nothing is committed past the bad request: the worker says so and exits with 1 until they can."""
    options = {"message.timeout.ms": 500, "topic.metadata.propagation.max.ms": 500}
    with scene("F18", f"dead letters {how} by the broker", guarantee) as at:
        admin = AdminClient(quiet(at.broker))
        worker = at.start(*ONLY, "--no-apply", kafka=options)
        if how == "refused":
            configure(admin, at.topics.dead_letters, max_message_bytes=100)
        else:
            delete_topic(admin, at.topics.dead_letters)
        at.client.send(500)
        at.client.send(1, make=bad)
        at.client.send(500)
        at.injected()
        assert worker.process.wait(60) == 1
        at.workers.remove(worker)
        told = "a dead letter or notice is refused" if how == "refused" else f"publish to {at.topics.dead_letters}"
        assert told in worker.log.read_text()
        assert at.committed() < len(at.client.sent)
        if how == "refused":
            configure(admin, at.topics.dead_letters, max_message_bytes=1_000_000)
        else:
            apply_topics(at.broker, [at.topics])
        at.start(*ONLY, kafka=options)
        assert at.finish(ordered=guarantee == EXACTLY).dead == 1


@pytest.mark.parametrize("guarantee", [AT_LEAST, pytest.param(EXACTLY, marks=LONG)])
def test_f19_predictions_are_missing_at_the_start(scene: MakeScene, guarantee: str) -> None:
    """Told not to create it, the worker says what is missing and exits; nothing is committed meanwhile."""
    with scene("F19", "no predictions topic at the start", guarantee) as at:
        at.client.send(500)
        delete_topic(AdminClient(quiet(at.broker)), at.topics.predictions)
        at.injected()
        worker = at.start(*ONLY, "--no-apply", ready=False)
        assert worker.process.wait(60) == 1
        at.workers.remove(worker)
        (told,) = [line for line in worker.log.read_text().splitlines() if "error:" in line]
        assert at.topics.predictions in told and "missing" in told
        assert "Traceback" not in worker.log.read_text()
        apply_topics(at.broker, [at.topics])
        at.start(*ONLY, "--no-apply")
        at.finish()
