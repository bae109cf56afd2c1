"""What is done about a model's topics and what is told of them, decided from plain states."""

from __future__ import annotations

from dataclasses import replace

import pytest

from topics.admin import DEAD_LETTER_HEADROOM_BYTES, TopicState, drift, plan
from topics.names import topics_of

TOPICS = topics_of("m")
NAMES = (TOPICS.requests, TOPICS.predictions, TOPICS.dead_letters)
CONFIGS = {"cleanup.policy": "delete", "max.message.bytes": "1000000", "min.insync.replicas": "1"}


def _states(requests: int = 4, predictions: int = 4, dead_letters: int = 4) -> dict[str, TopicState]:
    states = {
        name: TopicState(name, count, replication=1 if count else 0, configs=CONFIGS)
        for name, count in zip(NAMES, (requests, predictions, dead_letters), strict=True)
    }
    enough = {"max.message.bytes": str(1_000_000 + DEAD_LETTER_HEADROOM_BYTES)}
    states[TOPICS.dead_letters] = replace(states[TOPICS.dead_letters], configs={**CONFIGS, **enough})
    return states


def _plan(states: dict[str, TopicState], partitions: int | None = None, *, grow: bool = False) -> list[tuple[str, int]]:
    return [(step.action, step.partitions) for step in plan([TOPICS], states.values(), partitions, grow=grow)]


def _told(states: dict[str, TopicState], **asked: int) -> list[tuple[str, str]]:
    return [(found.topic, found.what) for found in drift([TOPICS], states.values(), **asked)]


def test_missing_topics_are_created_with_equal_partitions() -> None:
    assert _plan(_states(0, 0, 0), 6) == [("created", 6)] * 3


def test_missing_predictions_get_as_many_partitions_as_the_requests_have() -> None:
    assert _plan(_states(7, 0, 0), 3) == [("kept", 7), ("created", 7), ("created", 7)]


def test_missing_requests_follow_the_predictions_that_are_there() -> None:
    assert _plan(_states(0, 5, 5)) == [("created", 5), ("kept", 5), ("kept", 5)]


def test_applying_again_keeps_everything_even_where_more_are_asked_for() -> None:
    assert _plan(_states(), 9) == [("kept", 4)] * 3


def test_growing_evens_out_and_never_shrinks() -> None:
    assert _plan(_states(4, 6, 1), 5, grow=True) == [("grown", 6), ("kept", 6), ("grown", 6)]
    assert _plan(_states(8, 8, 8), 2, grow=True) == [("kept", 8)] * 3


def test_topics_as_they_should_be_have_no_drift() -> None:
    assert _told(_states(), partitions=4, replication=1) == []


def test_every_missing_topic_is_told() -> None:
    assert _told(_states(0, 0, 0)) == [(name, "topic") for name in NAMES]


def test_requests_and_predictions_of_different_counts_are_told() -> None:
    assert _told(_states(4, 3, 1)) == [(TOPICS.predictions, "partitions")]


def test_asked_partitions_and_copies_are_compared() -> None:
    assert _told(_states(), partitions=8) == [(name, "partitions") for name in NAMES[:2]]
    assert _told(_states(), replication=3) == [(name, "replication") for name in NAMES]


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        (TOPICS.requests, {"configs": {**CONFIGS, "cleanup.policy": "compact"}}, "cleanup.policy"),
        (TOPICS.predictions, {"configs": {**CONFIGS, "cleanup.policy": "compact,delete"}}, "cleanup.policy"),
        (TOPICS.dead_letters, {"configs": CONFIGS}, "max.message.bytes"),
        (TOPICS.predictions, {"configs": {**CONFIGS, "min.insync.replicas": "2"}}, "min.insync.replicas"),
        (TOPICS.requests, {"configs": {**CONFIGS, "compression.type": "producer"}}, "compression.type"),
        (TOPICS.requests, {"leaderless": 1}, "partitions without a leader"),
        (TOPICS.dead_letters, {"replication": 2}, "replication"),
    ],
)
def test_what_would_lose_or_refuse_records_is_told(name: str, change: dict[str, object], what: str) -> None:
    states = _states()
    states[name] = replace(states[name], **change)  # type: ignore[arg-type]
    assert _told(states) == [(name, what)]
