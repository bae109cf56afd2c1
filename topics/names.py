"""A model's topics: ``NAME.requests``, ``NAME.predictions``, ``NAME.dead-letters``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Topics", "check_model_name", "is_model_name", "topics_of"]

# Kafka allows 249 characters of [a-zA-Z0-9._-] in a topic; the longest suffix takes 13. A dot is refused
# in a model's name because it separates the name from the suffix.
NAME_CHARS_MAX = 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True, slots=True)
class Topics:
    """The three topics of one model."""

    requests: str
    predictions: str
    dead_letters: str


def is_model_name(name: str) -> bool:
    """Whether ``name`` can name a model, a topic and a directory."""
    return _NAME.match(name) is not None and len(name) <= NAME_CHARS_MAX


def check_model_name(name: str) -> str:
    """Return ``name``; raise ``ValueError`` where it cannot name a model, a topic and a directory."""
    if not is_model_name(name):
        raise ValueError(
            f"model name {name!r}: 1 to {NAME_CHARS_MAX} letters, digits, '-' or '_', first a letter or digit"
        )
    return name


@lru_cache(maxsize=256)  # asked for with every batch
def topics_of(model: str) -> Topics:
    """The topics of ``model``. Raises ``ValueError`` for a name that cannot be one."""
    check_model_name(model)
    return Topics(f"{model}.requests", f"{model}.predictions", f"{model}.dead-letters")
