"""`sluice up`, `down` and `status`: what they print and how they exit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline import local
from pipeline.cli import stack as commands
from pipeline.core.errors import ConfigError
from pipeline.local import Stack, StackHealth
from pipeline.local.process import ProcessId

UP = Stack("127.0.0.1:9", ProcessId(11, 0), ProcessId(22, 0), Path("/data"), keep_data=False, started_at=1.5)
Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    app = typer.Typer()
    for command in (commands.up, commands.down, commands.status):
        app.command()(command)
    return lambda *argv: CliRunner().invoke(app, argv)


def test_up_tells_where_kafka_answers_and_passes_on_what_was_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def start(**given: object) -> tuple[Stack, bool]:
        asked.update(given)
        return UP, False

    monkeypatch.setattr(local, "up", start)
    result = run("up", "--keep-data", "--port", "9", "--models", str(tmp_path), "--no-worker")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("up: Kafka at 127.0.0.1:9 (process 11)\nworker: ready (process 22)")
    del asked["progress"]
    assert asked == {"keep_data": True, "port": 9, "models": tmp_path, "worker": False}


def test_a_second_up_says_so_and_succeeds(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "up", lambda **_: (UP, True))
    assert run("up").stdout.startswith("already up")
    told = json.loads(run("up", "--json").stdout)
    assert told["already_up"] is True
    assert told["bootstrap"] == "127.0.0.1:9"


def test_a_models_folder_that_is_not_there_is_misuse_before_anything_starts(run: Run) -> None:
    result = run("up", "--models", "/no/such")
    assert isinstance(result.exception, ConfigError)
    assert result.exception.exit_code == 2


@pytest.mark.parametrize(("was_up", "says"), [(True, "down\n"), (False, "nothing was up\n")])
def test_down_succeeds_whether_or_not_something_ran(
    run: Run, monkeypatch: pytest.MonkeyPatch, was_up: bool, says: str
) -> None:
    monkeypatch.setattr(local, "down", lambda: was_up)
    result = run("down")
    assert (result.exit_code, result.stdout) == (0, says)
    assert json.loads(run("down", "--json").stdout) == {"was_up": was_up}


def test_status_of_nothing_is_no_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "running", lambda: None)
    assert run("status").exit_code == 0
    assert json.loads(run("status", "--json").stdout) == {"up": False}


@pytest.mark.parametrize(
    ("health", "broker", "worker", "code"),
    [
        (StackHealth(broker_answers=True, worker_alive=True, lag={"m.requests": 3}), "healthy", "alive", 0),
        (StackHealth(broker_answers=True, worker_alive=False, lag={"m.requests": 3}), "healthy", "dead", 1),
        (StackHealth(broker_answers=False, worker_alive=True, lag=None), "not answering", "alive", 1),
    ],
)
def test_status_tells_health_and_lag_and_fails_for_a_broken_part(
    run: Run, monkeypatch: pytest.MonkeyPatch, health: StackHealth, broker: str, worker: str, code: int
) -> None:
    monkeypatch.setattr(local, "running", lambda: UP)
    monkeypatch.setattr(local, "look", lambda _: health)
    result = run("status", "--json")
    told = json.loads(result.stdout)
    assert (told["broker"], told["worker"], told["lag"], result.exit_code) == (broker, worker, health.lag, code)
    assert ("m.requests 3" in run("status").stdout) == (health.lag is not None)
