"""The cache folder of this machine's user, and locks between processes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

__all__ = ["cache_directory", "locked"]


def cache_directory() -> Path:
    """Folder of downloads and engines, safe to delete; ``SLUICE_CACHE_DIR`` overrides the user's cache folder."""
    return Path(os.environ.get("SLUICE_CACHE_DIR") or platformdirs.user_cache_path("sluice"))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` alone, waiting for whoever has it; the kernel frees it if the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
