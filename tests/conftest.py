"""What tests on a real broker share: one Apache Kafka a session, started when the first asks, and topic names."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from pipeline.infer.cuda import look_for_gpus
from pipeline.local import EmbeddedKafka

if TYPE_CHECKING:
    from tests.contract.secured import Secured

# The same examples in every run, so that what chance would find in one does not stop another's change: look for more
# with --hypothesis-profile=default.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="the long form of the fault suite")
    parser.addoption("--overload", action="store_true", help="ten minutes at twice the capacity")
    parser.addoption("--fault-report", metavar="FILE", help="the table of faults as JSON")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the long form has, and what this machine has no GPU for."""
    left_out = [] if config.getoption("--faults") else [item for item in items if item.get_closest_marker("long")]
    if look_for_gpus().reason:
        left_out += [item for item in items if item.get_closest_marker("gpu")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"tests that need a GPU are left out: {why}"] if (why := look_for_gpus().reason) else []


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedKafka]:
    """A running broker with its ``bootstrap``; shared by all tests, which keep to topics and groups of their own."""
    with EmbeddedKafka() as kafka:
        yield kafka


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A running broker that knows its users; shared by all tests, which make users of their own."""
    from tests.contract.secured import secured_broker

    with secured_broker(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture(scope="session")
def topic() -> Callable[..., str]:
    """Makes names nobody used before, for topics, models and groups: ``topic()``, ``topic("digits")``."""
    session, numbers = uuid.uuid4().hex[:6], itertools.count()
    return lambda base="t": f"{base}-{session}-{next(numbers)}"
