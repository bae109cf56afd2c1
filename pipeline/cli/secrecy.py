"""Keeps the secrets a command was given out of all it prints and logs, wherever they turn up: the last defence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from topics.secrets import HIDDEN, is_secret

__all__ = ["Discreet", "discreet_hook", "hide", "hide_settings", "hide_url", "without_secrets"]

# What is shorter would tear ordinary words apart, and is found by trying anyway.
SECRET_CHARS_MIN = 4

_secrets: set[str] = set()  # of this process, as its log is


def hide(values: Iterable[str]) -> None:
    """From now on none of ``values``, nor a line of one (a key in PEM has many), is shown."""
    lines = (line.strip() for value in values for line in (value, *value.splitlines()))
    _secrets.update(line for line in lines if len(line) >= SECRET_CHARS_MIN and not line.startswith("-----"))


def hide_settings(settings: Mapping[str, str]) -> None:
    """Hide the values of librdkafka settings that are secrets."""
    hide(value for name, value in settings.items() if is_secret(name))


def hide_url(url: str) -> None:
    """Hide the password of ``http://user:password@host``."""
    password = urlsplit(url).netloc.rpartition("@")[0].partition(":")[2]
    hide((password, unquote(password)))


def without_secrets(text: str) -> str:
    """``text`` with `HIDDEN` for what is hidden."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


class Discreet(logging.Formatter):
    """A formatter whose lines are without secrets, and without a traceback where it is the world's error, not ours."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - its name
        from pipeline.core.errors import SluiceError

        return "" if ei[0] is None or issubclass(ei[0], SluiceError) else super().formatException(ei)


def discreet_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` for a bug of ours: its traceback, without secrets."""
    import traceback

    sys.stderr.write(without_secrets("".join(traceback.format_exception(kind, error, trace))))
