"""`sluice load`: open-loop load on a model's topics, and whether it was answered as fast as wanted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.broker import (
    BrokerOption,
    JsonOption,
    KafkaConfigOption,
    KafkaOption,
    ModelsOption,
    broker_of,
    check_model,
    kafka_of,
    models_of,
)
from pipeline.cli.ending import ended_by_signals

if TYPE_CHECKING:
    from pipeline.load import Load
    from pipeline.models import Model
    from topics.names import Topics

__all__ = ["load"]

LATE_MS_MAX = 10.0  # p99 of the sends; later, and the machine is too small for the load and the worker together


Rate = Annotated[
    float | None,
    typer.Option(help="Requests a second, on average; a trace's own if not given.", min=0.01, show_default=False),
]
Duration = Annotated[
    float | None,
    typer.Option(help="Seconds that count; 30, or a whole trace, if not given.", min=0.1, show_default=False),
]
Warmup = Annotated[float, typer.Option(help="Seconds of load before, which do not count.", min=0)]
Kind = Annotated[str, typer.Option(help="poisson, constant, or burst: a second's load in its first 0.2.")]
Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help='Recorded arrival times in seconds instead: .npy, or lines of a number or of {"at_s": 1.5}.',
        show_default=False,
    ),
]
Deadline = Annotated[int | None, typer.Option(help="Of each request, after it is due.", min=1, show_default=False)]
Slo = Annotated[
    float | None,
    typer.Option(help="Pass only if 99% of all are answered ok within so much.", min=0.001, show_default=False),
]
Rows = Annotated[int, typer.Option(help="Of each request.", min=1)]
ContentType = Annotated[str, typer.Option(help="json, arrow or raw.")]
Priority = Annotated[
    int | None, typer.Option(help="Of each request; 9 is the most urgent.", min=0, max=9, show_default=False)
]
Keys = Annotated[int, typer.Option(help="Different keys, in turn; 0 sends none.", min=0)]
Linger = Annotated[
    float | None,
    typer.Option(help="How long the producer gathers; 0 up to 1,000 requests a second, else 5.", show_default=False),
]
Wait = Annotated[float, typer.Option(help="Seconds for the answers after the last request.", min=0)]
Seed = Annotated[int, typer.Option(help="Of the arrivals: the same seed, the same load.", min=0)]


def load(
    model: Annotated[str, typer.Argument(help="Name of the model.", show_default=False)],
    rate: Rate = None,
    duration: Duration = None,
    warmup: Warmup = 2.0,
    arrivals: Kind = "poisson",
    trace: Trace = None,
    deadline_ms: Deadline = None,
    slo_ms: Slo = None,
    rows: Rows = 1,
    content_type: ContentType = "raw",
    priority: Priority = None,
    keys: Keys = 1000,
    linger_ms: Linger = None,
    wait: Wait = 10.0,
    seed: Seed = 0,
    models: ModelsOption = None,
    broker: BrokerOption = None,
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send requests at a rate that no answer changes, and report what became of them and how late.

    An open loop, as clients are: each request is sent when it is due, also while earlier ones wait, and its latency
    counts from then. So a stall is charged for every request it delayed, which a loop that waits for answers hides.
    Goodput is what was answered ok within --deadline-ms and --slo-ms.

    With --slo-ms there is a verdict as in MLPerf's Server scenario, and the exit code is 1 where it is "not valid": the
    99th percentile of all requests, those without an ok answer counted as never answered. Without it the exit code is 1
    where a request got no answer at all.

    For instance: sluice load digits --rate 2000 --duration 60 --slo-ms 50 --deadline-ms 50
    """
    from pipeline.load import Arrivals, Load
    from topics.client.messages import content_type_of

    _check(rate, duration, arrivals, trace)
    found = _find(model, models)
    wanted = Load(
        broker=broker_of(broker),
        model=str(found.path),
        content_type=content_type_of(content_type),
        rate=rate,
        duration_s=30.0 if duration is None and trace is None else duration,
        warmup_s=warmup,
        arrivals=Arrivals(arrivals),
        trace=None if trace is None else str(trace),
        seed=seed,
        rows=rows,
        keys=keys,
        priority=priority,
        deadline_ms=deadline_ms,
        slo_ms=slo_ms,
        linger_ms=linger_ms,
        answer_s_max=wait,
        kafka=kafka_of(kafka, kafka_config),
    )
    raise typer.Exit(_run(wanted, found, as_json))


