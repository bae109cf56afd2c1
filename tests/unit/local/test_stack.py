"""The record of the background stack: up, down, what a crash leaves, and a worker that does or does not get ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.core.errors import BrokerError, SluiceError
from pipeline.local import down, running, stack, up
from pipeline.local.process import Guarded, ProcessId

READY = "echo 'warming up' >&2; echo ready on 4 partitions; exec sleep 600"
BROKEN = "echo 'no model called nobody' >&2; exit 3"


class SleepingBroker:
    """Stands for Kafka: a process, a port and a folder, without the 4 seconds."""

    def __init__(self, directory: Path, *, port: int = 0, progress: object = None) -> None:
        self.directory, self.bootstrap = directory, f"127.0.0.1:{port or 9}"
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        (self.directory / "message").touch()
        self._process = Guarded(["sleep", "600"], output=self.directory / "o", errors=self.directory / "e")
        self.pid = self._process.pid

    def stop(self) -> None:
        self._process.end(5)

    def release(self) -> ProcessId:
        return self._process.release()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(stack, "EmbeddedKafka", SleepingBroker)
    worker_runs(monkeypatch, READY)
    yield tmp_path
    down()


def worker_runs(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(stack, "worker_command", lambda *_: ["sh", "-c", script])


def test_nothing_runs_before_up_and_after_down() -> None:
    assert running() is None
    assert down() is False
    started, already = up()
    assert not already
    assert running() == started
    assert started.worker_alive
    assert down() is True
    assert running() is None
    assert not started.broker.alive()
    assert not started.worker_alive


def test_a_second_up_changes_nothing() -> None:
    first, _ = up(port=4242)
    assert first.bootstrap == "127.0.0.1:4242"
    assert up(port=4343) == (first, True)


def test_without_a_worker_a_later_up_adds_it_to_the_same_broker() -> None:
    bare, _ = up(worker=False)
    assert bare.worker is None
    whole, already = up()
    assert not already
    assert whole.broker == bare.broker
    assert whole.worker_alive
    assert up(worker=False) == (whole, True)


def test_a_dead_worker_is_started_again_beside_the_living_broker() -> None:
    first, _ = up()
    assert first.worker
    first.worker.end(5)
    second, already = up()
    assert not already
    assert second.broker == first.broker
    assert second.worker_alive


def test_what_a_crash_of_the_broker_left_is_cleared_by_the_next_up() -> None:
    first, _ = up()
    os.kill(first.broker.pid, signal.SIGKILL)
    while first.broker.alive():
        pass
    assert running() == first, "its worker lives"
    second, already = up()
    assert not already
    assert second.broker.alive()
    assert not first.worker_alive


def test_a_worker_without_its_broker_is_something_to_take_down() -> None:
    first, _ = up()
    os.kill(first.broker.pid, signal.SIGKILL)
    while first.broker.alive():
        pass
    assert down() is True
    assert not first.worker_alive and running() is None


def test_the_worker_is_told_of_its_work_but_of_no_other_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLUICE_DEVICE", "SLUICE_KAFKA_CONFIG", "SLUICE_GROUP"):
        monkeypatch.setenv(name, "x")
    worker_runs(monkeypatch, 'echo "ready $SLUICE_DEVICE/$SLUICE_KAFKA_CONFIG/$SLUICE_GROUP"; exec sleep 600')
    started, _ = up()
    assert (started.directory / "worker.out").read_text() == "ready x//\n"


def test_a_record_of_before_a_reboot_ends_no_stranger(state: Path) -> None:
    first, _ = up(worker=False)
    record = state / "stack.json"
    record.write_text(record.read_text().replace(str(first.broker.created_at), "1.5"))
    assert running() is None
    assert down() is False
    assert first.broker.alive()
    first.broker.end(5)


def test_a_worker_that_does_not_get_ready_tells_its_log_and_takes_the_new_broker_along(
    monkeypatch: pytest.MonkeyPatch, state: Path
) -> None:
    worker_runs(monkeypatch, BROKEN)
    brokers: list[SleepingBroker] = []

    class Seen(SleepingBroker):
        def start(self) -> None:
            super().start()
            brokers.append(self)

    monkeypatch.setattr(stack, "EmbeddedKafka", Seen)
    with pytest.raises(SluiceError, match=r"(?s)ended with status 3.*no model called nobody"):
        up()
    assert running() is None
    assert not ProcessId.of(brokers[0].pid).alive()
    assert not (state / "kafka-temporary").exists()


def test_a_worker_that_does_not_get_ready_leaves_a_broker_that_was_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bare, _ = up(worker=False)
    worker_runs(monkeypatch, BROKEN)
    with pytest.raises(SluiceError):
        up()
    assert running() == bare


@pytest.mark.parametrize("keep_data", [True, False])
def test_data_outlives_down_only_where_asked(keep_data: bool) -> None:
    first, _ = up(worker=False, keep_data=keep_data)
    down()
    assert (first.directory / "message").exists() == keep_data


def test_a_plain_up_does_not_touch_kept_data() -> None:
    kept, _ = up(worker=False, keep_data=True)
    down()
    plain, _ = up(worker=False)
    assert plain.directory != kept.directory
    down()
    assert (kept.directory / "message").exists()


KILLED_UP = """
    from pipeline.local import stack
    from pipeline.local.process import Guarded
    class Broker:
        def __init__(self, directory, *, port, progress):
            self.directory, self.bootstrap = directory, "127.0.0.1:9"
        def start(self):
            self.directory.mkdir(parents=True)
            self.process = Guarded(["sleep", "600"], output=self.directory / "o", errors=self.directory / "e")
            self.pid = self.process.pid
            print(self.pid, flush=True)
    stack.EmbeddedKafka = Broker
    stack.worker_command = lambda *_: ["sh", "-c", "echo $$; exec sleep 600"]
    stack.up()
"""


def test_an_up_that_is_killed_half_way_leaves_no_process(state: Path) -> None:
    argv = [sys.executable, "-c", textwrap.dedent(KILLED_UP)]
    killed = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(stack.__file__).parents[2])
    assert killed.stdout
    broker = psutil.Process(int(killed.stdout.readline()))
    while not (said := state / "kafka-temporary" / "worker.out").exists() or not said.read_text():
        assert killed.poll() is None
    worker = psutil.Process(int(said.read_text()))
    killed.kill()
    killed.communicate()
    assert psutil.wait_procs([broker, worker], 30)[1] == []
    assert running() is None


def test_a_damaged_record_is_told(state: Path) -> None:
    (state / "stack.json").write_text('{"broker": 1}')
    with pytest.raises(BrokerError, match=r"stack\.json is damaged"):
        running()
    (state / "stack.json").unlink()


def test_the_worker_runs_these_packages_with_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    found = stack.Stack("127.0.0.1:9", ProcessId(1, 0), None, tmp_path, False, 0.0)
    command = stack.worker_command(found, Path("models"))
    assert command[:4] == [sys.executable, "-P", "-m", "pipeline.cli"]
    assert command[4:] == ["serve", "--models", str(Path.cwd() / "models"), "--broker", "127.0.0.1:9"]
