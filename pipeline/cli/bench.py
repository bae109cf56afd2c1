"""`sluice bench`: figures beside peers, each in its own process, interleaved in one run on one broker."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.figures import Compared, show
from pipeline.cli.ground import Ground, bench_model, ground, model_of

if TYPE_CHECKING:
    from pipeline.load import Rounds
    from pipeline.models import Model

    Measured = tuple[Model, Rounds, str, str]  # also the names of the figures for speed and processor time

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure Sluice beside its peers, interleaved in one run on one broker.")

Broker = Annotated[str | None, typer.Option(help="HOST:PORT to measure on; an embedded Kafka if not given.")]
Repeats = Annotated[int, typer.Option(help="Rounds; each runs every contestant once, in rotating order.", min=1)]
Plot = Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Write a picture, too.", show_default=False)]
PeersPython = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="A Python that has the peers which are not installed beside Sluice.", show_default=False
    ),
]
PeerNames = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Only beside this peer; may be repeated.", show_default=False)
]
ArrowBytes = Annotated[
    bool, typer.Option("--arrow-bytes", help="Arrow requests of 1 MB for no work, beside consuming alone.")
]
Heavy = Annotated[
    bool, typer.Option("--heavy", help="A model that takes the processor milliseconds a row, beside it alone.")
]
ArrowRequests = Annotated[
    int | None,
    typer.Option(help="Arrow requests of a run; 600, 4,000 of 1 MB, 1,200 with --heavy.", min=100, show_default=False),
]
SloMs = Annotated[float, typer.Option(help="How soon each request is to be answered.", min=1)]
RateS = Annotated[float, typer.Option(help="Counted seconds of each rate that is tried.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

MESSAGES = {"messages_per_s": ",.0f", "cpu_us_per_message": ".1f"}  # how these figures are printed


@app.command()
def throughput(
    broker: Broker = None,
    repeats: Repeats = 3,
    messages: Annotated[int, typer.Option(help="One-row requests of a run.", min=1000)] = 400_000,
    peer: PeerNames = None,
    peers_python: PeersPython = None,
    arrow: Annotated[bool, typer.Option("--arrow", help="Arrow requests of many rows, beside the bare model.")] = False,
    arrow_bytes: ArrowBytes = False,
    heavy: Heavy = False,
    requests: ArrowRequests = None,
    rows: Annotated[int, typer.Option(help="Rows of an Arrow request, with --arrow.", min=1)] = 1024,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Requests a second of Sluice and of its peers on the same messages.

    One-row raw messages of 200 bytes through a linear model, so that the way is measured and not the model; every
    contestant publishes the same bytes, key and headers, and every answer is counted and a sample of them checked.
    Peers: hand-written loops with librdkafka (loop; quiet-loop has Python's cycle collector set as Sluice's worker sets
    its own) and with aiokafka, stock faust, bytewax, quixstreams, faststream; and mlserver, which reads the same rows
    as JSON and answers in it. One whose package is not installed is left out. The slower ones get fewer messages. With
    --arrow: rows a second through the bundled digit classifier, beside the same model called in a loop. With
    --arrow-bytes: bytes a second through a model that does nothing, beside librdkafka that only reads them, and beside
    that and a copy. With --heavy: rows a second through a high tower of layers, a raw row a request, beside the same
    model called in a loop with its best batch size.

    For instance: sluice bench throughput --repeats 5 --json
    """
    from pipeline.core.errors import ConfigError
    from pipeline.load.contestants import PEERS, field_of
    from pipeline.load.plots import bars, check_plot
    from topics.records import ARROW, RAW

    if arrow + arrow_bytes + heavy > 1:
        raise ConfigError("--arrow, --arrow-bytes and --heavy are benches of their own: give one of them")
    check_plot(plot)
    with tempfile.TemporaryDirectory(prefix="sluice-peers-") as place:
        field = field_of([] if arrow or arrow_bytes or heavy else peer or PEERS, peers_python, Path(place))
        with ground(broker, repeats * (1 + (len(field.commands) or 1 + arrow_bytes))) as on:
            if arrow_bytes:
                of = _measure_bytes(on, repeats, requests or 4000)
            elif heavy:
                of = _measure_rows(on, repeats, bench_model("high-tower"), requests or 1200, 1, RAW)
            elif arrow:
                of = _measure_rows(on, repeats, _bundled("digits"), requests or 600, rows, ARROW)
            else:
                of = _measure_messages(on, repeats, messages, field.commands)
    model, rounds, figure, cpu = of
    ratios = {f"sluice / {name}": rounds.ratio("sluice", name, figure) for name in rounds.runs if name != "sluice"}
    show(
        "throughput",
        rounds,
        {figure: ",.0f", cpu: ".1f"},
        {"model": model.label, "left_out": field.left_out},
        Compared("ratios", "ratio", ratios, ".2f"),
        notes=[f"left out: {name}: {why}" for name, why in field.left_out.items()],
        as_json=as_json,
    )
    if plot is not None:
        bars(rounds, figure, figure.replace("_per_s", " a second"), plot)


