"""What the runs of a bench stand on: a broker, a folder, someone to tell what runs."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.cli.ending import ended_by_signals

__all__ = ["Ground", "ground"]

Ground = tuple[str, Path, Callable[[str], None]]
"""A broker's address, a folder, who is told what runs next."""


@contextmanager
def ground(broker: str | None, runs: int) -> Iterator[Ground]:
    """A broker, a folder and someone to tell what runs; gone when the measuring is over."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from pipeline.local import EmbeddedKafka

    with ExitStack() as stack:
        stack.enter_context(ended_by_signals())
        bootstrap = broker or stack.enter_context(EmbeddedKafka()).bootstrap
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()))
        task = bar.add_task("starting", total=runs)
        started = 0

        def tell(what: str) -> None:
            nonlocal started
            bar.update(task, description=what, completed=started)
            started += 1

        yield bootstrap, folder, tell
