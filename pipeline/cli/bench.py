"""`sluice bench`: figures beside peers, each in its own process, interleaved in one run on one broker."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.load import Rounds, Spread
    from pipeline.models import Model

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure Sluice beside its peers, interleaved in one run on one broker.")

Broker = Annotated[str | None, typer.Option(help="HOST:PORT to measure on; an embedded Kafka if not given.")]
Repeats = Annotated[int, typer.Option(help="Rounds; each runs every contestant once, in rotating order.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


PEERS = ("loop", "quiet-loop", "faust")


@app.command()
def throughput(
    broker: Broker = None,
    repeats: Repeats = 3,
    messages: Annotated[int, typer.Option(help="One-row requests of a run.", min=1000)] = 400_000,
    faust_messages: Annotated[int, typer.Option(help="The same for stock Faust, which is slower.", min=1000)] = 20_000,
    arrow: Annotated[bool, typer.Option("--arrow", help="Arrow requests of many rows, beside the bare model.")] = False,
    requests: Annotated[int, typer.Option(help="Arrow requests of a run.", min=100)] = 600,
    rows: Annotated[int, typer.Option(help="Rows of an Arrow request.", min=1)] = 1024,
    as_json: Json = False,
) -> None:
    """Requests a second of Sluice, of a hand-written librdkafka loop and of stock Faust on the same messages.

    One-row raw messages of 200 bytes through a linear model, so that the way is measured and not the model; every
    contestant publishes the same bytes, key and headers, and every answer is counted and a sample of them checked.
    The quiet loop has Python's cycle collector set as Sluice's worker sets its own.
    With --arrow: rows a second through the bundled digit classifier, beside the same model called in a loop.

    For instance: sluice bench throughput --repeats 5 --json
    """
    from pipeline.load.throughput import ArrowWork, RawWork, arrow_throughput, raw_throughput
    from pipeline.models import BUNDLED

    with _ground(broker, repeats * (2 if arrow else 1 + len(PEERS))) as (bootstrap, folder, tell):
        if arrow:
            model = _model(BUNDLED, "digits")
            work = ArrowWork(model, bootstrap, folder, requests=requests, rows=rows, repeats=repeats)
            rounds, figure, cpu = arrow_throughput(work, tell), "rows_per_s", "cpu_us_per_row"
            ratios = {"sluice / model": rounds.ratio("sluice", "model", figure)}
        else:
            model = _model(_linear(), "linear")
            raw = RawWork(model, bootstrap, folder, messages=messages, faust_messages=faust_messages, repeats=repeats)
            rounds, figure, cpu = raw_throughput(raw, tell), "messages_per_s", "cpu_us_per_message"
            ratios = {f"sluice / {peer}": rounds.ratio("sluice", peer, figure) for peer in PEERS}
    lines = [*_table(rounds, {figure: ",.0f", cpu: ".1f"}), "", *_spreads("ratio, within each round", ratios, ".2f")]
    _emit("throughput", rounds, {"model": model.label, "ratios": _dicts(ratios)}, lines, as_json)


@app.command()
def sequences(
    broker: Broker = None,
    repeats: Repeats = 3,
    messages: Annotated[int, typer.Option(help="One-row requests of a run.", min=1000)] = 30_000,
    as_json: Json = False,
) -> None:
    """Texts of skewed lengths a second: each padded to about the length of those in its batch, or to the longest.

    One-row raw requests of up to 128 tokens for an encoder whose work is in proportion to them.

    For instance: sluice bench sequences --repeats 5 --json
    """
    from pipeline.load.sequences import SequenceWork, sequence_throughput

    model = _model(_linear(), "encoder")
    with _ground(broker, repeats * 2) as (bootstrap, folder, tell):
        rounds = sequence_throughput(SequenceWork(model, bootstrap, folder, messages, repeats=repeats), tell)
    ratios = {"packed / padded": rounds.ratio("packed", "padded", "messages_per_s")}
    table = _table(rounds, {"messages_per_s": ",.0f", "cpu_us_per_message": ".1f"})
    lines = [*table, "", *_spreads("ratio, within each round", ratios, ".2f")]
    _emit("sequences", rounds, {"model": model.label, "ratios": _dicts(ratios)}, lines, as_json)


@app.command()
def latency(
    broker: Broker = None,
    repeats: Repeats = 3,
    rate: Annotated[float, typer.Option(help="Requests a second.", min=0.1)] = 100.0,
    duration_s: Annotated[float, typer.Option(help="Counted seconds of a run.", min=1)] = 10.0,
    arrivals: Annotated[str, typer.Option(help="constant, poisson or burst.")] = "poisson",
    as_json: Json = False,
) -> None:
    """Request to prediction through Sluice, beside an echo through the same broker plus the model's own time.

    One-row raw requests for the bundled digit classifier from an open loop: each is sent when it is due and its
    latency counts from then, so that a stall is charged for every request it delayed.

    For instance: sluice bench latency --rate 100 --duration-s 30
    """
    from pipeline.core.errors import ConfigError
    from pipeline.load import Arrivals
    from pipeline.load.latency import LatencyWork
    from pipeline.load.latency import latency as measure
    from pipeline.models import BUNDLED

    if arrivals not in list(Arrivals):
        raise ConfigError(f"--arrivals {arrivals}: give one of {', '.join(Arrivals)}")
    model = _model(BUNDLED, "digits")
    with _ground(broker, repeats * 3) as (bootstrap, folder, tell):
        work = LatencyWork(
            model, bootstrap, folder, rate=rate, duration_s=duration_s, arrivals=Arrivals(arrivals), repeats=repeats
        )
        rounds = measure(work, tell)
    above = {f"{p} ms": rounds.above("sluice", ["echo", "model"], f"{p}_ms") for p in ("p50", "p99")}
    lines = [
        *_table(rounds, {"p50_ms": ".2f", "p99_ms": ".2f"}),
        "",
        *_spreads("sluice above echo + model, within each round", above, ".2f"),
    ]
    about = {"model": model.label, "rate": rate, "arrivals": arrivals, "above_echo_and_model": _dicts(above)}
    _emit("latency", rounds, about, lines, as_json)


@contextmanager
def _ground(broker: str | None, runs: int) -> Iterator[tuple[str, Path, Callable[[str], None]]]:
    """A broker, a folder and someone to tell what runs; gone when the measuring is over."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from pipeline.local import EmbeddedKafka

    with ExitStack() as stack:
        bootstrap = broker or stack.enter_context(EmbeddedKafka()).bootstrap
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()))
        task = bar.add_task("starting", total=runs)
        started = 0

        def tell(what: str) -> None:
            nonlocal started
            bar.update(task, description=what, completed=started)
            started += 1

        yield bootstrap, folder, tell


