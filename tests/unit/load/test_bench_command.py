"""What `sluice bench` prints of the rounds it was given."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pipeline.cli.bench import app
from pipeline.core.errors import ConfigError
from pipeline.load import Rounds, guarantees, latency, scaling, throughput
from pipeline.load.contestants import PEERS, Peer
from pipeline.load.latency import LatencyWork

RUNS = {  # messages a second and CPU microseconds of each, round by round
    "loop": ((100_000.0, 9.0), (50_000.0, 9.5)),
    "quiet-loop": ((110_000.0, 8.0), (55_000.0, 8.5)),
    "faust": ((4_000.0, 300.0), (2_000.0, 310.0)),
    "sluice": ((90_000.0, 8.0), (60_000.0, 8.5)),
}
ROUNDS = Rounds(
    {
        name: tuple({"messages_per_s": rate, "cpu_us_per_message": cpu} for rate, cpu in runs)
        for name, runs in RUNS.items()
    }
)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[throughput.RawWork]:
    """What the command asked to be measured; nothing is run."""
    asked: list[throughput.RawWork] = []

    def measured(work: throughput.RawWork, tell: object) -> Rounds:
        asked.append(work)
        return ROUNDS

    monkeypatch.setattr(throughput, "raw_throughput", measured)
    return asked


def test_throughput_shows_medians_spreads_and_ratios(work: list[throughput.RawWork]) -> None:
    shown = CliRunner().invoke(app, ["throughput", "--broker", "kafka:1", "--repeats", "2", "--messages", "5000"])
    assert shown.exit_code == 0
    assert "75,000 (60,000..90,000)" in shown.stdout
    assert "sluice / loop  1.05 (0.90..1.20)" in shown.stdout
    assert "sluice / faust  26.25 (22.50..30.00)" in shown.stdout
    (asked,) = work
    assert (asked.broker, asked.repeats, asked.messages, asked.model.name) == ("kafka:1", 2, 5000, "linear")


def test_peers_that_are_not_installed_are_left_out_and_told(work: list[throughput.RawWork]) -> None:
    asked = ["throughput", "--broker", "kafka:1", "--peer", "loop", "--peer", "unheard-of"]
    shown = CliRunner().invoke(app, asked)
    assert isinstance(shown.exception, ConfigError)
    assert "no peer 'unheard-of'" in str(shown.exception)
    more = {**PEERS, "unheard-of": Peer("nowhere", needs="unheard_of", advice="install it")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.load.contestants.PEERS", more)
        shown = CliRunner().invoke(app, asked)
    assert "left out: unheard-of: unheard_of is not installed; install it" in shown.stdout
    assert list(work[0].commands) == ["loop"]


def test_throughput_as_json_has_every_round(work: list[throughput.RawWork]) -> None:
    shown = CliRunner().invoke(app, ["throughput", "--broker", "kafka:1", "--json"])
    printed = json.loads(shown.stdout)
    assert printed["bench"] == "throughput"
    assert printed["ratios"]["sluice / loop"] == {"median": pytest.approx(1.05), "min": 0.9, "max": 1.2}
    assert printed["rounds"]["faust"][1]["messages_per_s"] == 2_000


def test_latency_shows_what_is_above_echo_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = {"echo": (3.0, 9.0), "model": (0.5, 1.0), "sluice": (5.0, 12.0)}
    found = Rounds({name: ({"p50_ms": p50, "p99_ms": p99},) for name, (p50, p99) in rounds.items()})
    monkeypatch.setattr(latency, "latency", lambda work, tell: found)
    shown = CliRunner().invoke(app, ["latency", "--broker", "kafka:1", "--repeats", "1"])
    assert "p50 ms  1.50 (1.50..1.50)" in shown.stdout
    assert "p99 ms  2.00 (2.00..2.00)" in shown.stdout


def test_arrivals_that_do_not_exist_are_misuse() -> None:
    shown = CliRunner().invoke(app, ["latency", "--broker", "kafka:1", "--arrivals", "tidal"])
    assert isinstance(shown.exception, ConfigError)
    assert "constant, poisson, burst" in str(shown.exception)


def test_guarantees_shows_what_exactly_once_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(rate: float, p50_ms: float) -> tuple[dict[str, float]]:
        return ({"messages_per_s": rate, "cpu_us_per_message": 5.0, "p50_ms": p50_ms, "p99_ms": 50.0},)

    found = Rounds({"at-least-once": figures(200_000.0, 3.0), "exactly-once": figures(180_000.0, 10.0)})
    asked: list[throughput.RawWork | LatencyWork] = []

    def measured(full: throughput.RawWork, paced: LatencyWork, tell: object) -> Rounds:
        asked.extend((full, paced))
        return found

    monkeypatch.setattr(guarantees, "guarantees", measured)
    options = ["--broker", "kafka:1", "--repeats", "1", "--messages", "5000", "--rate", "50", "--duration-s", "3"]
    shown = CliRunner().invoke(app, ["guarantees", *options])
    assert "exactly-once / at-least-once, within each round: messages_per_s  0.90 (0.90..0.90)" in shown.stdout
    assert "p50 ms  7.00 (7.00..7.00)" in shown.stdout
    full, paced = asked
    assert isinstance(full, throughput.RawWork)
    assert isinstance(paced, LatencyWork)
    assert (full.model.name, full.messages, full.repeats) == ("linear", 5000, 1)
    assert (paced.model.name, paced.rate, paced.duration_s) == ("digits", 50, 3)
    printed = json.loads(CliRunner().invoke(app, ["guarantees", *options, "--json"]).stdout)
    assert printed["added"]["p50 ms"]["median"] == 7


def test_heavy_is_a_row_a_request_of_a_model_that_takes_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[throughput.RowWork] = []

    def measured(work: throughput.RowWork, tell: object) -> Rounds:
        asked.append(work)
        return Rounds({"model": ({"rows_per_s": 200.0},), "sluice": ({"rows_per_s": 196.0},)})

    monkeypatch.setattr(throughput, "row_throughput", measured)
    shown = CliRunner().invoke(app, ["throughput", "--heavy", "--broker", "kafka:1", "--repeats", "1"])
    assert "sluice / model  0.98 (0.98..0.98)" in shown.stdout
    (work,) = asked
    assert (work.model.name, work.rows, work.requests) == ("high-tower", 1, 1200)
    both = CliRunner().invoke(app, ["throughput", "--heavy", "--arrow"])
    assert isinstance(both.exception, ConfigError)


def test_scaling_compares_each_number_of_workers_with_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[scaling.ScalingWork] = []

    def measured(work: scaling.ScalingWork, tell: object) -> Rounds:
        asked.append(work)
        rates = {"1 worker": 3000.0, "3 workers": 8700.0}
        return Rounds({name: ({"rows_per_s": rate, "of_device": 0.9},) for name, rate in rates.items()})

    monkeypatch.setattr(scaling, "scaling", measured)
    options = ["--broker", "kafka:1", "--repeats", "1", "--workers", "3", "--workers", "1", "--batch-ms", "50"]
    shown = CliRunner().invoke(app, ["scaling", *options])
    assert "3 workers / 1 worker  2.90 (2.90..2.90)" in shown.stdout
    (work,) = asked
    assert (work.workers, work.batch_ms, work.partitions) == ([1, 3], 50, 3)
    assert work.served().manifest.buckets[-2:] == (48, 64)
