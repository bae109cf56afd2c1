"""Which peers run, and with which Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from pipeline.load import contestants
from pipeline.load.contestants import PEERS, Peer, field_of


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A Python that has one package more, in a folder that stands for its environment."""
    package = tmp_path / "other" / "only_there"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def test_what_sluice_needs_itself_runs_with_its_python(tmp_path: Path) -> None:
    field = field_of(["loop", "faust"], None, tmp_path)
    assert field.commands["loop"] == [sys.executable, "-m", "pipeline.load.peers.loop"]
    assert set(field.commands) == {"loop", "faust"}
    assert field.left_out == {}


def test_every_peer_is_a_module_that_is_there() -> None:
    root = Path(contestants.__file__).parents[2]
    assert [p.module for p in PEERS.values() if not (root / f"{p.module.replace('.', '/')}.py").is_file()] == []


def test_a_peer_of_another_environment_runs_there_and_sees_our_package_only(
    monkeypatch: pytest.MonkeyPatch, other: Path, tmp_path: Path
) -> None:
    peer = Peer("pipeline.load.peers.arguments", needs="only_there", advice="install it")
    monkeypatch.setitem(PEERS, "there", peer)
    assert field_of(["there"], None, tmp_path).left_out == {"there": "only_there is not installed; install it"}
    command = field_of(["there"], other, tmp_path).commands["there"]
    assert command[0] == str(other)
    look = command[2].replace("import runpy; ", "import pipeline.load.peers; print(sys.path[0]); import runpy; ")
    printed = subprocess.run([*command[:2], look], capture_output=True, text=True, check=True).stdout
    assert [path.name for path in Path(printed.strip()).iterdir()] == ["pipeline"]


def test_no_peer_and_no_python_of_that_name_are_misuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PEERS, "there", Peer("nowhere", needs="only_there"))
    with pytest.raises(ConfigError, match="there are loop, quiet-loop"):
        field_of(["looop"], None, tmp_path)
    with pytest.raises(ConfigError, match=r"--peers-python .*/gone: No such file"):
        field_of(["there"], tmp_path / "gone", tmp_path)
