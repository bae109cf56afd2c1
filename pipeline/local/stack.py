"""The background stack: one broker and one worker that outlive the command that started them, recorded in one file."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import BrokerError, SluiceError
from pipeline.core.subprocesses import module_command, module_environment
from pipeline.local.kafka import STOP_WAIT_S_MAX, EmbeddedKafka
from pipeline.local.places import locked, state_directory
from pipeline.local.process import Guarded, ProcessId

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Stack", "down", "running", "up"]

READY_WAIT_S_MAX = 120.0  # imports, model load and warm-up take seconds; a loaded machine ten times that
DRAIN_WAIT_S_MAX = 60.0  # the worker's own drain budget with room to spare
READY_CHECK_S = 0.1
LOG_TAIL_LINES = 15
# What is said of the worker's own work; where Kafka is and as which group it is asked, the stack knows better.
TOLD = frozenset({"SLUICE_DEVICE", "SLUICE_GUARANTEE", "SLUICE_ANSWER_ONCE_WITHIN", "SLUICE_LOG_LEVEL"})


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs in the background: where it answers, its processes and its folder."""

    bootstrap: str
    broker: ProcessId
    worker: ProcessId | None
    directory: Path
    """Data and logs of the broker and the worker's log."""
    keep_data: bool
    started_at: float
    """Unix time in seconds."""

    @property
    def worker_alive(self) -> bool:
        """Whether there is a worker that runs."""
        return self.worker is not None and self.worker.alive()


def running() -> Stack | None:
    """The background stack if a part of it is alive; None where none was started or all of it has died."""
    stack = _read()
    return stack if stack and (stack.broker.alive() or stack.worker_alive) else None


def up(
    *,
    port: int = 0,
    keep_data: bool = False,
    models: Path | None = None,
    worker: bool = True,
    progress: Progress | None = None,
) -> tuple[Stack, bool]:
    """Start what is missing of the stack; the stack, and whether all of it was up already.

    What a crash left over is cleared first. ``models`` is the worker's repository, by default the bundled one;
    ``keep_data`` lets topics and messages outlive `down` for the next such start; ``progress`` shows Kafka's first
    download. Raises `BrokerError` or `SluiceError` with the tail of a log where a part does not start; a broker
    started here is then ended too.
    """
    with locked(state_directory() / "stack.lock"):
        stack = running()
        if stack and not stack.broker.alive():
            stack = None
        if stack and (stack.worker_alive or not worker):
            return stack, True
        kafka = None
        if stack is None:
            _clear()
            kafka = _start_broker(port, progress, keep_data=keep_data)
            stack = Stack(
                bootstrap=kafka.bootstrap,
                broker=ProcessId.of(kafka.pid),
                worker=None,
                directory=kafka.directory,
                keep_data=keep_data,
                started_at=time.time(),
            )
        try:
            helper = _start_worker(stack, models) if worker else None
            stack = replace(stack, worker=ProcessId.of(helper.pid) if helper else None)
            _write(stack)  # before letting go: a process that nobody remembers never lives on
        except BaseException:
            if kafka:
                kafka.stop()
                _remove_data(stack)
            raise
        for part in (helper, kafka):
            if part:
                part.release()
        return stack, False


def down() -> bool:
    """End the worker (a drain), then the broker; False if nothing ran. Data goes too unless it was to be kept."""
    with locked(state_directory() / "stack.lock"):
        was_up = running() is not None
        _clear()
        return was_up


def _start_broker(port: int, progress: Progress | None, *, keep_data: bool) -> EmbeddedKafka:
    folder = state_directory() / ("kafka" if keep_data else "kafka-temporary")
    if not keep_data:
        shutil.rmtree(folder, ignore_errors=True)  # of an `up` that was killed before it wrote what it had started
    kafka = EmbeddedKafka(folder, port=port, progress=progress)
    kafka.start()
    return kafka


def worker_command(stack: Stack, models: Path | None) -> list[str]:
    """How the worker is started."""
    from pipeline.models import BUNDLED

    serve = ["serve", "--models", str((models or BUNDLED).absolute()), "--broker", stack.bootstrap]
    return [*module_command("pipeline.cli"), *serve]


def _start_worker(stack: Stack, models: Path | None) -> Guarded:
    """A worker that has said ``ready``."""
    said, log = stack.directory / "worker.out", stack.directory / "worker.log"
    said.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    worker = Guarded(worker_command(stack, models), output=said, errors=log, env=module_environment(TOLD))
    deadline = time.monotonic() + READY_WAIT_S_MAX
    try:
        while (status := worker.poll()) is None and time.monotonic() < deadline:
            if any(line.startswith("ready") for line in said.read_text().splitlines()):
                return worker
            time.sleep(READY_CHECK_S)
    except BaseException:
        worker.end(DRAIN_WAIT_S_MAX)
        raise
    worker.end(DRAIN_WAIT_S_MAX)
    why = f"was not ready within {READY_WAIT_S_MAX:.0f} s" if status is None else f"ended with status {status}"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
    raise SluiceError(f"the worker {why}; the end of its log:\n{tail}")


def _clear() -> None:
    """End whatever of a recorded stack is left, and forget it."""
    stack = _read()
    if stack is None:
        return
    if stack.worker:
        stack.worker.end(DRAIN_WAIT_S_MAX)
    stack.broker.end(STOP_WAIT_S_MAX)
    _remove_data(stack)
    _state_file().unlink(missing_ok=True)


def _remove_data(stack: Stack) -> None:
    if not stack.keep_data:
        shutil.rmtree(stack.directory, ignore_errors=True)


def _state_file() -> Path:
    return state_directory() / "stack.json"


def _write(stack: Stack) -> None:
    text = json.dumps({**asdict(stack), "directory": str(stack.directory)})
    draft = _state_file().with_suffix(".draft")
    draft.write_text(text)
    draft.replace(_state_file())


def _read() -> Stack | None:
    try:
        said = json.loads(_state_file().read_text())
        broker, worker = ProcessId(**said.pop("broker")), said.pop("worker")
        folder = Path(said.pop("directory"))
        return Stack(broker=broker, worker=ProcessId(**worker) if worker else None, directory=folder, **said)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokerError(f"{_state_file()} is damaged ({error}); remove it after ending what it names") from error
