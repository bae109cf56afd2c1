"""A consumer that was thrown out of its group, before it is told, or meets a rebalance: what it commits, as whom."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from pipeline.commit import Ledger
from pipeline.core.limits import Limits
from pipeline.intake import ConsumerFactory, Intake
from tests.unit.intake.messages import TOPIC, chunk_of, message


class Consumer:
    """Says who it is as the test has it; keeps what is committed."""

    def __init__(self) -> None:
        self.said = b"nobody"
        self.committed: list[int] = []
        self.refuses: list[int] = []  # the next commits, with these codes
        self.asked = 0

    def consumer_group_metadata(self) -> bytes:
        return self.said

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.asked += 1
        if self.refuses:
            raise KafkaException(KafkaError(self.refuses.pop(0)))
        self.committed += [each.offset for each in offsets]

    def subscribe(self, topics: list[str], **callbacks: object) -> None: ...
    def unsubscribe(self) -> None: ...
    def assignment(self) -> list[TopicPartition]:
        return []

    def close(self) -> None: ...


def begun(*, commits: bool, limits: Limits | None = None) -> tuple[Intake, Any]:
    """An intake whose poll thread has begun and ended, and its consumer."""
    intake, consumer = Intake({}, ledger=Ledger(), limits=limits or Limits(), commits=commits), Consumer()
    intake.route(TOPIC, lambda chunk: None)
    intake._stopping.set()
    intake._factory = cast(ConsumerFactory, lambda settings: consumer)
    intake._poll_loop()
    return intake, consumer


def finished(intake: Intake) -> None:
    """The request at offset 7 of an assignment that begins is finished."""
    intake.ledger.assign([(TOPIC, 0)])
    chunk = chunk_of([message(7)], epoch=intake.ledger.epoch((TOPIC, 0)) or 0, finish=intake.ledger.finish)
    intake.ledger.track(chunk)
    chunk.finish()


def test_a_consumer_thrown_out_is_still_who_it_was_until_it_joins_again() -> None:
    """What librdkafka says in between, no member and no generation, the broker would not check (KIP-447)."""
    intake, consumer = begun(commits=False)
    seen: list[object] = []
    for consumer.said in (b"member 1", b"nobody", b"member 2"):
        intake._look(consumer)
        seen.append(intake.group_metadata())
    assert seen == [b"member 1", b"member 1", b"member 2"]


@pytest.mark.parametrize("last", [False, True])
def test_a_consumer_thrown_out_commits_nothing(last: bool) -> None:
    """A group that has no members by then would take it, over what its successors have committed."""
    intake, consumer = begun(commits=True)
    finished(intake)
    for consumer.said in (b"nobody", b"member 1"):
        intake._commit_due_s = 0.0
        if last:
            intake._let_go(consumer, [(TOPIC, 0)])
            finished(intake)
        else:
            intake._commit(consumer)
        assert consumer.committed == ([8] if consumer.said == b"member 1" else [])


@pytest.mark.parametrize("code", [KafkaError.REBALANCE_IN_PROGRESS, KafkaError.STALE_MEMBER_EPOCH])
def test_a_last_commit_that_meets_a_rebalance_is_tried_again(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.intake.service.MOMENT_S", 0.001)
    intake, consumer = begun(commits=True)
    finished(intake)
    consumer.said, consumer.refuses = b"member 1", [code, code]
    intake._let_go(consumer, [(TOPIC, 0)])
    assert (consumer.asked, consumer.committed) == (3, [8])


@pytest.mark.parametrize("code", [KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID])
def test_a_last_commit_of_one_who_is_out_is_not_tried_again(code: int) -> None:
    intake, consumer = begun(commits=True)
    finished(intake)
    consumer.said, consumer.refuses = b"member 1", [code]
    intake._let_go(consumer, [(TOPIC, 0)])
    assert (consumer.asked, consumer.committed) == (1, [])


def test_a_last_commit_is_tried_again_within_the_drains_deadline_only() -> None:
    intake, consumer = begun(commits=True, limits=Limits(drain_ms_max=1))
    finished(intake)
    consumer.said, consumer.refuses = b"member 1", [KafkaError.REBALANCE_IN_PROGRESS]
    intake._let_go(consumer, [(TOPIC, 0)])
    assert (consumer.asked, consumer.committed) == (1, [])


def test_one_who_is_thrown_out_meanwhile_commits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.intake.service.MOMENT_S", 0.001)
    intake, consumer = begun(commits=True)
    finished(intake)
    said = iter([b"member 1", b"nobody"])
    monkeypatch.setattr(consumer, "consumer_group_metadata", lambda: next(said))
    consumer.refuses = [KafkaError.REBALANCE_IN_PROGRESS]
    intake._let_go(consumer, [(TOPIC, 0)])
    assert (consumer.asked, consumer.committed) == (1, [])


class Heard:
    """What the intake tells of."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def committed(self, offsets: Any) -> None:
        self.heard.append(f"committed {offsets}")

    def released(self, topic: str, partition: int, requests: int) -> None:
        self.heard.append("released")


@pytest.mark.parametrize("code", [None, KafkaError.ILLEGAL_GENERATION])
def test_a_last_commit_trusts_none_that_is_still_on_its_way(code: int | None) -> None:
    """It may be refused, as of the generation before; who is told of it then no longer has the partition."""
    intake, consumer = begun(commits=True)
    intake._listener = heard = Heard()  # type: ignore[assignment]
    finished(intake)
    consumer.said = b"member 1"
    intake._commit(consumer)
    assert consumer.committed == [8]
    consumer.committed.clear()
    intake._let_go(consumer, [(TOPIC, 0)])
    intake._on_commit(None if code is None else KafkaError(code), [TopicPartition(TOPIC, 0, 8)])
    assert consumer.committed == [8]
    assert heard.heard[:2] == [f"committed {{('{TOPIC}', 0): 8}}", "released"]
