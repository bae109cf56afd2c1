"""What commands print, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from pipeline.cli.output import emit


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as commands have them."""

    rate: float
    place: Path


def test_json_holds_numpy_dataclasses_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"rates": np.array([1.5, 2.5]), "best": np.float32(2.5), "figure": Figure(2.5, Path("/tmp/x")), 3: "three"}
    emit(data, as_json=True, table=["not this"])
    figure = {"rate": 2.5, "place": "/tmp/x"}
    assert json.loads(capsys.readouterr().out) == {"rates": [1.5, 2.5], "best": 2.5, "figure": figure, "3": "three"}


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": 1}, as_json=False, table=["[bold]not markup[/bold]", "a" * 300])
    assert capsys.readouterr().out == "[bold]not markup[/bold]\n" + "a" * 300 + "\n"


def test_a_table_has_no_colour_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", "rate", header_style="bold red")
    table.add_row("digits", "12")
    emit({}, as_json=False, table=table)
    said = capsys.readouterr().out
    assert "digits" in said
    assert "\x1b" not in said


def test_without_a_table_people_get_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    emit([1, 2], as_json=False)
    assert json.loads(capsys.readouterr().out) == [1, 2]
