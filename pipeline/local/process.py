"""Processes of the local stack: one that dies with this process, and one that outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["Guarded", "Process", "end", "spawn_detached"]

GUARD = Path(__file__).with_name("guard.py")


class Process(Protocol):
    """What `subprocess.Popen` and `Guarded` both can."""

    pid: int

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class Guarded:
    """A command that ends when this process ends, whichever way that happens (see `guard`).

    ``pid`` is the command's own. It has a session of its own, so Ctrl-C at the terminal reaches only this process.
    ``scratch`` is a folder the guard removes when it had to end an orphan.
    """

    def __init__(self, argv: Sequence[str], *, log: Path, scratch: Path | None = None) -> None:
        guard = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(scratch or ""), *argv]
        with log.open("ab") as output:
            self._guard = subprocess.Popen(
                guard, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, bufsize=0, start_new_session=True
            )
        assert self._guard.stdin and self._guard.stdout
        self._orders = self._guard.stdin
        with self._guard.stdout as said:
            self.pid = int(said.readline() or 0)  # 0: the guard did not start; poll() tells with what status

    def poll(self) -> int | None:
        return self._guard.poll()

    def terminate(self) -> None:
        self._order(b"T")

    def kill(self) -> None:
        self._order(b"K")

    def wait(self, timeout: float | None = None) -> int:
        status = self._guard.wait(timeout)
        self._orders.close()
        return status

    def _order(self, order: bytes) -> None:
        try:
            self._orders.write(order)
        except (BrokenPipeError, ValueError):
            return  # it has ended meanwhile, which is what was asked for


def spawn_detached(argv: Sequence[str], *, log: Path) -> subprocess.Popen[bytes]:
    """Start a command that goes on after this process has ended; its output goes to ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, close_fds=True
        )


def end(process: Process, wait_s_max: float) -> None:
    """SIGTERM, and SIGKILL if it has not ended after ``wait_s_max`` seconds; returns when it is gone."""
    process.terminate()
    try:
        process.wait(wait_s_max)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
