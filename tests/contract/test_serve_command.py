"""`sluice serve` as a process: when it is ready, what it leaves behind, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.local import EmbeddedKafka
from pipeline.models import BUNDLED, load_repository
from tests.contract.worker import Worker
from tests.fault.breaking_worker import MODULE
from topics import Client, NotAnswered
from topics.admin import list_topics

DIGITS = load_repository(BUNDLED)[0]


def _first_answer(client: Client) -> dict[str, Any]:
    """Ask until answered: a group that begins at the latest request may look up where that is just after the first."""
    for _ in range(5):
        with contextlib.suppress(NotAnswered):
            return client.predict(np.zeros((3, 1, 8, 8), np.float32), timeout_s=5)
    raise AssertionError("never answered")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_when_ready_and_drains_when_told(
    broker: EmbeddedKafka, topic: Callable[..., str], tmp_path: Path, number: signal.Signals
) -> None:
    ready, report = tmp_path / "ready", tmp_path / "report.json"
    ready.touch()  # of a worker that was killed
    options = ["--ready-file", str(ready), "--report", str(report)]
    with Worker(
        broker.bootstrap, BUNDLED, topic("group"), *options, "--from", "latest", log=tmp_path / "log"
    ) as worker:
        assert ready.exists()
        with Client(broker.bootstrap, DIGITS.name, DIGITS.signature) as client:
            said = _first_answer(client)
        assert said["label"].shape == (3,)
        assert worker.stop(number) == 0
        assert not ready.exists()
    counts = json.loads(report.read_text())["total"]["requests"]
    assert (counts["answered"], counts["in_flight"]) == (1, 0)


@pytest.mark.parametrize(
    ("endpoint", "threads"),
    [((), 3), (("--otlp-endpoint", "http://127.0.0.1:9"), 5)],
    ids=["event loop, poll, completion", "and two that export"],
)
def test_its_threads_that_take_turns_at_pythons_lock_share_one_core_and_no_other_thread_is_kept(
    broker: EmbeddedKafka, topic: Callable[..., str], tmp_path: Path, endpoint: tuple[str, ...], threads: int
) -> None:
    if len(everywhere := os.sched_getaffinity(0)) < 2:
        pytest.skip("this process has one core")
    with Worker(broker.bootstrap, BUNDLED, topic("group"), *endpoint, log=tmp_path / "log") as worker:
        tasks = Path(f"/proc/{worker.process.pid}/task")

        def kept() -> list[set[int]]:
            allowed = [os.sched_getaffinity(int(task.name)) for task in tasks.iterdir()]
            return [cores for cores in allowed if cores != everywhere]

        shared: list[set[int]] = []
        for _ in range(200):
            if len(shared := kept()) == threads:
                break
            time.sleep(0.02)
    assert shared == [shared[0]] * threads
    assert len(shared[0]) == 1


def test_missing_topics_are_applied_unless_it_is_told_not_to(tmp_path: Path) -> None:
    with EmbeddedKafka() as kafka:
        missing = [state.topic for state in list_topics(kafka.bootstrap, [DIGITS.topics]) if state.missing]
        assert len(missing) == 3
        with Worker(kafka.bootstrap, BUNDLED, "g", "--partitions", "3", log=tmp_path / "log"):
            states = list_topics(kafka.bootstrap, [DIGITS.topics])
        assert [state.partitions for state in states] == [3, 3, 3]
        with Worker(kafka.bootstrap, BUNDLED, "h", "--no-apply", log=tmp_path / "log"):
            assert list_topics(kafka.bootstrap, [DIGITS.topics]) == states


@pytest.mark.parametrize("error", ["RuntimeError", "BackendError"])
def test_a_model_that_fails_for_good_ends_it_with_one_line_that_says_so(
    broker: EmbeddedKafka, topic: Callable[..., str], tmp_path: Path, error: str
) -> None:
    armed, log = tmp_path / "armed", tmp_path / "log"
    env = {"BREAK": f"run before {error} always", "BREAK_ARMED": str(armed)}
    with (
        Worker(
            broker.bootstrap, BUNDLED, topic("group"), "--from", "latest", log=log, module=MODULE, env=env
        ) as worker,
        Client(broker.bootstrap, DIGITS.name, DIGITS.signature) as client,
    ):
        _first_answer(client)
        armed.touch()
        client.produce([np.zeros((1, 8, 8), np.float32)])
        assert worker.process.wait(60) == 1
    said = log.read_text()
    assert "Traceback" not in said
    assert (
        said.splitlines()[-1]
        .partition("the worker failed: ")[2]
        .startswith(f"{DIGITS.label} fails on any input, zeros included: ")
    ), said
    assert said.count("the worker failed: ") == 1


def test_an_unknown_setting_is_one_line_before_anything_starts(broker: EmbeddedKafka) -> None:
    for kafka in ("no.such.setting=1", "enable.idempotence=false"):
        command = [sys.executable, "-m", "pipeline.cli", "serve", "--broker", broker.bootstrap, "--kafka", kafka]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode in (1, 2), kafka
        assert ended.stdout == ""
        assert ended.stderr.startswith("sluice: error: ")
        assert kafka.partition("=")[0] in ended.stderr
        assert "Traceback" not in ended.stderr
