"""`sluice demo` as a process: what it shows, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

COMMAND = [sys.executable, "-m", "pipeline.cli", "demo", "--repeat", "1"]
END_S = 60


def test_the_digits_are_told_and_their_time_is_accounted_for() -> None:
    ended = subprocess.run([*COMMAND, "--json"], capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["accuracy"] >= 0.98
    assert found["images"] == 4 * 500
    assert found["answered"] == found["requests"]
    assert abs(found["stages_over_end_to_end"] - 1) <= 0.01
    assert {lot["content_type"] for lot in found["lots"]} == {"json", "raw", "arrow"}
    assert "@@" in ended.stderr  # the pictures are for people


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_ends_all_it_started(number: signal.Signals, tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen([*COMMAND, "--keep"], stdout=pipe, stderr=nothing, text=True, env=env) as demo:
        assert demo.stdout is not None
        line = next(line for line in demo.stdout if "worker is ready" in line)
        assert line
        started = psutil.Process(demo.pid).children(recursive=True)
        assert len(started) >= 4, started  # Kafka, a worker, and a guard for each
        demo.send_signal(number)
        demo.stdout.read()
        code = demo.wait(END_S)
    _, alive = psutil.wait_procs(started, timeout=END_S)
    assert alive == []
    assert [*tmp_path.glob("sluice-demo-*"), *tmp_path.glob("sluice-kafka-*")] == []
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]
