"""The `sluice` command: its commands by name, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

__all__ = ["app", "main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells say it

app = typer.Typer(
    name="sluice",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Serve deep-learning models behind Kafka: requests in, predictions out, every millisecond accounted for.

Try it: sluice demo. Every command has a --help with an example, and --json wherever it prints figures.""",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"sluice {version('sluice')}")
        raise typer.Exit


@app.callback()
def _sluice(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def _register() -> None:
    """Every command, in the order of --help. Command modules import what is heavy in their bodies."""
    import importlib

    for module, functions in (
        ("demo", ["demo"]),
        ("stack", ["up", "down", "status"]),
        ("serve", ["serve"]),
        ("models", None),
        ("topics", None),
        ("produce", ["produce"]),
        ("consume", ["consume"]),
        ("deadletters", None),
        ("bench", None),
    ):
        if find_spec(f"pipeline.cli.{module}") is None:
            continue
        loaded = importlib.import_module(f"pipeline.cli.{module}")
        if functions is None:
            app.add_typer(loaded.app, name=module)
        for function in functions or ():
            app.command()(getattr(loaded, function))


_register()


def _expected() -> tuple[type[Exception], ...]:
    """Errors that are told in a line: looked up once one has happened, so that a start does not pay for them."""
    from pipeline.core.errors import SluiceError
    from topics.errors import TopicsError

    return SluiceError, TopicsError


def main() -> None:
    """Run the command. Exit codes: 0 ok, 1 failed, 2 misuse, 130 interrupted."""
    try:
        app(prog_name="sluice")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except _expected() as error:
        print(f"sluice: error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    finally:
        _flush()


def _flush() -> None:
    """Let a reader that has left (`sluice consume … | head`) end the command quietly."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
