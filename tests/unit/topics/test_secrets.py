"""What counts as a secret, and that settings are shown without it."""

from __future__ import annotations

import copy
import pprint
from dataclasses import asdict

import pytest

from pipeline.core.settings import Settings
from topics.secrets import HIDDEN, KafkaSettings, is_secret

SECRETS = (
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.jaas.config",
    "SASL.PASSWORD",
    "my.token",
)
OPEN = ("security.protocol", "sasl.mechanism", "sasl.username", "ssl.ca.location", "ssl.key.location", "group.protocol")
SENTINEL = "kept-to-itself"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_s_value_is_in_no_text_of_the_settings(name: str) -> None:
    kafka = KafkaSettings({name: SENTINEL, "ssl.ca.location": "ca.pem"})
    settings = Settings("b:1", kafka={name: SENTINEL}, otlp_endpoint=f"https://me:{SENTINEL}@host:4318")
    shown = [repr(kafka), str(kafka), f"{kafka}", "%s" % kafka, pprint.pformat(kafka), repr(copy.copy(kafka))]  # noqa: UP031
    shown += [repr(settings), str(settings), repr(asdict(settings)["kafka"]), repr(KeyError(kafka))]
    assert [text for text in shown if SENTINEL in text] == []
    assert HIDDEN in repr(kafka)
    assert "ca.pem" in repr(kafka)


@pytest.mark.parametrize("name", OPEN)
def test_other_settings_are_shown(name: str) -> None:
    assert not is_secret(name)
    assert "seen" in repr(KafkaSettings({name: "seen"}))


def test_what_librdkafka_is_given_is_whole() -> None:
    assert dict(Settings("b:1", kafka={"sasl.password": SENTINEL}).kafka) == {"sasl.password": SENTINEL}
