"""`sluice explain`: why each batch left when it did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.window import Departure

__all__ = ["explain"]

Recorded = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="From sluice serve --record-decisions.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]
ABOUT = {
    "idle": "the device was free",
    "full": "as many rows as a batch takes",
    "gathered": "the oldest had waited as long as it may",
    "deadline": "later or larger, the most urgent would have been late",
    "late": "could not make their deadline even alone and next",
    "overload": "not all could make it, and these kept the batch small",
    "hand-over": "a newer version waited for what was left",
}


def explain(file: Recorded, json: AsJson = False) -> None:
    """Print why each batch of a recording left when it did, and check that the planner decides the same again.

    Exit code 1 where a decision differs: another version of Sluice wrote the recording, or a decision is not a function
    of what was recorded.

    For instance: sluice serve --record-decisions decisions.jsonl, and then: sluice explain decisions.jsonl
    """
    from pipeline.core.errors import ConfigError
    from pipeline.window import replay

    departures = []
    try:
        with file.open("rb") as lines:
            for each in replay(lines):
                departures.append(each)
                if not json:
                    print(_line(each, departures[0].at_ns))
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        raise ConfigError(f"{file} is not a recording of decisions: {error}") from error
    differ = sum(not each.same for each in departures)
    batches = sum(each.rows > 0 for each in departures)
    if json:
        from pipeline.cli.output import emit

        emit({"batches": batches, "differ": differ, "departures": departures}, as_json=True)
    else:
        print(f"{batches:,} batches; decided again on a virtual clock, {differ:,} decisions differ")
    raise typer.Exit(1 if differ else 0)


def _line(each: Departure, began_ns: int) -> str:
    what = f"{each.rows} rows of {each.requests} requests left" if each.rows else f"{each.expired} requests expired"
    if not each.rows and not each.expired:
        what = "nothing left"
    about = ABOUT.get(each.reason, str(each.reason))
    if each.rung is not None:
        what += f" on {each.rung}"
    line = f"{(each.at_ns - began_ns) / 1e6:12.3f} ms  {each.model}: {what} ({each.reason}: {about})"
    if each.basis is not None:
        left_ms = (each.basis["due_ns"] - each.at_ns) / 1e6
        run_ms, margin_ms = each.basis["run_ns"] / 1e6, each.basis["margin_ns"] / 1e6
        line += f"; {each.basis['rows']} rows waited, {left_ms:.3f} ms to the first due, "
        line += f"{run_ms:.3f} ms to run, {margin_ms:.3f} ms kept, load {each.basis['load']:.2f}"
    return line if each.same else f"{line}  DIFFERS"