def _measure_messages(on: Ground, repeats: int, messages: int, commands: dict[str, list[str]]) -> Measured:
    from pipeline.load.throughput import RawWork, raw_throughput

    broker, folder, tell = on
    model = bench_model("linear")
    work = RawWork(model, broker, folder, commands, messages=messages, repeats=repeats)
    return model, raw_throughput(work, tell), "messages_per_s", "cpu_us_per_message"


def _measure_rows(on: Ground, repeats: int, model: Model, requests: int, rows: int, content_type: str) -> Measured:
    from pipeline.load.throughput import RowWork, row_throughput

    broker, folder, tell = on
    work = RowWork(model, broker, folder, requests, rows, content_type, repeats=repeats)
    return model, row_throughput(work, tell), "rows_per_s", "cpu_us_per_row"


def _measure_bytes(on: Ground, repeats: int, requests: int) -> Measured:
    from pipeline.load.volume import VolumeWork, volume

    broker, folder, tell = on
    model = bench_model("first", "large")
    work = VolumeWork(model, broker, folder, requests=requests, repeats=repeats)
    return model, volume(work, tell), "bytes_per_s", "cpu_us_per_message"


@app.command()
def tracing(
    broker: Broker = None,
    repeats: Repeats = 6,
    messages: Annotated[int, typer.Option(help="One-row requests of a run.", min=1000)] = 800_000,
    sampled: Annotated[float, typer.Option(help="Share of the requests that are recorded.", min=0, max=1)] = 0.01,
    as_json: Json = False,
) -> None:
    """What telemetry costs: requests a second with all metrics and sampled spans exported, beside none.

    As with the throughput bench, but each request has a traceparent. A process beside takes what is exported and drops
    it. "bare" is without a traceparent, too: what it costs to go on with a client's trace is in the others. "again" is
    the untraced once more: its ratio is what the machine makes of no difference at all.

    For instance: sluice bench tracing --repeats 12 --sampled 0.01
    """
    from pipeline.load.tracing import TracingWork
    from pipeline.load.tracing import tracing as measure

    model = bench_model("linear")
    with ground(broker, repeats * 4) as (bootstrap, folder, tell):
        rounds = measure(TracingWork(model, bootstrap, folder, messages, sampled, repeats=repeats), tell)
    compared = (("traced", "untraced"), ("again", "untraced"), ("traced", "bare"))
    ratios = {f"{name} / {base}": rounds.ratio(name, base, "messages_per_s") for name, base in compared}
    about = {"model": model.label, "sampled": sampled}
    show("tracing", rounds, MESSAGES, about, Compared("ratios", "ratio", ratios, ".3f"), as_json=as_json)


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

    model = bench_model("encoder")
    with ground(broker, repeats * 2) as (bootstrap, folder, tell):
        rounds = sequence_throughput(SequenceWork(model, bootstrap, folder, messages, repeats=repeats), tell)
    ratios = {"packed / padded": rounds.ratio("packed", "padded", "messages_per_s")}
    compared = Compared("ratios", "ratio", ratios, ".2f")
    show("sequences", rounds, MESSAGES, {"model": model.label}, compared, as_json=as_json)


