"""Processes of the local stack: under guard while this process lives, or found again by pid and start time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Guarded", "ProcessId"]

GUARD = Path(__file__).with_name("guard.py")
CREATED_S_TOLERANCE = 2.0  # psutil counts from the boot time, which moves when the clock is set; pids return far later


class Guarded:
    """A command that ends when this process ends, whichever way that happens (see `guard`), or until `release`.

    ``pid`` is the command's own. It has a session of its own, so Ctrl-C at the terminal reaches only this process.
    ``output`` and ``errors`` are the files its two streams are appended to; ``scratch`` is a folder the guard removes
    when it had to end an orphan. Raises `OSError` where the command cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        output: Path,
        errors: Path,
        scratch: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        guard = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), str(scratch or ""), str(output), *argv]
        pipe = subprocess.PIPE
        with errors.open("ab") as stderr:
            self._guard = subprocess.Popen(
                guard, stdin=pipe, stdout=pipe, stderr=stderr, bufsize=0, env=env, start_new_session=True
            )
        assert self._guard.stdin
        assert self._guard.stdout
        self._orders = self._guard.stdin
        with self._guard.stdout as said:
            first = said.readline()
        if not first:
            self.wait()
            raise OSError(f"{argv[0]} could not be started; see {errors}")
        self.pid = int(first)

    def poll(self) -> int | None:
        """Exit status, 128 + N where signal N ended it; None while it runs."""
        status = self._guard.poll()
        if status is not None:
            self._orders.close()
        return status

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._order(b"K")
        self.wait()

    def end(self, wait_s_max: float) -> None:
        """SIGTERM, and SIGKILL if it has not ended after ``wait_s_max`` seconds; returns when it is gone."""
        self._order(b"T")
        try:
            self.wait(wait_s_max)
        except subprocess.TimeoutExpired:
            self.kill()

    def wait(self, wait_s_max: float | None = None) -> int:
        """Exit status once it has ended; raises `subprocess.TimeoutExpired`."""
        status = self._guard.wait(wait_s_max)
        self._orders.close()
        return status

    def release(self) -> ProcessId:
        """Let it go on after this process has ended; from now on only the returned id reaches it."""
        found = ProcessId.of(self.pid)
        self._order(b"R")
        self._orders.close()
        self._guard.returncode = 0  # no longer ours to wait for
        return found

    def _order(self, order: bytes) -> None:
        try:
            self._orders.write(order)
        except (BrokenPipeError, ValueError):
            return  # it has ended meanwhile: nothing to end or release


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that can be found again without being mistaken for a later one of the same pid."""

    pid: int
    created_at: float
    """Unix time in seconds."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The running process ``pid``; one that has ended gets an id that is not `alive`."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return cls(pid, 0.0)

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return self._find() is not None

    def end(self, wait_s_max: float) -> None:
        """SIGTERM, and SIGKILL after ``wait_s_max`` seconds; nothing if it has ended already."""
        process = self._find()
        if process is None:
            return
        try:
            process.terminate()
            process.wait(wait_s_max)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()
        except psutil.NoSuchProcess:
            return  # ended between the look and the signal

    def _find(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created_at) < CREATED_S_TOLERANCE
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None
