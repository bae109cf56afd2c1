"""Which membership of the group a transaction's offsets are sent with."""

from __future__ import annotations

from unittest.mock import Mock

from pipeline.commit import Ledger
from pipeline.core.limits import Limits
from pipeline.intake import Intake


def test_a_consumer_thrown_out_is_still_who_it_was_until_it_joins_again() -> None:
    """What librdkafka says in between, no member and no generation, the broker would not check (KIP-447)."""
    intake = Intake({}, ledger=Ledger(), limits=Limits(), commits=False)
    intake.route("t", lambda chunk: None)
    intake._stopping.set()
    seen: list[object] = []
    consumer = Mock(spec_set=["consumer_group_metadata", "subscribe", "assignment", "close"])
    consumer.consumer_group_metadata.return_value = b"nobody"
    consumer.assignment.return_value = []
    intake._factory = lambda settings: consumer
    intake._poll_loop()
    for said in (b"member 1", b"nobody", b"member 2"):
        consumer.consumer_group_metadata.return_value = said
        intake._look(consumer)
        seen.append(intake.group_metadata())
    assert seen == [b"member 1", b"member 1", b"member 2"]
