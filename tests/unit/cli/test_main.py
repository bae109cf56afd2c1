"""The command as a whole: what it lists, what it loads, and what becomes of errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import pipeline.cli.main
from pipeline.cli.main import app, main
from pipeline.core.errors import BrokerError, ConfigError
from topics.errors import InputError, KafkaFailed

HEAVY = ("numpy", "pyarrow", "faust", "onnxruntime", "confluent_kafka", "opentelemetry", "psutil", "jgo")


def commands(of: Any = None, name: str = "sluice") -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    of = of or typer.main.get_command(app)
    if not hasattr(of, "commands"):
        yield name, of
    for child, command in getattr(of, "commands", {}).items():
        yield from commands(command, f"{name} {child}")


def sluice(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


def outcome_of(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit code of a command that ends with ``error``."""

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline.cli.main, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(("name", "command"), [*commands()])
def test_the_help_of_a_command_says_what_it_does_and_gives_an_example(name: str, command: Any) -> None:
    assert "." in command.help.split("\n\n")[0], name
    example = command.help[command.help.lower().rindex("for instance:") :]
    assert "sluice " in example, name


@pytest.mark.parametrize(("name", "command"), [*commands()])
def test_every_option_says_what_it_is(name: str, command: Any) -> None:
    assert [option.name for option in command.params if not option.help] == []


def test_help_comes_without_loading_what_is_heavy() -> None:
    code = "import sys; from pipeline.cli.main import app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(HEAVY) & set(loaded) == set()


def test_help_into_a_pipe_is_plain_and_lists_the_commands() -> None:
    ended = sluice("--help")
    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout
    assert all(name.split()[1] in ended.stdout for name, _ in commands())


def test_misuse_exits_with_2_and_says_so_on_standard_error() -> None:
    for arguments in (
        ["nonsense"],
        ["serve", "--nonsense"],
        ["serve", "--guarantee", "at-most-once"],
        ["up", "--port=x"],
    ):
        ended = sluice(*arguments)
        assert (ended.returncode, ended.stdout) == (2, ""), arguments
        assert "Usage" in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("no"), 2), (BrokerError("no"), 1), (KafkaFailed("no"), 1), (InputError("no"), 2)],
)
def test_an_error_of_the_world_is_one_line_and_its_own_exit_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome_of(error, monkeypatch) == code
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "sluice: error: no\n")


def test_an_error_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(pipeline.cli.main, "app", fail)
    with pytest.raises(KeyError):
        main()


def test_ctrl_c_exits_with_130_in_silence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome_of(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr() == ("", "")


def test_a_user_s_mistake_has_no_traceback() -> None:
    ended = sluice("serve", "--broker", "localhost:1", "--models", "/nonexistent")
    assert ended.returncode in (1, 2)
    assert ended.stderr.startswith("sluice: error: ")
    assert ended.stderr.count("\n") == 1


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    script = f"{sys.executable} -m pipeline.cli models list --json | true"
    env = {**os.environ, "PYTHONUNBUFFERED": ""}  # what is written only at the end must not complain then
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60, env=env)
    assert ended.stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("to", "code", "said"), [("&-", 0, ""), ("/dev/full", 1, "No space left on device")])
def test_without_a_place_for_what_it_prints_it_does_its_work_and_says_so_in_a_line(
    to: str, code: int, said: str, unbuffered: str
) -> None:
    script = f"{sys.executable} -m pipeline.cli models list >{to}"
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60, env=env)
    told = f"sluice: error: {said}\n" if said else ""
    assert (ended.returncode, ended.stderr) == (code, told)


def test_onnx_runtime_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    code = "import pipeline.cli.main, onnxruntime"
    subprocess.run([sys.executable, "-c", code], env={**env, "TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []  # its reporter keeps a session file there


def test_the_version_is_told() -> None:
    from importlib.metadata import version

    ended = sluice("--version")
    assert (ended.returncode, ended.stdout) == (0, f"sluice {version('sluice')}\n")
