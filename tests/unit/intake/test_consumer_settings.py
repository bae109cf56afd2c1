"""Whose word counts: the guarantees' before the user's before the defaults."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.intake import consumer_settings


def settings(extra: dict[str, str] | None = None, instance_id: str | None = None) -> dict[str, Any]:
    return consumer_settings("real:1", "real", offset_reset="earliest", instance_id=instance_id, extra=extra or {})


def test_a_user_may_override_what_is_only_tuned() -> None:
    extra = {"check.crcs": "false", "auto.offset.reset": "latest", "sasl.username": "me", "group.instance.id": "b"}
    assert extra.items() <= settings(extra, instance_id="a").items()


@pytest.mark.parametrize(
    "name",
    ["bootstrap.servers", "group.id", "enable.auto.commit", "enable.auto.offset.store", "allow.auto.create.topics"],
)
def test_a_user_may_not_override_a_guarantee(name: str) -> None:
    assert settings({name: "theirs"})[name] == settings()[name] != "theirs"


def test_a_group_without_offsets_begins_where_it_is_told() -> None:
    assert settings()["auto.offset.reset"] == "earliest"


def test_rebalances_are_cooperative_unless_the_broker_assigns() -> None:
    assert settings()["partition.assignment.strategy"] == "cooperative-sticky"
    assert "partition.assignment.strategy" not in settings({"group.protocol": "consumer"})


def test_static_membership_only_where_it_is_asked_for() -> None:
    assert settings(instance_id="w1")["group.instance.id"] == "w1"
    assert "group.instance.id" not in settings()


def test_the_settings_given_are_left_as_they_are() -> None:
    extra = {"group.protocol": "consumer"}
    settings(extra)
    assert extra == {"group.protocol": "consumer"}