def _run(wanted: Load, model: Model, as_json: bool) -> int:
    """Send it, print the report and its verdict; the exit code."""
    from pipeline.cli.output import emit
    from pipeline.load import drive

    _look(wanted.broker, wanted.kafka, model.topics)
    with (
        ended_by_signals(),
        _progress(wanted.warmup_s + (wanted.duration_s or 0), shown=sys.stderr.isatty() and not as_json) as tick,
    ):
        report = drive(wanted, tick)
    passed, verdict = judge(report)
    arrivals = "trace" if wanted.trace else wanted.arrivals
    about = {"model": model.label, "arrivals": arrivals, "rate": wanted.rate, "rows": wanted.rows}
    emit({**about, **report, "verdict": verdict}, as_json, table=[*_lines(report), "", verdict])
    return 0 if passed else 1


def judge(found: dict[str, Any]) -> tuple[bool, str]:
    """Whether a report passes, and the line that says why."""
    unanswered, requests = found["unanswered"], found["requests"]
    if unanswered == requests:
        return False, "no request was answered: is a worker serving this model? (sluice serve)"
    if "slo_ms" not in found:
        if unanswered:
            return False, f"{unanswered} of {requests} requests got no answer"
        return True, f"every one of {requests} requests was answered"
    bound = "never" if found["bound_ms"] is None else f"{found['bound_ms']:.2f} ms"
    said = f"99% of all requests have their prediction within: {bound}; SLO: {found['slo_ms']:g} ms"
    return found["valid"], f"{'valid' if found['valid'] else 'not valid'}: {said}"


def _find(name: str, models: Path | None) -> Model:
    """The newest version of that model. Raises `ConfigError` where the repository does not hold it."""
    from pipeline.core.errors import ConfigError

    check_model(name)
    known = {each.name: each for each in models_of(models)}
    if name not in known:
        raise ConfigError(f"no model {name!r} in the repository, only {', '.join(sorted(known))}; give --models DIR")
    return known[name]


def _check(rate: float | None, duration: float | None, arrivals: str, trace: Path | None) -> None:
    """Raise `ConfigError` where there is nothing to make a schedule of."""
    from pipeline.core.errors import ConfigError
    from pipeline.load import Arrivals
    from pipeline.load.arrivals import read_trace, replayed

    if arrivals not in list(Arrivals):
        raise ConfigError(f"--arrivals {arrivals}: give one of {', '.join(Arrivals)}")
    if trace is None:
        if rate is None:
            raise ConfigError("give --rate, requests a second, or a --trace of arrival times")
        return
    try:
        replayed(read_trace(trace), rate, duration)
    except FileNotFoundError as error:
        raise ConfigError(f"{trace}: no such file") from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"--trace: {error}") from error


def _look(broker: str, kafka: Any, topics: Topics) -> None:
    """Raise `TopicsError` where Kafka cannot be reached or lacks the topics."""
    from topics.connect import Connection
    from topics.errors import TopicMissing

    there = Connection(broker, kafka).reach()
    if missing := [name for name in (topics.requests, topics.predictions) if name not in there]:
        raise TopicMissing(f"missing topics: {', '.join(missing)}; a worker makes them: sluice serve")


@contextmanager
def _progress(total_s: float, *, shown: bool) -> Iterator[Callable[[float], None]]:
    """A bar of seconds on a terminal's standard error."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("sending", total=total_s or None)
        yield lambda seconds: bar.update(task, completed=seconds)


def _lines(found: dict[str, Any]) -> list[str]:
    """The report for people."""
    requests, seconds = found["requests"], found["duration_s"]
    within = found["good_within_ms"]
    counts = {
        "sent": requests,
        "answered": found["answered"],
        "  ok": found["ok"],
        "  expired": found["expired"],
        "  rejected": found["rejected"],
        "unanswered": found["unanswered"],
        "good" if within is None else f"good: ok within {within:g} ms": found["good"],
    }
    lines = [f"{'':<28}{'requests':>10}{'a second':>12}{'share':>9}"]
    lines += [f"{name:<28}{n:>10,}{n / seconds:>12,.1f}{n / requests:>9.2%}" for name, n in counts.items()]
    if found["repeats"]:
        lines.append(f"{'answered again':<28}{found['repeats']:>10,}")
    if found["undelivered"]:
        lines.append(f"{'not taken by Kafka':<28}{found['undelivered']:>10,}")
    if "p50_ms" in found:
        shown = ("p50", "p90", "p99", "p99.9", "max")
        lines += ["", "ms from due to ok:  " + "  ".join(f"{name} {found[f'{name}_ms']:.2f}" for name in shown)]
    lines.append(f"ms sent late:       p50 {found['sent_late_ms_p50']:.2f}  p99 {found['sent_late_ms_p99']:.2f}")
    if found["sent_late_ms_p99"] > LATE_MS_MAX:
        lines.append("the generator itself was late, and latencies hold that: this machine is too busy for such a load")
    return lines
