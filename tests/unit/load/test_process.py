"""Measured processes: readiness, failure, stopping."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pipeline.load
from pipeline.load.process import BenchError, Process, run_module


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `contestant` to be written by the test, found by child processes too."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "contestant.py"


def test_a_ready_process_is_stopped_by_sigterm(module: Path, tmp_path: Path) -> None:
    module.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "print('starting', flush=True); sum(range(10**6)); print('ready now', flush=True); time.sleep(60)\n"
    )
    with Process("contestant", [], tmp_path / "log") as process:
        process.wait_ready()
        assert process.cpu_s() > 0 or not sys.platform.startswith("linux")
        process.stop()
        with pytest.raises(BenchError, match="exited with 0"):
            process.check()


def test_one_that_exits_early_is_told_with_its_last_words(module: Path, tmp_path: Path) -> None:
    module.write_text("import sys; sys.exit('no such broker')\n")
    with (
        pytest.raises(BenchError, match=r"contestant exited with 1: \nno such broker"),
        Process("contestant", [], tmp_path / "log") as process,
    ):
        process.wait_ready()


def test_one_that_dies_of_the_signal_has_not_stopped_well(module: Path, tmp_path: Path) -> None:
    module.write_text("import time; print('ready', flush=True); time.sleep(60)\n")
    with Process("contestant", [], tmp_path / "log") as process:
        process.wait_ready()
        with pytest.raises(BenchError, match="did not stop with 0 but -15"):
            process.stop()


def test_a_module_run_to_its_end_gives_what_it_printed(module: Path) -> None:
    module.write_text("import sys; print(sys.argv[1:])\n")
    assert run_module("contestant", ["--n", "1"]).strip() == "['--n', '1']"
    module.write_text("import sys; sys.exit('boom')\n")
    with pytest.raises(BenchError, match="contestant exited with 1: boom"):
        run_module("contestant", [])


def test_it_is_told_no_option_of_the_users_and_runs_nothing_of_the_current_folder(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "print(pipeline.load.__file__, {name for name in os.environ if name.startswith('SLUICE_')}, flush=True)"
    module.write_text(f"import os, pipeline.load; {said}; raise SystemExit(7)\n")
    (tmp_path / "here" / "pipeline").mkdir(parents=True)
    (tmp_path / "here" / "pipeline" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SLUICE_GUARANTEE", "exactly-once")
    monkeypatch.setenv("SLUICE_CACHE_DIR", str(tmp_path))
    with pytest.raises(BenchError, match="exited with 7"), Process("contestant", [], tmp_path / "log") as process:
        process.wait_ready()
    module.write_text(module.read_text().replace("7", "0"))
    told = f"{pipeline.load.__file__} {{'SLUICE_CACHE_DIR'}}"
    assert [(tmp_path / "log").read_text().strip(), run_module("contestant", []).strip()] == [told, told]
