"""Commands against a broker that knows its users: they get in, are told in a line why not, and keep secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.secured import ADMIN, PASSWORD, Authority, Secured, config_file
from tests.contract.test_flow import LINEAR, renamed
from tests.contract.worker import Worker
from topics import topics_of

WRONG = "not-the-password-51c0"
WAIT_S = 60.0
REQUEST = {"inputs": [{"name": "features", "shape": [1, 50], "datatype": "FP32", "data": [1.0] * 50}]}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def run_all(commands: Mapping[str, list[str]], env: Mapping[str, str], stdin: str = "") -> dict[str, Ended]:
    """Run `sluice` commands beside each other until each has ended."""
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        for name, command in commands.items()
    }
    try:
        said = {name: process.communicate(stdin, timeout=WAIT_S) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    return {name: Ended(running[name].returncode, *each) for name, each in said.items()}


@pytest.fixture
def model(tmp_path: Path, topic: Callable[..., str]) -> tuple[Path, str]:
    return renamed(LINEAR, tmp_path, topic("linear"))


def test_every_command_that_takes_a_broker_gets_in_with_a_file_of_settings(
    secured: Secured, model: tuple[Path, str], tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, name = model
    config = config_file(tmp_path / "kafka.properties", secured.add_user(ADMIN))
    where = ["--broker", secured.scram, "--kafka-config", str(config)]
    with Worker(secured.scram, models, topic("group"), "--kafka-config", str(config), log=tmp_path / "log") as worker:
        produced = run_all({"produce": ["produce", name, *where]}, {}, json.dumps(REQUEST) + "\n")["produce"]
        assert (produced.code, produced.err) == (0, "")
        ended = run_all(
            {
                "consume": ["consume", name, "--from", "earliest", "--count", "1", "--timeout", "30", *where],
                "topics": ["topics", "list", "--models", str(models), *where],
                "verify": ["topics", "verify", "--models", str(models), *where],
                "deadletters": ["deadletters", "list", name, *where],
            },
            {},
        )
        assert {name: (each.code, each.err) for name, each in ended.items()} == dict.fromkeys(ended, (0, ""))
        assert json.loads(ended["consume"].out)["status"] == "ok"
        assert worker.stop() == 0


@pytest.fixture
def refused(
    secured: Secured, model: tuple[Path, str], tmp_path: Path, topic: Callable[..., str]
) -> dict[str, tuple[list[str], str]]:
    """Commands that are refused: name -> arguments, and a word of the reason."""
    models, name = model
    login = secured.add_user(topic("user"))
    nobody = {"security.protocol": "SSL", "ssl.ca.location": str(secured.authority.certificate)}
    stranger = Authority(tmp_path, "stranger").certificate
    wrong = {**login, "sasl.password": WRONG}
    files = {
        "wrong": (secured.scram, wrong, "invalid credentials"),
        "untrusted": (secured.scram, {**login, "ssl.ca.location": str(stranger)}, "could not be verified"),
        "anonymous": (secured.mutual, nobody, "alert"),
        "absent": (secured.scram, {**login, "ssl.ca.location": "/no/such/file"}, "ssl.ca.location"),
    }
    commands = {}
    for kind, (address, kafka, reason) in files.items():
        config = config_file(tmp_path / f"{kind}.properties", kafka)
        where = ["--broker", address, "--kafka-config", str(config)]
        commands[kind] = (["serve", "--models", str(models), *where], reason)
        if kind == "wrong":
            commands["no apply"] = (["serve", "--no-apply", "--models", str(models), *where], reason)
            commands["produce"] = (["produce", name, *where, "--kafka", "debug=all"], reason)
            commands["consume"] = (["consume", name, *where], reason)
            listed = ["topics", "list", "--models", str(models), "--json", "--kafka", "debug=all"]
            commands["topics"] = ([*listed, *where], reason)
            commands["deadletters"] = (["deadletters", "list", name, *where], reason)
    return commands


def test_who_is_refused_is_told_in_one_line_and_ends(refused: dict[str, tuple[list[str], str]]) -> None:
    ended = run_all({name: command for name, (command, _) in refused.items()}, {})
    for name, (_, reason) in refused.items():
        said = ended[name]
        assert (said.code, said.out) == (1, ""), name
        assert said.err.startswith("sluice: error: "), name
        assert said.err.count("\n") == 1, said.err
        assert reason in said.err, name
        assert WRONG not in said.err


def test_no_secret_is_in_anything_that_is_printed_logged_or_written(
    secured: Secured,
    model: tuple[Path, str],
    refused: dict[str, tuple[list[str], str]],
    tmp_path: Path,
    topic: Callable[..., str],
) -> None:
    """At the lowest level of the log, with all of librdkafka's own lines."""
    models, name = model
    secret = {
        **secured.add_user(ADMIN),
        "ssl.key.password": f"{PASSWORD}-key",
        "sasl.oauthbearer.client.secret": f"{PASSWORD}-secret",
        "sasl.oauthbearer.config": f"{PASSWORD}-config",
    }
    where = [word for option, value in secret.items() for word in ("--kafka", f"{option}={value}")]
    report, log = tmp_path / "report.json", tmp_path / "log"
    loud = ["--log-level", "debug", "--kafka", "debug=all", "--report", str(report)]
    url = f"http://me:{PASSWORD}@127.0.0.1:1"
    with Worker(secured.scram, models, topic("group"), *where, *loud, "--otlp-endpoint", url, log=log) as worker:
        commands = {
            "right": ["produce", name, "--broker", secured.scram, *where],
            "wrong": [*refused["wrong"][0], *loud[:-2], "--otlp-endpoint", url],
            "none": [*refused["absent"][0], "--kafka", f"sasl.password {PASSWORD}"],
        }
        ended = run_all(commands, {}, json.dumps(REQUEST) + "\n")
        ended |= run_all({"environment": ["topics", "list", "--broker", secured.scram]}, {"SLUICE_KAFKA": PASSWORD})
        assert worker.stop() == 0
        assert worker.process.stdout is not None
        out = worker.process.stdout.read()
    lines = log.read_text()
    assert "rdkafka" in lines
    assert "sasl.username" in lines  # librdkafka lists its settings
    assert "otlp" in lines
    assert topics_of(name).requests in lines
    printed = [out, lines, report.read_text(), *(text for each in ended.values() for text in (each.out, each.err))]
    assert [text for text in printed if PASSWORD in text or WRONG in text] == []
    codes = {"right": 0, "wrong": 1, "none": 2, "environment": 2}
    assert {each: said.code for each, said in ended.items()} == codes
