"""Which Java runs Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.errors import BrokerError
from pipeline.local import java
from pipeline.local.java import find_java


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    find_java.cache_clear()
    yield
    find_java.cache_clear()


def fake_java(folder: Path, says: str, status: int = 0) -> Path:
    (folder / "bin").mkdir(parents=True)
    path = folder / "bin" / "java"
    path.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {status}\n")
    path.chmod(0o755)
    return path


def test_java_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fake_java(tmp_path / "home", 'openjdk version "21.0.1" 2023-10-17')
    on_path = fake_java(tmp_path / "path", 'openjdk version "17.0.15" 2025-04-15')
    monkeypatch.setenv("PATH", str(on_path.parent))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == java.Java(home, 21)


def test_one_that_is_too_old_or_does_not_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path / "old", 'java version "1.8.0_392"')
    good = fake_java(tmp_path / "good", 'openjdk version "17.0.15" 2025-04-15')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", str(good.parent))
    assert find_java() == java.Java(good, 17)
    find_java.cache_clear()
    good.write_text("#!/bin/sh\nexit 3\n")
    found = find_java()
    assert found.path != good
    assert found.major >= java.JAVA_MAJOR_MIN


def test_without_any_the_error_names_what_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_java(tmp_path / "old", 'openjdk version "11.0.2"')
    monkeypatch.setattr(java, "_candidates", lambda: iter([old, tmp_path / "none"]))
    with pytest.raises(BrokerError, match=r"old/bin/java \(Java 11\), .*none \(does not run\)"):
        find_java()
