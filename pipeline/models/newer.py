"""Which versions of a repository are newer than the one that serves, and worth a try now."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ModelError
from pipeline.models.manifest import Model, version_key

__all__ = ["Seen", "State", "check_replaces", "due", "look"]

ENTRIES_MAX = 10_000  # of one version that are watched for changes; more than that is no model worth waiting for

State = tuple[tuple[str, int, int, int], ...]
"""Path, inode, size and mtime (ns) of everything in a directory: equal as long as nobody touches it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A directory that is, or is on its way to become, a version newer than the one that serves."""

    path: Path
    state: State


def look(family: Path, serving: str) -> list[Seen]:
    """Directories in ``DIR/NAME`` that are newer than ``serving``, the newest first; those named like none last.

    Costs one listing where there are none. Empty where the directory is gone.
    """
    newest = version_key(serving)
    found: list[tuple[tuple[int, ...], Path]] = []
    try:
        with os.scandir(family) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_dir():
                    continue
                try:
                    key = version_key(entry.name)
                except ValueError:
                    key = ()
                if not key or key > newest:
                    found.append((key, Path(entry.path)))
    except OSError:
        return []
    return [Seen(path, _state(path)) for _, path in sorted(found, reverse=True)]


def due(seen: Sequence[Seen], before: Mapping[Path, State], refused: Mapping[Path, State]) -> list[Seen]:
    """Those to try now: untouched since the look ``before``, so that a copy is not under way, and not refused as is."""
    return [each for each in seen if before.get(each.path) == each.state != refused.get(each.path)]


def check_replaces(model: Model, serving: Model) -> None:
    """Raise `ModelError` unless ``model`` takes and gives what ``serving`` does: requests are made for that."""
    for side in ("inputs", "outputs"):
        new, old = (getattr(each.signature, side) for each in (model, serving))
        if new != old:
            said, wanted = (", ".join(map(str, tensors)) for tensors in (new, old))
            raise ModelError(f"{model.path}: its {side} are {said}, but those of {serving.label}, in use, are {wanted}")


def _state(path: Path) -> State:
    entries: list[tuple[str, int, int, int]] = []
    folders = [str(path)]
    while folders and len(entries) < ENTRIES_MAX:
        try:
            with os.scandir(folders.pop()) as listing:
                for entry in listing:
                    status = entry.stat(follow_symlinks=False)
                    entries.append((entry.path, status.st_ino, status.st_size, status.st_mtime_ns))
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError:  # removed meanwhile: the next look sees another state
            continue
    return tuple(sorted(entries))
