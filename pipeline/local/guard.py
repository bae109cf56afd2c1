"""Runs a command that must not outlive its owner: ``python guard.py OWNER_PID SCRATCH OUTPUT COMMAND...``, on its own.

The first line on standard output is the command's pid. The command's standard output goes to the file OUTPUT, its
standard error where the guard's does. Standard input is the owner's hand: ``T`` asks the command to end, ``K`` kills
it, ``R`` releases it from its owner, and end of file means that the owner is gone, however it died and whichever of
its threads started us: then the command is ended and the folder SCRATCH, if named, removed. Should the guard itself be
killed, Linux kills the command. Uses the standard library alone, to start at once.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys

END_WAIT_S_MAX = 5.0  # what an orphan gets to end by itself; Kafka takes one to three
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


def watch(command: subprocess.Popen[bytes], owner: int, scratch: str, woken: int) -> None:
    """Until the command has ended: carry out the owner's orders, and end the command if the owner is gone."""
    owned = True
    while command.poll() is None:
        ready, _, _ = select.select([0, woken] if owned else [woken], [], [], OWNER_CHECK_S if owned else None)
        if woken in ready:
            os.read(woken, 64)
        order = os.read(0, 1) if 0 in ready else None
        if order == b"R":
            owned = False
        elif order == b"" or (owned and os.getppid() != owner):
            end(command)
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
        elif order:
            command.send_signal(signal.SIGTERM if order == b"T" else signal.SIGKILL)


def main(owner: int, scratch: str, output: str, argv: list[str]) -> int:
    """Run and watch; the exit status is the command's, 128 + N where signal N ended it."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    with open(output, "ab") as stdout:  # noqa: PTH123 -- pathlib would double the time to start
        nothing, before = subprocess.DEVNULL, die_with_guard
        command = subprocess.Popen(argv, stdin=nothing, stdout=stdout, preexec_fn=before)  # noqa: PLW1509 -- one thread
    os.write(1, f"{command.pid}\n".encode())
    os.close(1)
    watch(command, owner, scratch, woken)
    return command.returncode if command.returncode >= 0 else 128 - command.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
