"""Kafka settings of a command: from options, from a file, and what is said of mistakes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from pipeline.cli import secrecy
from pipeline.cli.broker import kafka_of
from pipeline.cli.secrecy import Discreet, discreet_hook, hide_settings, hide_url, without_secrets
from pipeline.core.errors import ConfigError
from tests.unit.cli.test_main import commands, sluice
from topics.secrets import HIDDEN

SENTINEL = "kept-to-itself"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrecy, "_secrets", set())


def _file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "kafka.properties"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, "# ours\n\nsasl.username = me \nsasl.password=a=b#c\n  security.protocol=SSL\n")
    kafka = kafka_of(["security.protocol=SASL_SSL"], path)
    assert kafka == {"sasl.username": "me", "sasl.password": "a=b#c", "security.protocol": "SASL_SSL"}
    assert kafka_of(None) == {}


def test_every_command_with_settings_takes_them_from_a_file_too() -> None:
    takes = {
        name: {option.name: option.envvar for option in command.params}
        for name, command in commands()
        if any(option.name == "kafka" for option in command.params)
    }
    assert {name.split()[1] for name in takes} >= {"serve", "produce", "consume", "topics", "deadletters"}
    assert {options.get("kafka_config") for options in takes.values()} == {"SLUICE_KAFKA_CONFIG"}


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_file_for_its_owner_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int) -> None:
    kafka_of(None, _file(tmp_path, f"sasl.password={SENTINEL}", mode))
    assert capsys.readouterr().err == ""


def test_secrets_that_everyone_may_read_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kafka_of(None, _file(tmp_path, f"sasl.password={SENTINEL}", 0o644))
    said = capsys.readouterr().err
    assert said.startswith("sluice: warning: ")
    assert SENTINEL not in said
    kafka_of(None, _file(tmp_path, "security.protocol=SSL", 0o644))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", [f"\nsasl.password {SENTINEL}", f"\n={SENTINEL}", f"\n{SENTINEL}"])
def test_a_line_that_is_no_setting_is_told_by_its_number_alone(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="line 2: write NAME=VALUE") as told:
        kafka_of(None, _file(tmp_path, text))
    assert SENTINEL not in str(told.value)


@pytest.mark.parametrize("option", [SENTINEL, f"={SENTINEL}", f"sasl.password:{SENTINEL}"])
def test_an_option_that_is_no_setting_is_not_repeated(option: str) -> None:
    with pytest.raises(ConfigError, match="--kafka: write NAME=VALUE") as told:
        kafka_of([option])
    assert SENTINEL not in str(told.value)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.write_bytes(b"\xff\xfe")])
def test_a_file_that_cannot_be_read_is_misuse(tmp_path: Path, make: object) -> None:
    path = tmp_path / "absent"
    assert callable(make)
    make(path)
    with pytest.raises(ConfigError, match="absent"):
        kafka_of(None, path)


def test_what_a_command_was_told_is_in_no_line_and_no_traceback_of_its_log() -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMIIBVQIBADANBg\n-----END PRIVATE KEY-----\n"
    hide_settings({"sasl.password": SENTINEL, "ssl.key.pem": pem, "sasl.username": "someone"})
    hide_url("https://me:pass%2Fword@host:4318/x")
    try:
        raise ValueError(f"{SENTINEL} of someone: {pem}")
    except ValueError:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 1, "%s", (f"{SENTINEL} pass/word pass%2Fword",), sys.exc_info()
        )
    text = Discreet("%(message)s").format(record)
    assert "Traceback" in text
    assert "someone" in text
    assert [secret for secret in (SENTINEL, "MIIBVQIBADANBg", "pass/word", "pass%2Fword") if secret in text] == []
    assert text.startswith(f"{HIDDEN} {HIDDEN} {HIDDEN}\n")


def test_the_world_s_errors_are_logged_without_a_traceback() -> None:
    try:
        raise ConfigError("no broker")
    except ConfigError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "failed", (), sys.exc_info())
    assert Discreet("%(message)s").format(record).strip() == "failed"


def test_a_bug_s_traceback_has_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    hide_settings({"sasl.password": SENTINEL})
    try:
        raise KeyError(SENTINEL)
    except KeyError as error:
        discreet_hook(KeyError, error, error.__traceback__)
    said = capsys.readouterr().err
    assert "KeyError" in said
    assert SENTINEL not in said


def test_short_values_are_left_where_they_are() -> None:
    hide_settings({"sasl.password": "a"})
    assert without_secrets("a banana") == "a banana"


def test_help_and_misuse_show_no_secret_of_the_environment() -> None:
    import os

    env = {**os.environ, "SLUICE_KAFKA": f"sasl.password={SENTINEL}", "SLUICE_BROKER": "127.0.0.1:1"}
    for arguments in (["serve", "--help"], ["serve", "--nonsense"], ["topics", "list", "--help"]):
        ended = sluice(*arguments, env=env)
        assert SENTINEL not in ended.stdout + ended.stderr
