"""`sluice serve` that breaks at a place a test names: ``python -m tests.fault.breaking_worker serve …``.

``BREAK`` says where, when and how, such as ``commit before die``. It happens at the next call once the file that
``BREAK_ARMED`` names is there; the file is removed with it, so it happens once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka

import pipeline.intake.consumer
import pipeline.publish.producer
from pipeline.cli.main import main
from pipeline.core.errors import BackendError, DeviceLostError
from pipeline.infer.backends.onnxruntime import OnnxRuntime

MODULE = "tests.fault.breaking_worker"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    """As a runtime in C++ does on a bad day."""
    ctypes.string_at(0)


def raising(error: type[BaseException]) -> Callable[[], None]:
    def run() -> None:
        raise error("broken on purpose")

    return run


def hang() -> None:
    threading.Event().wait()


HOW: dict[str, Callable[[], None]] = {"die": die, "crash": crash, "hang": hang} | {
    error.__name__: raising(error)
    for error in (RuntimeError, MemoryError, BackendError, DeviceLostError, SystemExit, KeyboardInterrupt)
}


def broken(call: Callable[..., Any], when: str, how: Callable[[], None], armed: Path) -> Callable[..., Any]:
    """``call``, and ``how`` before or after the one for which ``armed`` is found."""

    def run(*args: Any, **kwargs: Any) -> Any:
        due = armed.exists()
        if due:
            armed.unlink()
            if when == "before":
                how()
            kwargs = {**kwargs, "asynchronous": False} if "asynchronous" in kwargs else kwargs
        result = call(*args, **kwargs)
        if due:
            how()
        return result

    return run


class Consumer(confluent_kafka.Consumer):
    """The intake's."""


class Producer(confluent_kafka.Producer):
    """The publisher's."""


PLACES: dict[str, type] = {
    "commit": Consumer,
    "send_offsets_to_transaction": Producer,
    "commit_transaction": Producer,
    "run": OnnxRuntime,
}

if __name__ == "__main__":
    place, when, how = os.environ["BREAK"].split()
    owner = PLACES[place]
    setattr(owner, place, broken(getattr(owner, place), when, HOW[how], Path(os.environ["BREAK_ARMED"])))
    setattr(pipeline.intake.consumer, "Consumer", Consumer)  # noqa: B010 - a name it does not export
    setattr(pipeline.publish.producer, "Producer", Producer)  # noqa: B010 - the same
    main()
