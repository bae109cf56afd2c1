"""What a worker refuses to be told."""

from __future__ import annotations

from dataclasses import fields

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.limits import Limits
from pipeline.core.settings import OWNED, Guarantee, Settings


def test_a_broker_is_enough() -> None:
    settings = Settings("localhost:9092")
    assert (settings.group, settings.guarantee, settings.offset_reset) == ("sluice", "at-least-once", "earliest")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"broker": ""}, "no broker"),
        ({"group": ""}, "consumer group"),
        ({"kafka": {"acks": "1"}}, "acks"),
        ({"answer_once_within_s": 0.0}, "answered once within"),
        ({"answer_once_within_s": 86_401.0}, "answered once within"),
        ({"answer_once_within_s": float("nan")}, "answered once within"),
        ({"kafka": {"group.id": "g", "enable.auto.commit": "true"}}, r"enable\.auto\.commit, group\.id"),
    ],
)
def test_what_cannot_work_is_refused_in_words(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        Settings(**{"broker": "localhost:9092", **given})  # type: ignore[arg-type]
    assert caught.value.exit_code == 2 and caught.value.blame == "user"


@pytest.mark.parametrize("name", sorted(OWNED))
def test_a_setting_the_guarantees_rest_on_is_not_passed_through(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Settings("localhost:9092", kafka={name: "1"})


def test_any_other_setting_of_librdkafka_is_passed_through() -> None:
    kafka = {"security.protocol": "SASL_SSL", "sasl.password": "secret", "group.protocol": "consumer"}
    assert Settings("localhost:9092", kafka=kafka).kafka == kafka


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_every_limit_is_at_least_one(name: str) -> None:
    assert getattr(Limits(**{name: 1}), name) == 1
    for too_low in (0, -1):
        with pytest.raises(ValueError, match=name):
            Limits(**{name: too_low})


def test_two_records_of_every_request_in_flight_fit_the_producers_queue() -> None:
    limits = Limits()
    with_transactions = 2 * limits.in_flight_requests_max
    assert 2 * (with_transactions + limits.poll_requests_max) < 100_000  # librdkafka's default


def test_a_transactional_id_begins_with_the_group_and_is_kept_only_with_an_instance_id() -> None:
    assert Settings("b:1", group="g").transactional_id() is None
    kept = Settings("b:1", group="g", guarantee=Guarantee.EXACTLY_ONCE, instance_id="w0")
    assert kept.transactional_id() == "g.w0"
    fresh = Settings("b:1", group="g", guarantee=Guarantee.EXACTLY_ONCE)
    first, second = fresh.transactional_id(), fresh.transactional_id()
    assert first is not None
    assert first.startswith("g.")
    assert first != second
