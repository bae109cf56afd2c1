"""Whose word counts for the producer: the guarantees' before the user's before the defaults."""

from __future__ import annotations

import pytest

from pipeline.publish import producer_settings


@pytest.mark.parametrize("name", ["bootstrap.servers", "enable.idempotence", "acks", "allow.auto.create.topics"])
def test_a_user_may_not_override_a_guarantee(name: str) -> None:
    assert producer_settings("real:1", extra={name: "theirs"})[name] != "theirs"


def test_a_user_may_override_what_is_only_tuned_but_the_consumers_protocol() -> None:
    given = producer_settings("real:1", extra={"linger.ms": "20", "group.protocol": "consumer"})
    assert given["linger.ms"] == "20" and "group.protocol" not in given
