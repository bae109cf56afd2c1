"""Apache Kafka's jars: pinned by `jgo.lock.toml`, fetched once by jgo, checked against their sha256 at every start."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import BrokerError
from pipeline.local.places import cache_directory, locked

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["KAFKA_VERSION", "Jar", "class_path", "read_lock"]

LOCK_FILE = Path(__file__).with_name("jgo.lock.toml")
KAFKA_VERSION = "4.4.0"
DOWNLOADS_AT_ONCE = 8  # small files from one host: waiting is latency, not bandwidth
DOWNLOAD_WAIT_S_MAX = 30  # silence of the repository before a download is given up


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned artifact."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """Its file's name, in the repository and in the cache."""
        return f"{self.artifact}-{self.version}.jar"


Fetch = Callable[[Jar, Path], Path]
"""Downloads one jar somewhere under the given folder and says where."""


def read_lock(path: Path = LOCK_FILE) -> tuple[Jar, ...]:
    """The jars of a lock file in the form jgo writes it."""
    entries = tomllib.loads(path.read_text())["dependencies"]
    return tuple(Jar(e["groupId"], e["artifactId"], e["version"], e["sha256"]) for e in entries)


def class_path(
    jars: Iterable[Jar] | None = None, *, fetch: Fetch | None = None, progress: Progress | None = None
) -> str:
    """The class path of every jar, each present and of the pinned hash.

    What is missing or damaged in the cache is fetched again, by one process at a time and each file by an atomic
    rename, so a killed download or a second start at the same moment leaves nothing half done. Raises `BrokerError`
    if a jar cannot be fetched or what came is not what was pinned.
    """
    pinned = tuple(jars or read_lock())
    folder = cache_directory() / f"kafka-{KAFKA_VERSION}"
    if _unsound(folder, pinned):
        with locked(folder.with_name(f"{folder.name}.lock")):
            _fetch_all(folder, _unsound(folder, pinned), fetch or _fetch_with_jgo, progress)
    return os.pathsep.join(str(folder / jar.name) for jar in pinned)


def _unsound(folder: Path, jars: Iterable[Jar]) -> list[Jar]:
    """Those that are missing or whose bytes are not the pinned ones."""
    return [jar for jar in jars if not _matches(folder / jar.name, jar)]


def _matches(path: Path, jar: Jar) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False


def _fetch_all(folder: Path, jars: list[Jar], fetch: Fetch, progress: Progress | None) -> None:
    if not jars:
        return  # another process fetched them while this one waited for the lock
    from rich.console import Console  # only a first start shows anything
    from rich.progress import Progress

    staging = folder / ".fetch"  # one name: what a killed download left is swept by the next
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    own = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
    with nullcontext(progress) if progress else own as bar:
        task = bar.add_task(f"Fetching Apache Kafka {KAFKA_VERSION}", total=len(jars))

        def fetch_one(jar: Jar) -> None:
            path = fetch(jar, staging)
            if not _matches(path, jar):
                raise BrokerError(f"{jar.name} was refused: its bytes are not the pinned ones (sha256 {jar.sha256})")
            path.replace(folder / jar.name)
            bar.advance(task)

        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            try:
                list(pool.map(fetch_one, jars))
            finally:
                pool.shutdown(cancel_futures=True)
    shutil.rmtree(staging)


def _fetch_with_jgo(jar: Jar, folder: Path) -> Path:
    from jgo.config import GlobalSettings  # brings in requests: only for a first start
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext
    from requests import RequestException

    mirrors = GlobalSettings.load().repositories or {"central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=folder, local_repos=[], remote_repos=mirrors, timeout=DOWNLOAD_WAIT_S_MAX)
    try:
        path: Path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except (RequestException, RuntimeError, OSError) as error:
        raise BrokerError(f"{jar.name} could not be fetched: {error}") from error
    return path
