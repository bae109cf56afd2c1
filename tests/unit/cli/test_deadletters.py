"""What is shown of dead letters that are read from several partitions."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pipeline.cli import deadletters
from pipeline.cli.deadletters import DeadLetter
from pipeline.cli.main import app


@pytest.mark.parametrize(("limit", "shown"), [(0, []), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_the_newest_are_listed_whichever_partition_is_read_first(
    limit: int, shown: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = [DeadLetter(at % 2, at, at, None, b"", ()) for at in (3, 1, 4, 2)]
    monkeypatch.setattr(deadletters, "_read", lambda *_: iter(letters))
    asked = ["deadletters", "list", "m", "--limit", str(limit), "--broker", "kafka:1", "--json"]
    told = json.loads(CliRunner().invoke(app, asked).stdout)
    assert [letter["timestamp_ms"] for letter in told["dead_letters"]] == shown
    assert told["count"] == 4
