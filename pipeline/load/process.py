"""A measured process: started with its output in a log, awaited until ready, its CPU time read, stopped."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.core.errors import SluiceError
from pipeline.core.subprocesses import module_command, module_environment

__all__ = ["BenchError", "Process", "run_module"]

READY_S_MAX = 60.0  # a worker loads its model and joins its group well within; Faust takes up to 10 s
STOP_S_MAX = 30.0  # a drain is bounded by 20 s (`pipeline.core.limits`)
RUN_S_MAX = 600.0
LOG_LINES = 15


class BenchError(SluiceError):
    """A contestant failed, stalled or answered wrongly: there is no figure."""

    code = "bench"


class Process:
    """``python -m MODULE ARGUMENTS`` as a context: entered when started, left when stopped.

    ``command`` stands in for ``python -m MODULE``, where another Python runs it. It prints a line beginning with
    ``ready`` when it can work. Raises `BenchError` with the end of its log where it exits early or does not stop
    with 0.
    """

    def __init__(self, module: str, arguments: Sequence[str], log: Path, command: Sequence[str] | None = None) -> None:
        self._name = module
        self._command = [*(command or module_command(module)), *arguments]
        self._log = log
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # A group of its own: Ctrl-C in the terminal reaches the bench, which then stops its contestant.
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=module_environment(),
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.stop(check=error is None)

    def check(self) -> None:
        """Raise `BenchError` where the process is gone."""
        if self._process.poll() is not None:
            raise BenchError(f"{self._name} exited with {self._process.returncode}: {self._tail()}")

    def wait_ready(self) -> str:
        """The ``ready`` line, once it has printed it."""
        deadline_s = time.monotonic() + READY_S_MAX
        while True:
            *lines, _ = self._log.read_text(errors="replace").split("\n")  # the last is not yet complete
            if ready := [line for line in lines if line.startswith("ready")]:
                return ready[0]
            self.check()
            if time.monotonic() > deadline_s:
                raise BenchError(f"{self._name} was not ready after {READY_S_MAX:.0f} s: {self._tail()}")
            time.sleep(0.05)

    def cpu_s(self) -> float:
        """User and system time of all its threads so far; NaN where there is no ``/proc``."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return math.nan
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, *, check: bool = True) -> None:
        """SIGTERM, and SIGKILL for one that does not obey."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if check and code != 0:
            raise BenchError(f"{self._name} did not stop with 0 but {code}: {self._tail()}")

    def stalled(self, seconds: float) -> BenchError:
        """The error of a process that runs and does nothing."""
        return BenchError(f"{self._name} answered nothing more for {seconds:.0f} s: {self._tail()}")

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
        return "\n".join(["", *lines]) if lines else "it printed nothing"


def run_module(module: str, arguments: Sequence[str]) -> str:
    """``python -m MODULE ARGUMENTS`` to its end; what it printed. Raises `BenchError` unless it exits with 0."""
    command = [*module_command(module), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_S_MAX, check=False, env=module_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{module} took more than {RUN_S_MAX:.0f} s") from error
    if done.returncode != 0:
        raise BenchError(f"{module} exited with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
