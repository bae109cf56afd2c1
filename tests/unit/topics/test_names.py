"""A model's name and its topics."""

from __future__ import annotations

import pytest

from topics.names import NAME_CHARS_MAX, check_model_name, topics_of

KAFKA_TOPIC_CHARS_MAX = 249


def test_a_model_has_three_topics() -> None:
    topics = topics_of("digits")
    assert (topics.requests, topics.predictions, topics.dead_letters) == (
        "digits.requests",
        "digits.predictions",
        "digits.dead-letters",
    )


def test_the_longest_name_still_makes_kafka_topics() -> None:
    topics = topics_of("m" * NAME_CHARS_MAX)
    assert len(topics.dead_letters) <= KAFKA_TOPIC_CHARS_MAX


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "a\\b", "a\0", "a.b", "-a", "_a", "é", "a b", "a\n", "m" * 201])
def test_a_name_that_is_no_topic_and_directory_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="model name"):
        check_model_name(name)
    with pytest.raises(ValueError, match="model name"):
        topics_of(name)
