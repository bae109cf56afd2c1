"""`sluice up`, `down` and `status`: a local Kafka and a worker in the background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.local import Stack, StackHealth

__all__ = ["down", "status", "up"]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def up(
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="Keep topics and messages for the next `sluice up --keep-data`.")
    ] = False,
    port: Annotated[int, typer.Option(help="Kafka's port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 0,
    models: Annotated[
        Path | None, typer.Option(help="Model repository to serve; the bundled digit classifier if not given.")
    ] = None,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Start a worker beside the broker.")] = True,
    as_json: Json = False,
) -> None:
    """Start a local Kafka and a worker in the background; what is up already stays as it is.

    The first start fetches Apache Kafka (44 MB) once. Then, for instance: sluice status; sluice down.
    """
    from rich.console import Console
    from rich.progress import Progress

    from pipeline import local
    from pipeline.cli.output import emit
    from pipeline.core.errors import ConfigError

    if models is not None and not models.is_dir():
        raise ConfigError(f"--models {models}: no such directory")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task("Starting Kafka and a worker" if worker else "Starting Kafka", total=None)
        stack, already = local.up(port=port, keep_data=keep_data, models=models, worker=worker, progress=bar)
    lines = [f"{'already up' if already else 'up'}: Kafka at {stack.bootstrap} (process {stack.broker.pid})"]
    if stack.worker:
        lines.append(f"worker: ready (process {stack.worker.pid}), log {stack.directory / 'worker.log'}")
    emit({**facts(stack), "already_up": already}, as_json, table=lines)


def down(as_json: Json = False) -> None:
    """Drain the background worker and stop its Kafka; nothing to do is fine.

    For instance: sluice down --json
    """
    from pipeline import local
    from pipeline.cli.output import emit

    was_up = local.down()
    emit({"was_up": was_up}, as_json, table=["down" if was_up else "nothing was up"])


def status(as_json: Json = False) -> None:
    """Say whether the background stack works and how many requests wait; exit code 1 if a part of it is broken.

    For instance: sluice status --json
    """
    from pipeline import local
    from pipeline.cli.output import emit

    stack = local.running()
    if stack is None:
        emit({"up": False}, as_json, table=["not up; `sluice up` starts a local Kafka and a worker"])
        return
    health = local.look(stack)
    worker = "not started" if stack.worker is None else "alive" if health.worker_alive else "dead"
    waiting = ", ".join(f"{topic} {count}" for topic, count in sorted((health.lag or {}).items())) or "-"
    lines = [
        f"Kafka   {stack.bootstrap}  {'answers' if health.broker_answers else 'does not answer'}",
        f"worker  {worker}",
        f"lag     {waiting}",
    ]
    emit({**facts(stack), **measured(stack, health)}, as_json, table=lines)
    if not health.healthy(stack):
        raise typer.Exit(1)


def facts(stack: Stack) -> dict[str, object]:
    """What stays the same while the stack runs."""
    return {
        "up": True,
        "bootstrap": stack.bootstrap,
        "broker_pid": stack.broker.pid,
        "worker_pid": stack.worker.pid if stack.worker else None,
        "directory": str(stack.directory),
        "keep_data": stack.keep_data,
        "started_at": stack.started_at,
    }


def measured(stack: Stack, health: StackHealth) -> dict[str, object]:
    """What one look found; ``worker`` is null where none was started."""
    return {
        "broker": "healthy" if health.broker_answers else "not answering",
        "worker": None if stack.worker is None else "alive" if health.worker_alive else "dead",
        "lag": health.lag,
    }
