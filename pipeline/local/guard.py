"""Runs a command that must not outlive its owner: ``python guard.py OWNER_PID SCRATCH COMMAND...``, a process of its own.

The first line on standard output is the command's pid; the command writes to the guard's standard error. Standard
input is the owner's hand: ``T`` asks the command to end, ``K`` kills it, and its end of file means that the owner is
gone, however it died and from whatever thread it started us. Then the command is ended and SCRATCH, if named, removed.
Should the guard itself be killed, Linux kills the command. Uses the standard library alone, to start at once.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys

END_WAIT_S_MAX = 10.0  # an orphan gets this long to end by itself
OWNER_CHECK_S = 0.5  # a forked child of the owner may hold our input open: the parent pid tells too
PR_SET_PDEATHSIG = 1


def die_with_guard() -> None:
    """In the child before it becomes the command: Linux sends it SIGKILL when the guard's only thread ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end(command: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for what has not ended after `END_WAIT_S_MAX`."""
    command.terminate()
    try:
        command.wait(END_WAIT_S_MAX)
    except subprocess.TimeoutExpired:
        command.kill()
        command.wait()


def main(owner: int, scratch: str, argv: list[str]) -> int:
    """Watch over the command; its exit status, negative for a signal, is the guard's (as 128 + signal)."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    command = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=2, stderr=2, preexec_fn=die_with_guard)
    os.write(1, f"{command.pid}\n".encode())
    while command.poll() is None:
        ready, _, _ = select.select([0, woken], [], [], OWNER_CHECK_S)
        if woken in ready:
            os.read(woken, 64)
        order = os.read(0, 1) if 0 in ready else None
        if order == b"" or os.getppid() != owner:
            end(command)
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
        elif order:
            command.send_signal(signal.SIGTERM if order == b"T" else signal.SIGKILL)
    return command.returncode if command.returncode >= 0 else 128 - command.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