def _linear() -> Path:
    from pipeline import load

    return Path(load.__file__).with_name("models")


def _model(repository: Path, name: str) -> Model:
    from pipeline.models import load_repository

    (model,) = [model for model in load_repository(repository) if model.name == name]
    return model


def _table(rounds: Rounds, figures: dict[str, str]) -> list[str]:
    """A line per contestant: median (least..most) of each figure that it has, in its format."""
    rows = [["", *figures]]
    for name, runs in rounds.runs.items():
        shown = {f: _spread(rounds.spread(name, f), figures[f]) for f in figures if f in runs[0]}
        rows.append([name, *(shown.get(figure, "-") for figure in figures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _spreads(title: str, spreads: dict[str, Spread], form: str) -> list[str]:
    return [f"{title}: {what}  {_spread(spread, form)}" for what, spread in spreads.items()]


def _spread(spread: Spread, form: str) -> str:
    return f"{spread.median:{form}} ({spread.min:{form}}..{spread.max:{form}})"


def _dicts(spreads: dict[str, Spread]) -> dict[str, dict[str, float]]:
    return {what: spread.to_dict() for what, spread in spreads.items()}


def _emit(bench: str, rounds: Rounds, about: dict[str, Any], lines: list[str], as_json: bool) -> None:
    import os
    import platform

    from pipeline.cli.output import emit

    machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
    emit({"bench": bench, "machine": machine, **about, "rounds": rounds.to_dict()}, as_json, table=lines)
