"""Pictures of rounds as SVG: bars of medians with their spread, latencies by percentile."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.core.errors import ConfigError, SluiceError
from pipeline.load.rounds import Rounds

__all__ = ["bars", "check_plot", "percentiles"]

OURS, THEIRS, INK, FAINT = "#1f6f8b", "#b8c4cc", "#222222", "#dddddd"
LINES = ("#8a8a8a", "#c98b2b", "#7a5195", "#2f7d4f")  # of peers, in turn; ours has its colour in every picture
PERCENTS = (50, 75, 90, 95, 99, 99.9)
WIDTH_INCHES = 7.0
STYLE = {
    "svg.fonttype": "none",  # text stays text: smaller, searchable, in the reader's own font
    "svg.hashsalt": "sluice",  # the same figures, the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def check_plot(path: Path | None) -> None:
    """Raise `ConfigError` where no picture could be written at the end, before anything is measured."""
    if path is None:
        return
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: install Sluice's extra `bench`")
    if path.suffix != ".svg":
        raise ConfigError(f"--plot {path}: give the name of an .svg file")
    if path.is_dir():
        raise ConfigError(f"--plot {path}: is a folder")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--plot {path}: no such folder")


def bars(rounds: Rounds, figure: str, label: str, path: Path) -> None:
    """A bar a contestant: its median of ``figure``, a whisker from least to most, a dot a round; the fastest on top."""
    ordered = sorted(rounds.runs, key=lambda name: rounds.spread(name, figure).median)
    drawing, axes = _drawing(0.5 * len(ordered) + 0.9)
    for y, name in enumerate(ordered):
        spread, values = rounds.spread(name, figure), rounds.values(name, figure)
        axes.barh(y, spread.median, height=0.62, color=OURS if name == "sluice" else THEIRS)
        axes.plot([spread.min, spread.max], [y, y], color=INK, linewidth=1)
        axes.plot(values, [y] * len(values), "o", color=INK, markersize=2.5)
        axes.annotate(f"{spread.median:,.0f}", (spread.max, y), (6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(ordered)), ordered)
    axes.set_xlim(0, 1.14 * max(rounds.spread(name, figure).max for name in ordered))  # room for the longest's figure
    axes.xaxis.set_major_formatter(lambda value, at: f"{value:,.0f}")
    axes.set_xlabel(label)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    _write(drawing, path)


def percentiles(rounds: Rounds, label: str, path: Path) -> None:
    """A line a contestant: its latency in ms at each of `PERCENTS`, medians, with a band from least to most.

    The percentiles stand apart by how rare they are, so that the tail is as easy to see as the middle.
    """
    import numpy as np

    drawing, axes = _drawing(3.6)
    at = -np.log10(1 - np.array(PERCENTS) / 100)
    peers = iter(LINES * len(rounds.runs))
    for name, runs in rounds.runs.items():
        known = [percent for percent in PERCENTS if f"p{percent:g}_ms" in runs[0]]
        places = [at[PERCENTS.index(percent)] for percent in known]
        spreads = [rounds.spread(name, f"p{percent:g}_ms") for percent in known]
        color = OURS if name == "sluice" else next(peers)
        axes.fill_between(
            places, [s.min for s in spreads], [s.max for s in spreads], color=color, alpha=0.15, linewidth=0
        )
        axes.plot(places, [s.median for s in spreads], "o-", color=color, markersize=3.5, linewidth=1.6, label=name)
    axes.set_xticks(at, [f"{percent:g}%" for percent in PERCENTS])
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, at: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, at: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    axes.set_xlabel("of the requests were answered within")
    axes.set_ylabel(label)
    axes.tick_params(which="both", length=0)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.legend(frameon=False, loc="upper left")
    _write(drawing, path)


def _drawing(height_inches: float) -> tuple[Any, Any]:
    """A figure with one pair of axes, in the style of all of them; never a window."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained", facecolor="white")
        axes = drawing.subplots()
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return drawing, axes


def _write(drawing: Any, path: Path) -> None:
    import matplotlib as mpl

    try:
        with mpl.rc_context(STYLE):
            drawing.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise SluiceError(f"--plot {path}: {error.strerror}") from error
