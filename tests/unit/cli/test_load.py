"""What `sluice load` refuses before it sends anything, and how it judges a report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.load import judge
from pipeline.cli.main import app
from pipeline.core.errors import ConfigError
from topics.errors import InputError, KafkaFailed


def load(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(app, ["load", *arguments]).exception


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits"], "give --rate"),
        (["digits", "--rate", "9", "--arrivals", "tidal"], "constant, poisson, burst"),
        (["nobody", "--rate", "9"], "no model 'nobody' in the repository, only digits"),
        (["../x", "--rate", "9"], "model"),
        (["digits", "--trace", "gone.jsonl"], "gone.jsonl: no such file"),
    ],
)
def test_misuse_is_told_before_kafka_is_asked(arguments: list[str], said: str) -> None:
    error = load(*arguments, "--broker", "127.0.0.1:1")
    assert isinstance(error, ConfigError)
    assert error.exit_code == 2
    assert said in str(error)


def test_a_file_that_is_no_trace_is_misuse(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("2\n1\n")
    error = load("digits", "--trace", str(tmp_path / "trace"), "--broker", "127.0.0.1:1")
    assert isinstance(error, ConfigError)
    assert "ascending" in str(error)


def test_an_empty_array_is_no_trace(tmp_path: Path) -> None:
    (tmp_path / "trace.npy").touch()
    error = load("digits", "--trace", str(tmp_path / "trace.npy"), "--broker", "127.0.0.1:1")
    assert isinstance(error, ConfigError)
    assert "is no trace" in str(error)


def test_a_content_type_that_does_not_exist_is_misuse() -> None:
    error = load("digits", "--rate", "9", "--content-type", "xml", "--broker", "127.0.0.1:1")
    assert isinstance(error, InputError)


def test_without_a_broker_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.local.running", lambda: None)
    monkeypatch.delenv("SLUICE_BROKER", raising=False)
    error = load("digits", "--rate", "9")
    assert isinstance(error, ConfigError)
    assert "sluice up" in str(error)


def test_a_broker_that_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topics.connect.REACH_S", 0.1)
    monkeypatch.setattr("topics.connect.Connection.reach.__defaults__", (0.1,))
    error = load("digits", "--rate", "9", "--broker", "127.0.0.1:1")
    assert isinstance(error, KafkaFailed)
    assert error.exit_code == 1


def counts(**found: Any) -> dict[str, Any]:
    return {"requests": 100, "unanswered": 0, **found}


@pytest.mark.parametrize(
    ("found", "passed", "said"),
    [
        (counts(), True, "every one of 100 requests was answered"),
        (counts(unanswered=3), False, "3 of 100 requests got no answer"),
        (counts(unanswered=100), False, "is a worker serving this model?"),
        (counts(slo_ms=20.0, bound_ms=12.345, valid=True), True, "valid: 99% of all .* within: 12.35 ms; SLO: 20 ms"),
        (counts(slo_ms=20.0, bound_ms=None, valid=False), False, "not valid: .* within: never"),
        (counts(slo_ms=20.0, bound_ms=9.0, valid=True, unanswered=1), True, "valid"),
    ],
)
def test_the_verdict(found: dict[str, Any], passed: bool, said: str) -> None:
    assert judge(found)[0] is passed
    assert re.search(said, judge(found)[1])
