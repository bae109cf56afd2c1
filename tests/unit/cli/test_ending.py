"""A command that is told to end first ends what it has started."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SLEEPER = """
import time
from pipeline.cli.ending import ended_by_signals
with ended_by_signals():
    try:
        print("started", flush=True)
        time.sleep(60)
    finally:
        print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_as_ctrl_c_does(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 128 + number
