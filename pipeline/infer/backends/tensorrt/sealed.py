"""Files that only this user wrote, with a hash and a description of their content, whole or not there."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import BackendError

__all__ = ["Sealed"]

log = logging.getLogger(__name__)

MAGIC = b"sluice-sealed 1\n"
HEAD_BYTES_MAX = 64 * 1024  # of the description: a page of versions and batch sizes
ENGINE_FILES_MAX = 32  # of one ending: a few models of two versions, on two TensorRTs; the least used goes first


@dataclass(frozen=True, slots=True)
class Sealed:
    """A folder of sealed files, made where it is missing, for its owner alone.

    A plan is code that the device runs: what is read was written by this user, into a folder that nobody else may
    write to, and has the hash that was written with it.
    """

    folder: Path
    files_max: int = ENGINE_FILES_MAX

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str, about: Mapping[str, object]) -> bytes | None:
        """The content of a file that is about just this; None where there is none.

        Damage is logged and counts as none. Raises `BackendError` where somebody else could have written it.
        """
        self._own()
        path = self.path(name)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BackendError(f"{path}: {error.strerror}") from error
        try:
            with os.fdopen(handle, "rb") as file:
                _check_owner(path, os.fstat(handle))
                content = _opened(file, about)
        except ValueError as error:
            log.warning("%s is made again: %s", path, error)
            return None
        with suppress(OSError):  # made room for meanwhile, or a folder that is only read
            os.utime(path)  # used: `_make_room` takes the others first
        return content

    def write(self, name: str, about: Mapping[str, object], content: bytes) -> Path:
        """Put a file there in one step: a reader sees the old one or the new, also after a crash."""
        self._own()
        path, sha256 = self.path(name), hashlib.sha256(content).hexdigest()
        head = json.dumps({"sha256": sha256, "about": about}).encode()
        assert len(head) < HEAD_BYTES_MAX
        try:
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".") as scratch:
                whole = Path(scratch) / name
                with whole.open("wb") as file:
                    os.fchmod(file.fileno(), 0o600)  # whatever the umask says
                    for part in (MAGIC, head, b"\n", content):
                        file.write(part)
                    file.flush()
                    os.fsync(file.fileno())
                whole.replace(path)
        except OSError as error:
            raise BackendError(f"{path}: {error.strerror}") from error
        self._make_room(path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return path

    def _own(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = self.folder.stat()
        except OSError as error:
            raise BackendError(f"{error.filename or self.folder}: {error.strerror}") from error
        _check_owner(self.folder, status)

    def _make_room(self, written: Path) -> None:
        files = [path for path in self.folder.glob(f"[!.]*{written.suffix}") if path != written]
        for path in sorted(files, key=_used_ns, reverse=True)[self.files_max - 1 :]:
            path.unlink(missing_ok=True)


def _used_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # another process made room
        return 0


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BackendError(f"{path}: others than this user may write to it: engines there are not trusted")


def _opened(file: BinaryIO, about: Mapping[str, object]) -> bytes:
    """The content, or a ``ValueError`` that says what is wrong with the file."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("not a sealed file")
    head = json.loads(file.readline(HEAD_BYTES_MAX))
    if not isinstance(head, dict) or head.get("about") != json.loads(json.dumps(about)):
        raise ValueError("it is about something else")
    content = file.read()
    if hashlib.sha256(content).hexdigest() != head.get("sha256"):
        raise ValueError("its sha256 is not what was written")
    return content
