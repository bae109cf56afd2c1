"""The TensorRT that is installed: a module that everything here takes as a parameter, and what it logs."""

from __future__ import annotations

import logging
from collections import deque
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from pipeline.core.errors import BackendError

__all__ = ["TensorRtLog", "find_tensorrt", "load_tensorrt", "log_of"]

log = logging.getLogger(__name__)

# The same interface; the second is the edition for workstations, which also builds where there is no GPU.
NAMES = ("tensorrt", "tensorrt_rtx_bindings")
KEPT = 8  # of the last errors, for the one line that is told


def find_tensorrt() -> str | None:
    """The name of the TensorRT that is installed, without importing it (which takes a second)."""
    return next((name for name in NAMES if find_spec(name) is not None), None)


def load_tensorrt() -> Any:
    """Import it. Raises `BackendError` where there is none; it must not be asked for anything without a GPU."""
    for name in NAMES:
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:  # its libraries, or what loads them, are not whole
            raise BackendError(f"{name} is installed but cannot be loaded: {error}") from error
    raise BackendError("TensorRT is not installed: pip install 'sluice[gpu]'")


class TensorRtLog:
    """What TensorRT says goes to our log; its last errors are kept for the error that is raised.

    One for the module, see `log_of`: TensorRT itself keeps to the first logger it is given, and must never lose it.
    """

    def __init__(self, trt: Any) -> None:
        self._errors: deque[str] = deque(maxlen=KEPT)
        severity = trt.ILogger.Severity
        levels = {
            severity.INTERNAL_ERROR: logging.ERROR,
            severity.ERROR: logging.ERROR,
            severity.WARNING: logging.WARNING,
            severity.INFO: logging.DEBUG,  # a page for every engine
        }
        errors = self._errors

        class Logger(trt.ILogger):  # type: ignore[misc] # the base comes with the module
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, level: Any, text: str) -> None:
                number = levels.get(level)
                if number == logging.ERROR:
                    errors.append(" ".join(text.split()))
                elif number is not None:
                    log.log(number, "%s", text)

        self.logger = Logger()

    def take(self) -> str:
        """The errors since the last call, in one line."""
        said = "; ".join(self._errors) or "it does not say why"
        self._errors.clear()
        return said[:1000]


@cache
def log_of(trt: Any) -> TensorRtLog:
    """The log of this TensorRT module."""
    return TensorRtLog(trt)
