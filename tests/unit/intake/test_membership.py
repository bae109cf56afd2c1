"""A consumer that was thrown out of its group, before it is told: what it commits, and as whom."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition

from pipeline.commit import Ledger
from pipeline.core.limits import Limits
from pipeline.intake import ConsumerFactory, Intake
from tests.unit.intake.messages import TOPIC, chunk_of, message


class Consumer:
    """Says who it is as the test has it; keeps what is committed."""

    def __init__(self) -> None:
        self.said = b"nobody"
        self.committed: list[int] = []

    def consumer_group_metadata(self) -> bytes:
        return self.said

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.committed += [each.offset for each in offsets]

    def subscribe(self, topics: list[str], **callbacks: object) -> None: ...
    def assignment(self) -> list[TopicPartition]:
        return []

    def close(self) -> None: ...


def begun(*, commits: bool) -> tuple[Intake, Any]:
    """An intake whose poll thread has begun and ended, and its consumer."""
    intake, consumer = Intake({}, ledger=Ledger(), limits=Limits(), commits=commits), Consumer()
    intake.route(TOPIC, lambda chunk: None)
    intake._stopping.set()
    intake._factory = cast(ConsumerFactory, lambda settings: consumer)
    intake._poll_loop()
    return intake, consumer


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
    intake.ledger.assign([(TOPIC, 0)])
    chunk = chunk_of([message(7)], epoch=intake.ledger.epoch((TOPIC, 0)) or 0, finish=intake.ledger.finish)
    intake.ledger.track(chunk)
    chunk.finish()
    for consumer.said in (b"nobody", b"member 1"):
        intake._commit_due_s = 0.0
        if last:
            intake._commit_now(consumer, [(TOPIC, 0)])
        else:
            intake._commit(consumer)
        assert consumer.committed == ([8] if consumer.said == b"member 1" else [])
