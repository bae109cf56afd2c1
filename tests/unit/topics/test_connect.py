"""What a client says of a broker it cannot use, and how often."""

from __future__ import annotations

import logging
import time

import pytest
from confluent_kafka import KafkaError

from topics import connect
from topics.connect import Connection, Sparse
from topics.errors import KafkaFailed, is_refusal, kafka_failed

AWAY = KafkaError(KafkaError._TRANSPORT, "Connection refused")


@pytest.mark.parametrize(
    "error",
    [
        KafkaError(KafkaError._AUTHENTICATION, "invalid credentials"),
        KafkaError(KafkaError._SSL, "certificate verify failed"),
        KafkaError(KafkaError._TRANSPORT, "Receive failed: bad certificate: SSL alert number 42"),
    ],
)
def test_a_refusal_is_told_as_one(error: KafkaError) -> None:
    assert is_refusal(error)
    told = str(kafka_failed("cannot connect", "b:1", AWAY, error))
    assert told == f"cannot connect: the connection to Kafka at b:1 is refused: {error.str()}"


def test_a_broker_that_is_away_refuses_nobody() -> None:
    assert not is_refusal(AWAY)
    assert str(kafka_failed("cannot look", "b:1", AWAY)) == "cannot look: no Kafka broker answers at b:1"
    assert str(kafka_failed("cannot look", "b:1", AWAY, AWAY)).endswith("at b:1 (Connection refused)")


def test_reaching_nobody_ends(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KafkaFailed, match=r"no Kafka broker answers at 127\.0\.0\.1:1 \(.*Connection refused"):
        Connection("127.0.0.1:1").reach(0.2)
    assert caplog.text == ""


def _passed(sparse: Sparse, *lines: str, level: int = logging.ERROR) -> list[str]:
    records = [logging.LogRecord("x", level, "", 1, line, (), None) for line in lines]
    return [record.getMessage() for record in records if sparse.filter(record)]


def test_a_line_is_told_once_in_a_while_however_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = Sparse()
    lines = ["b1 refused (after 12ms)", "b1 refused (after 7ms)", "b2 refused (after 7ms)"]
    assert _passed(sparse, *lines) == [lines[0], lines[2]]
    later_s = time.monotonic() + connect.REPEAT_S
    monkeypatch.setattr("topics.connect.time.monotonic", lambda: later_s)
    assert _passed(sparse, *lines) == [lines[0], lines[2]]


def test_who_wants_all_lines_gets_them() -> None:
    assert _passed(Sparse(), "a", "a", level=logging.DEBUG) == ["a", "a"]


def test_what_is_remembered_of_lines_is_bounded() -> None:
    sparse = Sparse()
    assert len(_passed(sparse, *map(str, range(10 * connect.LINES_MAX)))) == 10 * connect.LINES_MAX
    assert len(sparse._said_s) <= connect.LINES_MAX
