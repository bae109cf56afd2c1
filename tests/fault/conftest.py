"""What the rows of the fault table share: scenes, how long a form is asked for, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.local import EmbeddedKafka
from tests.fault.scene import Scene
from tests.fault.table import Row, as_text, write_json
from tests.fault.workload import Workload, linear

ROWS = pytest.StashKey[list[Row]]()

MakeScene = Callable[..., Scene]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line(as_text(rows))
    if path := config.getoption("--fault-report"):
        write_json(rows, Path(path))


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether rows take the time they need; else they do the least that shows something."""
    return bool(pytestconfig.getoption("--faults"))


@pytest.fixture(scope="module")
def own_broker() -> Iterator[EmbeddedKafka]:
    """A broker to be harmed; shared by a module's rows."""
    with EmbeddedKafka() as kafka:
        yield kafka


@pytest.fixture
def scene(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, topic: Callable[..., str], tmp_path: Path
) -> MakeScene:
    """Makes scenes, with ``scene("F1", "what is done", "exactly-once") as at``."""

    def make(
        fault: str,
        what: str,
        guarantee: str,
        *,
        broker: str = "",
        workload: Callable[[Path, str], Workload] = linear,
        partitions: int | None = None,
        worker_broker: str = "",
    ) -> Scene:
        folder = tmp_path / topic("scene")
        folder.mkdir()
        return Scene(
            row=Row(fault, what, guarantee),
            broker=broker or request.getfixturevalue("broker").bootstrap,
            workload=workload(folder, topic("model")),
            group=topic("group"),
            folder=folder,
            rows=pytestconfig.stash[ROWS],
            partitions=partitions,
            worker_broker=worker_broker,
        )

    return make
