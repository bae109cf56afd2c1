"""How a process of these packages is started beside this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Container
from pathlib import Path

__all__ = ["module_command", "module_environment"]

PACKAGES = Path(__file__).parents[2]
PLACES = frozenset({"SLUICE_CACHE_DIR", "SLUICE_STATE_DIR"})


def module_command(module: str) -> list[str]:
    """``python -m MODULE`` with this Python, not a module of that name in the current folder."""
    return [sys.executable, "-P", "-m", module]


def module_environment(told: Container[str] = ()) -> dict[str, str]:
    """The environment of such a process, with these packages on its path.

    ``SLUICE_`` variables stand in for options of the command that the user runs: of them it gets only those ``told``,
    and where caches and state are.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLUICE_") or name in PLACES or name in told
    }
    path = os.pathsep.join(filter(None, [str(PACKAGES), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path}
