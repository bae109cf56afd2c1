"""The `sluice` command: its commands by name, and what becomes of their errors."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

# Command modules are light: what is heavy is imported in their functions' bodies, so that a start is quick.
from pipeline.cli import bench, deadletters, models, topics
from pipeline.cli.consume import consume
from pipeline.cli.demo import demo
from pipeline.cli.devices import devices
from pipeline.cli.explain import explain
from pipeline.cli.load import load
from pipeline.cli.produce import produce
from pipeline.cli.secrecy import discreet_hook, without_secrets
from pipeline.cli.serve import serve
from pipeline.cli.stack import down, status, up

__all__ = ["app", "main"]

INTERRUPTED = 130  # 128 + SIGINT, as shells say it

# Since 1.29 ONNX Runtime's own wheels report the models they load to their maker, unless told not to before the import;
# every process that a command starts inherits this.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

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


for _function in (demo, up, down, status, serve, produce, consume, load, explain, devices):
    app.command()(_function)
for _name, _group in {"models": models, "topics": topics, "deadletters": deadletters, "bench": bench}.items():
    app.add_typer(_group.app, name=_name)


def _expected() -> tuple[type[Exception], ...]:
    """Errors that are told in a line: looked up once one has happened, so that a start does not pay for them."""
    from pipeline.core.errors import SluiceError
    from topics.errors import TopicsError

    return SluiceError, TopicsError


def main() -> None:
    """Run the command. Exit codes: 0 ok, 1 failed, 2 misuse, 130 interrupted."""
    sys.excepthook = discreet_hook
    try:
        app(prog_name="sluice")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except _expected() as error:
        print(f"sluice: error: {without_secrets(str(error))}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _end_full(error)
    finally:
        _flush()


def _flush() -> None:
    """Let a reader that has left (`sluice consume … | head`) end the command quietly."""
    if sys.stdout is None:  # closed by who started this
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError as error:
        _end_full(error)


def _end_full(error: OSError) -> NoReturn:
    """A disk that is full is told in a line, once."""
    _discard()
    print(f"sluice: error: {error.strerror}", file=sys.stderr)
    sys.exit(1)


def _discard() -> None:
    """What is still to be written to standard output goes nowhere."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
