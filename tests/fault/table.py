"""The table of faults: what was done how often, to how many requests, and what came of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fault.verify import Verdict

__all__ = ["Row", "as_text", "write_json"]


@dataclass(frozen=True)
class Row:
    """One fault, injected ``injected`` times under one guarantee.

    ``silence_s`` is the longest time from the first fault on in which a partition with requests waiting had no
    outcome: the fault's own duration and what it took to recover.
    """

    fault: str
    what: str
    guarantee: str
    injected: int = 0
    kills: int = 0
    rebalances: int = 0
    broker_kills: int = 0
    restarts: int = 0  # of workers that exited with 1, by a supervisor
    unsure: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    silence_s: float = 0.0
    wall_s: float = 0.0
    ok: bool = True
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        verdict = self.verdict
        figures = (self.injected, verdict.sent, verdict.expired, verdict.dead, verdict.lost, verdict.repeated)
        silence = f"{self.silence_s:.1f} s" if verdict.sent else ""
        return (
            self.fault,
            self.what,
            self.guarantee,
            *(f"{figure:,}" for figure in figures),
            silence,
            "ok" if self.ok else "FAILED",
        )


COLUMNS = (
    "", "fault", "guarantee", "times", "requests", "expired", "dead", "lost", "repeated", "longest silence", ""
)  # fmt: skip


def as_text(rows: Sequence[Row]) -> str:
    """A Markdown table, as README quotes it, and the sums below."""
    lines = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    texts = [
        "| "
        + " | ".join(
            cell.rjust(width) if 3 <= column < len(COLUMNS) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join(
        "-" * (width + 1) + (":" if 3 <= column < len(COLUMNS) - 1 else "-") for column, width in enumerate(widths)
    )
    total = sums(rows)
    below = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in total.items())
    notes = [f"{row.fault}: {row.note}." for row in rows if row.note]
    return "\n".join([texts[0], rule + "|", *texts[1:], "", *notes, f"In all: {below}."])


def sums(rows: Sequence[Row]) -> dict[str, int]:
    """Over all rows."""
    verdict = sum((row.verdict for row in rows), Verdict())
    exactly = sum((row.verdict for row in rows if row.guarantee == "exactly-once"), Verdict())
    return {
        "requests": verdict.sent,
        "lost": verdict.lost,
        "repeated_exactly_once": exactly.repeated,
        "repeated_at_least_once": verdict.repeated - exactly.repeated,
        "kills": sum(row.kills for row in rows),
        "rebalances": sum(row.rebalances for row in rows),
        "broker_kills": sum(row.broker_kills for row in rows),
    }


def write_json(rows: Sequence[Row], path: Path) -> None:
    """The same as data."""
    path.write_text(json.dumps({"rows": [asdict(row) for row in rows], "total": sums(rows)}, indent=1))
