"""`sluice serve` that breaks at a place a test names: ``python -m tests.fault.breaking_worker serve …``.

``BREAK`` says where, when and how, such as ``commit before die``. It happens at the next call once the file that
``BREAK_ARMED`` names is there, which is removed with it: once, or at every call from then on where ``BREAK`` ends with
``always``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka

import pipeline.core.settings
import pipeline.intake.consumer
import pipeline.publish.producer
from pipeline.cli.main import main
from pipeline.core.errors import BackendError, DeviceLostError
from pipeline.core.limits import Limits
from pipeline.infer.backends.onnxruntime import OnnxRuntime

MODULE = "tests.fault.breaking_worker"
HANG_MS_MAX = 2000  # a batch of the linear model takes microseconds


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


def broken(
    call: Callable[..., Any], when: str, how: Callable[[], None], armed: Path, *, always: bool
) -> Callable[..., Any]:
    """``call``, and ``how`` before or after the one for which ``armed`` is found, and ``always`` those that follow."""
    begun = threading.Event()

    def run(*args: Any, **kwargs: Any) -> Any:
        due = armed.exists() or (always and begun.is_set())
        if due:
            begun.set()
            armed.unlink(missing_ok=True)
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
    "wait": OnnxRuntime,
}

if __name__ == "__main__":
    place, when, how, *rest = os.environ["BREAK"].split()
    owner, armed = PLACES[place], Path(os.environ["BREAK_ARMED"])
    setattr(owner, place, broken(getattr(owner, place), when, HOW[how], armed, always=rest == ["always"]))
    setattr(pipeline.intake.consumer, "Consumer", Consumer)  # noqa: B010 - a name it does not export
    setattr(pipeline.publish.producer, "Producer", Producer)  # noqa: B010 - the same
    if how == "hang":  # the command has no option for a limit that nobody but this test would lower
        settings = partial(pipeline.core.settings.Settings, limits=Limits(compute_ms_max=HANG_MS_MAX))
        setattr(pipeline.core.settings, "Settings", settings)  # noqa: B010 - mypy: it is a class
    main()
