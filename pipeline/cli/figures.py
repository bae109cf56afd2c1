"""How a bench prints its rounds: a table of medians and spreads, what is compared within each round, or JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.cli.output import emit

if TYPE_CHECKING:
    from pipeline.load import Rounds, Spread

__all__ = ["Compared", "show"]


@dataclass(frozen=True, slots=True)
class Compared:
    """What is compared within each round: its name in JSON, a title, the spreads and their format."""

    key: str
    title: str
    spreads: dict[str, Spread]
    form: str


def show(
    bench: str,
    rounds: Rounds,
    forms: dict[str, str],
    about: dict[str, Any],
    *compared: Compared,
    as_json: bool,
    notes: Sequence[str] = (),
) -> None:
    """Print a table of the figures in ``forms``, then what is compared and the notes; or all of it as JSON."""
    lines = [*_table(rounds, forms), ""]
    for each in compared:
        about = {**about, each.key: {what: spread.to_dict() for what, spread in each.spreads.items()}}
        lines += [
            f"{each.title}, within each round: {what}  {_spread(spread, each.form)}"
            for what, spread in each.spreads.items()
        ]
    machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
    printed = {"bench": bench, "machine": machine, **about, "rounds": rounds.to_dict()}
    emit(printed, as_json, table=[*lines, *notes])


def _table(rounds: Rounds, figures: dict[str, str]) -> list[str]:
    """A line per contestant: median (least..most) of each figure that it has, in its format."""
    rows = [["", *figures]]
    for name, runs in rounds.runs.items():
        shown = {f: _spread(rounds.spread(name, f), figures[f]) for f in figures if f in runs[0]}
        rows.append([name, *(shown.get(figure, "-") for figure in figures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _spread(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.min:{form}}..{spread.max:{form}})"
