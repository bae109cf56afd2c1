"""The world's errors: one small tree. Programmer errors are assertions, bad requests `topics.codes.BadRequest`."""

from __future__ import annotations

from typing import ClassVar, Literal

__all__ = [
    "BackendBusyError",
    "BackendError",
    "BrokerError",
    "ConfigError",
    "DeviceLostError",
    "ModelError",
    "SluiceError",
]


Blame = Literal["user", "model", "broker", "machine"]


class SluiceError(Exception):
    """What went wrong in one line a user can act on; the command prints it without a traceback.

    ``code`` is stable, ``retryable`` says whether the same call may succeed later, ``blame`` whose fault it is,
    ``exit_code`` what the command exits with (1 failed, 2 misuse).
    """

    code: ClassVar[str] = "failed"
    retryable: ClassVar[bool] = False
    blame: ClassVar[Blame] = "machine"
    exit_code: ClassVar[int] = 1


class ConfigError(SluiceError):
    """A setting or a combination of settings that cannot work."""

    code = "config"
    blame = "user"
    exit_code = 2


class ModelError(SluiceError):
    """A model directory that is refused: manifest, hash, signature, path."""

    code = "model"
    blame = "model"


class BackendError(SluiceError):
    """A runtime that cannot load or run a model."""

    code = "backend"
    blame: ClassVar[Blame] = "model"


class BackendBusyError(BackendError):
    """A runtime that cannot run a batch just now, such as for lack of memory."""

    code = "busy"
    retryable = True
    blame = "machine"


class DeviceLostError(BackendError):
    """A device this process cannot use any more, whatever it would run: it ends, and another takes its partitions."""

    code = "device_lost"
    blame = "machine"


class BrokerError(SluiceError):
    """Kafka cannot be reached, started, or refuses what was asked."""

    code = "broker"
    blame = "broker"
    retryable = True
