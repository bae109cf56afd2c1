"""A header whose name is not UTF-8: any client can send it, no Python client can, and the binding chokes on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from pipeline.admit import Admission
from pipeline.core.limits import Limits
from pipeline.intake import UNREADABLE
from pipeline.publish.terminal import dead_letter_headers, notice_headers
from tests.hostile.unreadable import NAMES, mock_broker, produce_named
from tests.unit.infer.makers import model_of
from tests.unit.intake.messages import chunk_of
from topics.codes import BadRequest, Code
from topics.limits import RequestLimits


@pytest.fixture
def messages() -> Iterator[list[Message]]:
    """The messages, as the intake polls them from librdkafka's mock cluster."""
    _cluster, host = mock_broker("m.requests")
    produce_named(host, "m.requests", b"\0" * 8)
    consumer = Consumer({"bootstrap.servers": host, "group.id": "g", "auto.offset.reset": "earliest", "log_level": 0})
    consumer.assign([TopicPartition("m.requests", 0, 0)])
    yield consumer.consume(len(NAMES), 10)
    consumer.close()


def test_it_is_rejected_and_harms_no_neighbour(messages: list[Message]) -> None:
    rejected: list[tuple[int, BadRequest]] = []
    chunk = chunk_of(messages)
    admit = Admission(model_of(), Limits(), RequestLimits(), reject=lambda chunk, bad: rejected.extend(bad))
    (admitted,) = admit(chunk)
    assert [index for index, _ in rejected] == [1, 2]
    assert {why.code for _, why in rejected} == {Code.BAD_HEADER}
    assert list(admitted.indices) == [0, 3]
    for index, why in rejected:
        letter = dead_letter_headers(chunk, index, "m/1", why.code, why.reason, "admit")
        assert [name for name, _ in letter[-3:]] == ["x-error-code", "x-error-reason", "x-error-stage"]
        assert dict(notice_headers(chunk, index, "m/1"))["request-id"] == f"m.requests/0/{index}"


def test_messages_can_be_made_a_chunk_again_and_again(messages: list[Message]) -> None:
    for _ in range(3):
        assert [headers is UNREADABLE for headers in chunk_of(messages).headers()] == [False, True, True, False]
