"""Interleaved rounds: every contestant once a round in changing order, and what medians and ratios come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from typing import Any

__all__ = ["Contestant", "Figures", "Rounds", "Spread", "interleave", "turns"]

Figures = Mapping[str, float]
"""What one run of one contestant measured: figure name, unit last -> value."""

Contestant = Callable[[int], Figures]
"""Runs once, given the number of its round."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median over the rounds and its extremes."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))

    def to_dict(self) -> dict[str, float]:
        """As `--json` prints it."""
        return {"median": self.median, "min": self.min, "max": self.max}


@dataclass(frozen=True, slots=True)
class Rounds:
    """The figures of every contestant, one entry a round."""

    runs: Mapping[str, tuple[Figures, ...]]

    def values(self, name: str, figure: str) -> list[float]:
        """That figure of that contestant, round by round."""
        return [figures[figure] for figures in self.runs[name]]

    def spread(self, name: str, figure: str) -> Spread:
        """Median and extremes of one contestant's figure."""
        return Spread.of(self.values(name, figure))

    def ratio(self, name: str, base: str, figure: str) -> Spread:
        """``name / base``, taken within each round, so that what slows a whole round cancels out."""
        pairs = zip(self.values(name, figure), self.values(base, figure), strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])

    def above(self, name: str, bases: list[str], figure: str) -> Spread:
        """``name`` minus the sum of ``bases``, within each round."""
        rounds = zip(self.values(name, figure), *(self.values(base, figure) for base in bases), strict=True)
        return Spread.of([ours - sum(theirs) for ours, *theirs in rounds])

    def to_dict(self) -> dict[str, Any]:
        """Every figure of every round."""
        return {name: [dict(figures) for figures in runs] for name, runs in self.runs.items()}


def turns(names: list[str], repeats: int) -> list[list[str]]:
    """The order of every round: two rounds there and back, the next two start one further.

    So nobody always runs first, or after the same peer (whose topics the broker is still deleting), and a drift of the
    machine's counts as much for one as for another.
    """
    there = [names[first:] + names[:first] for first in range(len(names))]
    return list(islice(cycle(order[::way] for order in there for way in (1, -1)), repeats))


def interleave(contestants: Mapping[str, Contestant], repeats: int, tell: Callable[[str], None]) -> Rounds:
    """Run every contestant ``repeats`` times in turn. ``tell`` hears what is about to run."""
    runs: dict[str, list[Figures]] = {name: [] for name in contestants}
    for number, order in enumerate(turns(list(contestants), repeats)):
        for name in order:
            tell(f"round {number + 1} of {repeats}: {name}")
            runs[name].append(contestants[name](number))
    return Rounds({name: tuple(figures) for name, figures in runs.items()})
