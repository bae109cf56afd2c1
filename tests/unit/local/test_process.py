"""Processes that must not outlive their owner, and processes that must."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.local import process
from pipeline.local.process import Guarded, ProcessId

GONE_WAIT_S_MAX = 30.0
STUBBORN = "trap '' TERM; echo started; while true; do sleep 0.1; done"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Callable[..., Guarded]]:
    started: list[Guarded] = []

    def start(*argv: str) -> Guarded:
        started.append(Guarded(argv, output=tmp_path / "output", errors=tmp_path / "errors"))
        return started[-1]

    yield start
    for each in started:
        if each.poll() is None:
            each.kill()


def assert_gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(GONE_WAIT_S_MAX)
    except psutil.NoSuchProcess:
        return


def test_the_exit_status_is_the_commands(guarded: Callable[..., Guarded]) -> None:
    assert guarded("sh", "-c", "exit 7").wait(GONE_WAIT_S_MAX) == 7
    assert guarded("sh", "-c", "kill -9 $$").wait(GONE_WAIT_S_MAX) == 128 + signal.SIGKILL


def test_streams_go_to_their_files(guarded: Callable[..., Guarded], tmp_path: Path) -> None:
    guarded("sh", "-c", "echo said; echo complained >&2").wait(GONE_WAIT_S_MAX)
    assert (tmp_path / "output").read_text() == "said\n"
    assert (tmp_path / "errors").read_text() == "complained\n"


def test_a_command_that_does_not_exist_is_an_error_that_says_where_to_look(guarded: Callable[..., Guarded]) -> None:
    with pytest.raises(OSError, match="errors"):
        guarded("/no/such/command")


def test_end_asks_first_and_kills_what_stays(guarded: Callable[..., Guarded], tmp_path: Path) -> None:
    polite = guarded("sleep", "600")
    polite.end(GONE_WAIT_S_MAX)
    assert polite.poll() == 128 + signal.SIGTERM
    stubborn = guarded("sh", "-c", STUBBORN)
    while (tmp_path / "output").read_text() != "started\n":
        assert stubborn.poll() is None
    stubborn.end(0.2)
    assert stubborn.poll() == 128 + signal.SIGKILL
    stubborn.end(0.2)  # ending twice is nothing


def test_a_ctrl_c_at_the_terminal_does_not_reach_the_command(guarded: Callable[..., Guarded]) -> None:
    assert os.getpgid(guarded("sleep", "600").pid) != os.getpgid(0)


def test_a_stopped_command_can_be_ended(guarded: Callable[..., Guarded]) -> None:
    stopped = guarded("sleep", "600")
    os.kill(stopped.pid, signal.SIGSTOP)
    stopped.end(0.2)
    assert_gone(stopped.pid)


def test_the_end_of_the_thread_that_started_it_is_not_the_end_of_the_owner(guarded: Callable[..., Guarded]) -> None:
    started: list[Guarded] = []
    thread = threading.Thread(target=lambda: started.append(guarded("sleep", "600")))
    thread.start()
    thread.join()
    with pytest.raises(subprocess.TimeoutExpired):
        started[0].wait(0.7)  # longer than the guard takes between two looks at its owner


def test_a_killed_guard_takes_its_command_along(guarded: Callable[..., Guarded]) -> None:
    command = guarded("sleep", "600")
    guard = psutil.Process(command.pid).parent()
    assert guard
    guard.kill()
    assert_gone(command.pid)


OWNER = """
    import os, sys, time
    from pathlib import Path
    from pipeline.local.process import Guarded
    folder = Path(sys.argv[1])
    (folder / "scratch").mkdir()
    stubborn = "trap '' TERM; echo started; while true; do sleep 0.1; done"
    argv = ["sh", "-c", stubborn] if sys.argv[2] == "stubborn" else ["sleep", "600"]
    command = Guarded(argv, output=folder / "o", errors=folder / "e", scratch=folder / "scratch")
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(600)
    while sys.argv[2] == "stubborn" and not (folder / "o").read_text():
        time.sleep(0.05)
    if sys.argv[2] == "release":
        command.release()
    print(command.pid, flush=True)
    time.sleep(600)
"""


def owner(folder: Path, what: str) -> tuple[subprocess.Popen[str], int]:
    argv = [sys.executable, "-c", textwrap.dedent(OWNER), str(folder), what]
    started = subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, cwd=Path(process.__file__).parents[2], start_new_session=True
    )
    assert started.stdout
    return started, int(started.stdout.readline())


@pytest.mark.parametrize("what", ["plain", "fork", "stubborn"])
def test_a_killed_owner_leaves_neither_command_nor_scratch(tmp_path: Path, what: str) -> None:
    parent, pid = owner(tmp_path, what)
    guard = psutil.Process(pid).parent()
    assert guard
    parent.kill()
    try:
        assert_gone(pid)
        assert_gone(guard.pid)
        assert not (tmp_path / "scratch").exists()
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # the forked child, or nobody but the unreaped owner
        parent.communicate()


def test_a_released_command_outlives_its_owner(tmp_path: Path) -> None:
    parent, pid = owner(tmp_path, "release")
    found = ProcessId.of(pid)
    parent.kill()
    parent.communicate()
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(pid).wait(0.7)
    assert found.alive()
    found.end(GONE_WAIT_S_MAX)
    assert not found.alive()


def test_a_later_process_of_the_same_pid_is_neither_alive_nor_ended(guarded: Callable[..., Guarded]) -> None:
    command = guarded("sleep", "600")
    real = ProcessId.of(command.pid)
    earlier = ProcessId(real.pid, real.created_at - 60)
    earlier.end(0.1)
    assert not earlier.alive()
    assert real.alive()
    command.kill()
    assert not real.alive()
    assert not ProcessId.of(command.pid).alive()