@app.command()
def latency(
    broker: Broker = None,
    repeats: Repeats = 3,
    rate: Annotated[float, typer.Option(help="Requests a second.", min=0.1)] = 100.0,
    duration_s: Annotated[float, typer.Option(help="Counted seconds of a run.", min=1)] = 10.0,
    arrivals: Annotated[str, typer.Option(help="constant, poisson or burst.")] = "poisson",
    plot: Plot = None,
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
    from pipeline.load.plots import check_plot, percentiles

    check_plot(plot)
    if arrivals not in list(Arrivals):
        raise ConfigError(f"--arrivals {arrivals}: give one of {', '.join(Arrivals)}")
    model = _bundled("digits")
    with ground(broker, repeats * 3) as (bootstrap, folder, tell):
        work = LatencyWork(
            model, bootstrap, folder, rate=rate, duration_s=duration_s, arrivals=Arrivals(arrivals), repeats=repeats
        )
        rounds = measure(work, tell)
    above = {f"{p} ms": rounds.above("sluice", ["echo", "model"], f"{p}_ms") for p in ("p50", "p99")}
    about = {"model": model.label, "rate": rate, "arrivals": arrivals}
    compared = Compared("above_echo_and_model", "sluice above echo + model", above, ".2f")
    show("latency", rounds, {"p50_ms": ".2f", "p99_ms": ".2f"}, about, compared, as_json=as_json)
    if plot is not None:
        percentiles(rounds, f"ms, {rate:g} requests a second", plot)


@app.command()
def guarantees(
    broker: Broker = None,
    repeats: Repeats = 3,
    messages: Annotated[int, typer.Option(help="One-row requests of a run at full speed.", min=1000)] = 400_000,
    rate: Annotated[float, typer.Option(help="Requests a second of a run at a low rate.", min=0.1)] = 100.0,
    duration_s: Annotated[float, typer.Option(help="Counted seconds of such a run.", min=1)] = 10.0,
    as_json: Json = False,
) -> None:
    """What exactly-once costs: Sluice with it beside Sluice without, in turn, as a read-committed consumer sees both.

    Full speed is the throughput bench's linear model, the low rate is the latency bench's digits with Poisson arrivals.

    For instance: sluice bench guarantees --repeats 5 --json
    """
    from pipeline.load.guarantees import guarantees as measure
    from pipeline.load.latency import LatencyWork
    from pipeline.load.throughput import RawWork

    linear, digits = bench_model("linear"), _bundled("digits")
    ours, base = "exactly-once", "at-least-once"
    with ground(broker, repeats * 2) as (bootstrap, folder, tell):
        full = RawWork(linear, bootstrap, folder, messages=messages, repeats=repeats)
        rounds = measure(full, LatencyWork(digits, bootstrap, folder, rate=rate, duration_s=duration_s), tell)
    ratios = {"messages_per_s": rounds.ratio(ours, base, "messages_per_s")}
    added = {f"{p} ms": rounds.above(ours, [base], f"{p}_ms") for p in ("p50", "p99")}
    show(
        "guarantees",
        rounds,
        {**MESSAGES, "p50_ms": ".2f", "p99_ms": ".2f"},
        {"models": [linear.label, digits.label], "rate": rate},
        Compared("ratios", f"{ours} / {base}", ratios, ".2f"),
        Compared("added", f"{ours} above {base}", added, ".2f"),
        as_json=as_json,
    )


@app.command()
def slo(
    broker: Broker = None,
    repeats: Repeats = 3,
    slo_ms: SloMs = 100.0,
    duration_s: RateS = 6.0,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """The highest Poisson rate at which 99% of requests are answered in time, beside stock Faust and eager batches.

    Through a tower of layers whose batches cost about as much as eight rows do. "take" is stock Faust's agent that
    takes what came within a quarter of the SLO, "eager" a Sluice without an SLO, "offline" the model in a loop. "busy"
    is the processor time a second at 0.3 of the offline rate, and "in_time" the share of requests in time then. Limits:
    "beside" is the model in a loop while an echo carries Sluice's load on the same machine; "ceiling" is the best early
    drop on a simulated device whose batches take what the worker's took.

    For instance: sluice bench slo --slo-ms 100 --repeats 3
    """
    from pipeline.load.plots import bars, check_plot
    from pipeline.load.slo import SloWork, slo_peaks
    from pipeline.plan.simulate import ceiling_rate
    from pipeline.window import Cost

    def ceiling(cost: Cost, work: SloWork) -> float:
        return ceiling_rate(cost, work.model.manifest.rows_max, work.slo_ms)

    check_plot(plot)
    model = bench_model("tower")
    with ground(broker, repeats * 6) as (bootstrap, folder, tell):
        work = SloWork(model, bootstrap, folder, slo_ms=slo_ms, duration_s=duration_s, repeats=repeats)
        rounds = slo_peaks(work, ceiling, tell)
    pairs = [("sluice", name) for name in ("take", "eager", "offline", "beside", "ceiling")]
    pairs += [("beside", name) for name in ("offline", "ceiling")]
    peaks = {f"{a} / {b}": rounds.ratio(a, b, "peak_per_s") for a, b in pairs}
    ratios = {**peaks, "busy: sluice / eager": rounds.ratio("sluice", "eager", "busy")}
    forms = {"peak_per_s": ",.0f", "busy": ".2f", "in_time": ".4f"}
    compared = Compared("ratios", "ratio", ratios, ".2f")
    show("slo", rounds, forms, {"model": model.label, "slo_ms": slo_ms}, compared, as_json=as_json)
    if plot is not None:
        bars(rounds, "peak_per_s", "requests a second, 99% of them in time", plot)


@app.command()
def overload(
    broker: Broker = None,
    repeats: Repeats = 3,
    slo_ms: SloMs = 100.0,
    duration_s: RateS = 6.0,
    as_json: Json = False,
) -> None:
    """What is answered in time at twice the highest rate that was, and that no request stays without an answer.

    The model, the SLO and the rate are the slo bench's; "beside" is what the model alone does in a loop while an echo
    answers the double: the machine's limit.

    For instance: sluice bench overload --slo-ms 100 --repeats 3
    """
    from pipeline.load.slo import SloWork
    from pipeline.load.slo import overload as measure

    model = bench_model("tower")
    with ground(broker, repeats) as (bootstrap, folder, tell):
        work = SloWork(model, bootstrap, folder, slo_ms=slo_ms, duration_s=duration_s, repeats=repeats)
        rounds = measure(work, tell)
    compare = {f"goodput: {a} / {b}": (a, b) for a, b in (("twice", "peak"), ("beside", "peak"), ("twice", "beside"))}
    ratios = {what: rounds.ratio(*pair, "goodput_per_s") for what, pair in compare.items()}
    forms = {"offered_per_s": ",.0f", "goodput_per_s": ",.0f", "expired": ",.0f", "unanswered": ",.0f"}
    compared = Compared("ratios", "ratio", ratios, ".2f")
    show("overload", rounds, forms, {"model": model.label, "slo_ms": slo_ms}, compared, as_json=as_json)


@app.command()
def scaling(
    broker: Broker = None,
    repeats: Repeats = 3,
    workers: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="So many workers at a time; may be repeated.  [default: 1, 2, 4]", min=1),
    ] = None,
    batch_ms: Annotated[float, typer.Option(help="How long the device of each takes for a batch.", min=1)] = 20.0,
    rows: Annotated[int, typer.Option(help="Rows of a batch at most.", min=1)] = 64,
    duration_s: Annotated[float, typer.Option(help="Seconds of a run at the devices' full speed.", min=1)] = 10.0,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Rows a second of more and more workers of one group on one topic, each with a device of its own.

    One-row raw requests for a linear model whose batches take a fixed time without the processor, as on a GPU: what is
    measured is whether Kafka and the workers keep all devices busy, beside the processors that they share.
    "of_device" is the share of what the devices can do.

    For instance: sluice bench scaling --workers 1 --workers 2 --json
    """
    from pipeline.load.plots import bars, check_plot
    from pipeline.load.scaling import ScalingWork, workers_name
    from pipeline.load.scaling import scaling as measure

    check_plot(plot)
    model, counts = bench_model("linear"), sorted(set(workers or (1, 2, 4)))
    with ground(broker, repeats * len(counts)) as (bootstrap, folder, tell):
        work = ScalingWork(model, bootstrap, folder, counts, rows, batch_ms, duration_s, repeats)
        rounds = measure(work, tell)
    one, *more = map(workers_name, counts)
    ratios = {f"{name} / {one}": rounds.ratio(name, one, "rows_per_s") for name in more}
    forms, about = (
        {"rows_per_s": ",.0f", "of_device": ".2f"},
        {"model": model.label, "batch_ms": batch_ms, "rows": rows},
    )
    show("scaling", rounds, forms, about, Compared("ratios", "ratio", ratios, ".2f"), as_json=as_json)
    if plot is not None:
        bars(rounds, "rows_per_s", "rows a second", plot)


def _bundled(name: str) -> Model:
    from pipeline.models import BUNDLED

    return model_of(BUNDLED, name)
