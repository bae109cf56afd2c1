"""What the runs of a bench stand on: a broker, a folder, someone to tell what runs."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.ending import ended_by_signals

if TYPE_CHECKING:
    from pipeline.models import Model

__all__ = ["Ground", "bench_model", "ground", "model_of"]

Ground = tuple[str, Path, Callable[[str], None]]
"""A broker's address, a folder, who is told what runs next."""


@contextmanager
def ground(broker: str | None, runs: int) -> Iterator[Ground]:
    """A broker, a folder and someone to tell what runs; gone when the measuring is over. An embedded one is warm."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from pipeline.load.warm import warm
    from pipeline.local import EmbeddedKafka

    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        bootstrap = broker or stack.enter_context(EmbeddedKafka()).bootstrap
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()))
        task = bar.add_task("starting", total=runs)
        if broker is None:
            warm(bootstrap, folder, bench_model("linear"))
        started = 0

        def tell(what: str) -> None:
            nonlocal started
            bar.update(task, description=what, completed=started)
            started += 1

        yield bootstrap, folder, tell


def bench_model(name: str, repository: str = "models") -> Model:
    """One of the benches' own models."""
    from pipeline import load

    return model_of(Path(load.__file__).with_name(repository), name)


def model_of(repository: Path, name: str) -> Model:
    """The model of that name of a repository that ships with Sluice."""
    from pipeline.models import load_repository

    (model,) = [model for model in load_repository(repository) if model.name == name]
    return model
