"""Which peers run, and with which Python."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.subprocesses import module_command, module_environment
from pipeline.load import contestants
from pipeline.load.contestants import PEERS, Peer, field_of


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The Python of an environment that has one package of its own, and of ours NumPy alone."""
    venv.create(tmp_path / "other", symlinks=True)
    (packages,) = (tmp_path / "other").glob("lib/python*/site-packages")
    (packages / "only_there.py").touch()
    for part in Path(np.__file__).parents[1].glob("numpy*"):
        (packages / part.name).symlink_to(part)
    return tmp_path / "other" / "bin" / "python"


def test_what_sluice_needs_itself_runs_with_its_python(tmp_path: Path) -> None:
    field = field_of(["loop", "faust"], None, tmp_path)
    assert field.commands["loop"] == module_command("pipeline.load.peers.loop")
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
    look = command[-1].replace("import runpy; ", "import pipeline.load.peers; print(*sys.path); import runpy; ")
    printed = subprocess.run(
        [*command[:-1], look], capture_output=True, text=True, check=True, env=module_environment()
    ).stdout
    first, *others = map(Path, printed.split())
    assert [path.name for path in first.iterdir()] == ["pipeline"]
    assert [path for path in others if (path / "pipeline").exists() or (path / "confluent_kafka").exists()] == []


def test_no_peer_and_no_python_of_that_name_are_misuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PEERS, "there", Peer("nowhere", needs="only_there"))
    with pytest.raises(ConfigError, match="there are loop, quiet-loop"):
        field_of(["looop"], None, tmp_path)
    with pytest.raises(ConfigError, match=r"--peers-python .*/gone: No such file"):
        field_of(["there"], tmp_path / "gone", tmp_path)
