"""The cache of Kafka's jars: what is pinned is what runs, whoever else is fetching and whatever was killed before."""

from __future__ import annotations

import functools
import hashlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core.errors import BrokerError
from pipeline.local import jars
from pipeline.local.jars import Jar, class_path, read_lock

CONTENT = b"not really a jar"
PINNED = tuple(Jar("g", f"a{n}", "1", hashlib.sha256(CONTENT).hexdigest()) for n in range(4))


class Repository:
    """Stands for the download: writes ``content`` and remembers who was asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[str] = []

    def __call__(self, jar: Jar, folder: Path) -> Path:
        self.asked.append(jar.name)
        path = folder / f"downloaded-{jar.name}"
        path.write_bytes(self.content)
        return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLUICE_CACHE_DIR", str(tmp_path))
    return tmp_path / f"kafka-{jars.KAFKA_VERSION}"


def test_the_shipped_lock_pins_each_jar_and_names_no_address() -> None:
    pinned = read_lock()
    assert {jar.artifact: jar.version for jar in pinned}["kafka_2.13"] == jars.KAFKA_VERSION
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in pinned)
    assert len({jar.name for jar in pinned}) == len(pinned)
    assert "://" not in jars.LOCK_FILE.read_text()


def test_a_first_start_fetches_each_jar_once_and_the_next_none(cache: Path) -> None:
    repository = Repository()
    first = class_path(PINNED, fetch=repository)
    assert sorted(repository.asked) == [jar.name for jar in PINNED]
    assert first.split(":") == [str(cache / jar.name) for jar in PINNED]
    assert class_path(PINNED, fetch=repository) == first
    assert len(repository.asked) == len(PINNED)


def test_bytes_that_are_not_the_pinned_ones_are_refused_and_never_cached(cache: Path) -> None:
    with pytest.raises(BrokerError, match=r"a\d-1\.jar was refused"):
        class_path(PINNED, fetch=Repository(b"something else"))
    assert not list(cache.glob("*.jar"))


def test_a_jar_damaged_in_the_cache_is_fetched_again(cache: Path) -> None:
    class_path(PINNED, fetch=Repository())
    (cache / PINNED[1].name).write_bytes(b"damaged")
    repository = Repository()
    class_path(PINNED, fetch=repository)
    assert repository.asked == [PINNED[1].name]
    assert (cache / PINNED[1].name).read_bytes() == CONTENT


def test_nothing_is_printed_where_standard_error_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    class_path(PINNED, fetch=Repository())
    assert capfd.readouterr() == ("", "")


FETCH_SLOWLY = """
    import hashlib, os, sys, time
    from pipeline.local.jars import Jar, class_path
    content = b"not really a jar"
    def fetch(jar, folder):
        path = folder / jar.name
        path.write_bytes(content[:4])
        os.write(1, f"{jar.name}\\n".encode())
        time.sleep(float(sys.argv[1]))
        path.write_bytes(content)
        return path
    class_path([Jar("g", f"a{n}", "1", hashlib.sha256(content).hexdigest()) for n in range(4)], fetch=fetch)
"""


def start(wait_s: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", textwrap.dedent(FETCH_SLOWLY), str(wait_s)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(jars.__file__).parents[2])


def test_two_starts_at_once_share_one_download() -> None:
    both = [start(0.3), start(0.3)]
    said = "".join(each.communicate(timeout=60)[0] for each in both)
    assert [each.returncode for each in both] == [0, 0]
    assert sorted(said.split()) == [jar.name for jar in PINNED]


def test_a_killed_download_harms_nobody_after_it(cache: Path) -> None:
    killed = start(600)
    assert killed.stdout
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert not list(cache.glob("*.jar"))
    class_path(PINNED, fetch=Repository())
    assert sorted(path.name for path in cache.iterdir()) == [jar.name for jar in PINNED]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that jgo takes for its one repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        here = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("jgo.config.GlobalSettings.load", lambda: SimpleNamespace(repositories={"here": here}))
        yield folder
        server.shutdown()


def test_jgo_fetches_from_the_users_own_repository_if_one_is_set(served: Path, cache: Path) -> None:
    jar = Jar("org.example", "thing", "1.2", PINNED[0].sha256)
    (served / "org/example/thing/1.2").mkdir(parents=True)
    (served / "org/example/thing/1.2/thing-1.2.jar").write_bytes(CONTENT)
    class_path([jar])
    assert (cache / "thing-1.2.jar").read_bytes() == CONTENT


def test_a_jar_that_cannot_be_fetched_is_told_by_name(served: Path) -> None:
    assert served.exists()
    with pytest.raises(BrokerError, match=r"a\d-1\.jar could not be fetched"):
        class_path(PINNED)
