"""Pictures of rounds: what is in them, and what is refused before anything is measured."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pipeline.core.errors import ConfigError, SluiceError
from pipeline.load import Rounds
from pipeline.load.plots import PERCENTS, bars, check_plot, percentiles

RATES = {"loop": (100_000.0, 50_000.0, 70_000.0), "sluice": (90_000.0, 91_500.0, 120_000.0)}
SPEEDS = Rounds({name: tuple({"messages_per_s": rate} for rate in rates) for name, rates in RATES.items()})


def texts(path: Path) -> list[str]:
    """Every text in an SVG file, from top to bottom of the file."""
    return [node.text or "" for node in ET.fromstring(path.read_text()).iter("{http://www.w3.org/2000/svg}text")]


def test_bars_show_each_contestant_with_its_median_the_fastest_on_top(tmp_path: Path) -> None:
    bars(SPEEDS, "messages_per_s", "messages a second", tmp_path / "bars.svg")
    shown = texts(tmp_path / "bars.svg")
    assert {"loop", "sluice", "70,000", "91,500", "messages a second", "0"} <= set(shown)
    assert shown.index("loop") < shown.index("sluice")  # drawn from the bottom


def test_percentiles_show_each_contestant_at_those_it_has(tmp_path: Path) -> None:
    all_of_them = {f"p{percent:g}_ms": percent for percent in PERCENTS}
    rounds = Rounds({"model": ({"p50_ms": 0.5, "p99_ms": 1.0},), "sluice": (all_of_them,)})
    percentiles(rounds, "ms, 100 requests a second", tmp_path / "lines.svg")
    shown = texts(tmp_path / "lines.svg")
    assert {"model", "sluice", "50%", "99.9%", "ms, 100 requests a second"} <= set(shown)


def test_the_same_figures_give_the_same_file(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        bars(SPEEDS, "messages_per_s", "messages a second", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_picture_that_could_not_be_written_is_misuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (folder := tmp_path / "folder.svg").mkdir()
    check_plot(None)
    check_plot(tmp_path / "fine.svg")
    with pytest.raises(ConfigError, match=r"\.svg"):
        check_plot(tmp_path / "picture.png")
    with pytest.raises(ConfigError, match="is a folder"):
        check_plot(folder)
    with pytest.raises(SluiceError, match=r"folder\.svg: Is a directory"):
        bars(SPEEDS, "messages_per_s", "messages a second", folder)
    with pytest.raises(ConfigError, match="no such folder"):
        check_plot(tmp_path / "nowhere" / "picture.svg")
    monkeypatch.setattr("pipeline.load.plots.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="extra `bench`"):
        check_plot(tmp_path / "fine.svg")
