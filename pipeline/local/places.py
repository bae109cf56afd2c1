"""Where the local stack keeps what outlives it: the cache folder for downloads, the state folder for the rest."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from pipeline.core.places import cache_directory, locked

__all__ = ["cache_directory", "locked", "state_directory"]


def state_directory() -> Path:
    """Folder of the background stack; ``SLUICE_STATE_DIR`` overrides the user's state folder."""
    return Path(os.environ.get("SLUICE_STATE_DIR") or platformdirs.user_state_path("sluice"))
