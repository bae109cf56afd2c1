"""A reader finds the ends of a topic, also of one made a moment ago."""

from __future__ import annotations

from typing import Any
from unittest.mock import create_autospec

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import PartitionMetadata, TopicMetadata  # type: ignore[attr-defined]

from topics.client import Reader
from topics.connect import Connection
from topics.errors import KafkaFailed, TopicMissing


class _Connection(Connection):
    def __init__(self) -> None:
        super().__init__("broker:9092")
        self.made: Any = create_autospec(Consumer, instance=True, spec_set=True)
        topic = TopicMetadata()
        topic.partitions = {0: PartitionMetadata(), 1: PartitionMetadata()}
        self.made.list_topics.return_value.topics = {"t": topic}

    def consumer(self, **settings: object) -> Any:
        return self.made


def _error(code: int) -> KafkaException:
    return KafkaException(KafkaError(code))


def _assigned(connection: _Connection) -> list[tuple[int, int]]:
    [call] = connection.made.incremental_assign.call_args_list
    return sorted((place.partition, place.offset) for place in call.args[0])


def test_a_partition_without_a_leader_yet_is_asked_again() -> None:
    connection = _Connection()
    not_yet = _error(KafkaError.NOT_LEADER_FOR_PARTITION)
    connection.made.get_watermark_offsets.side_effect = [not_yet, (0, 5), not_yet, not_yet, (2, 5)]
    with Reader(connection, "t"):
        assert _assigned(connection) == [(0, 5), (1, 5)]
    connection.made.close.assert_called_once()


@pytest.mark.parametrize(
    ("code", "timeout_s"), [(KafkaError.TOPIC_AUTHORIZATION_FAILED, 30.0), (KafkaError.NOT_LEADER_FOR_PARTITION, 0.0)]
)
def test_what_stays_wrong_is_told_and_leaves_no_consumer(code: int, timeout_s: float) -> None:
    connection = _Connection()
    connection.made.get_watermark_offsets.side_effect = _error(code)
    with pytest.raises(KafkaFailed, match="cannot find the end of t"):
        Reader(connection, "t", timeout_s=timeout_s)
    connection.made.close.assert_called_once()


def test_a_missing_topic_leaves_no_consumer() -> None:
    connection = _Connection()
    missing = TopicMetadata()
    missing.error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
    connection.made.list_topics.return_value.topics = {"t": missing}
    with pytest.raises(TopicMissing, match="t does not exist at broker:9092"):
        Reader(connection, "t")
    connection.made.close.assert_called_once()


def test_a_lost_permission_ends_the_reading_with_its_name() -> None:
    connection = _Connection()
    connection.made.get_watermark_offsets.return_value = (0, 0)
    message = connection.made.consume.return_value = [create_autospec(object)]
    message[0].error = lambda: KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with Reader(connection, "t") as reader, pytest.raises(KafkaFailed, match="cannot read t"):
        reader.read(0.1)


def test_while_no_broker_answers_no_partition_was_added_and_the_reading_goes_on() -> None:
    connection = _Connection()
    connection.made.get_watermark_offsets.return_value = (0, 0)
    with Reader(connection, "t") as reader:
        connection.made.list_topics.side_effect = _error(KafkaError._TRANSPORT)
        assert not reader.refresh()
        assert connection.made.list_topics.call_args.kwargs["timeout"] <= 1, "no time-out is told meanwhile"
        connection.made.poll.assert_not_called()  # which would take a message from who reads
        connection.made.list_topics.side_effect = _error(KafkaError.TOPIC_AUTHORIZATION_FAILED)
        with pytest.raises(KafkaFailed, match="cannot look at t"):
            reader.refresh()
