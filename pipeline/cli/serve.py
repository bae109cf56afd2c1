"""`sluice serve`: one worker, until it is told to stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.broker import BrokerOption, KafkaConfigOption, KafkaOption, broker_of, kafka_of
from pipeline.cli.secrecy import Discreet, hide_url
from pipeline.core.settings import Guarantee

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.core.settings import Settings
    from pipeline.models import Model

__all__ = ["serve"]

log = logging.getLogger(__name__)

Level = Literal["debug", "info", "warning", "error"]
NOISY = ("faust", "mode", "aiokafka")  # what they say at INFO is theirs, not the flow's


ModelsFrom = Annotated[
    Path | None,
    typer.Option(
        "--models", metavar="DIR", envvar="SLUICE_MODELS", help="Model repository; the bundled one by default."
    ),
]
Group = Annotated[
    str, typer.Option(envvar="SLUICE_GROUP", help="Consumer group; workers of one group share the requests.")
]
Promise = Annotated[
    Guarantee, typer.Option(envvar="SLUICE_GUARANTEE", help="What a consumer of the predictions may rely on.")
]
From = Annotated[
    Literal["earliest", "latest"], typer.Option("--from", help="Where a group without committed offsets begins.")
]
Apply = Annotated[bool, typer.Option("--apply/--no-apply", help="Create the models' topics where missing.")]
Partitions = Annotated[int | None, typer.Option(help="Of topics created here; 4 if not given.", min=1)]
InstanceId = Annotated[
    str | None,
    typer.Option(envvar="SLUICE_INSTANCE_ID", help="Static membership: unique in the group, kept over restarts."),
]
AnswerOnce = Annotated[
    float | None,
    typer.Option(
        "--answer-once-within",
        metavar="SECONDS",
        envvar="SLUICE_ANSWER_ONCE_WITHIN",
        help="Requests with the request-id and the body of one read so long before get no answer of their own.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda:N",
        envvar="SLUICE_DEVICE",
        help="Where models run: auto is the GPU for those of TensorRT, if there is one; one process per GPU.",
    ),
]
Threads = Annotated[int | None, typer.Option(help="Of one run of a model; by default what suits the machine.", min=1)]
Endpoint = Annotated[
    str | None, typer.Option(metavar="URL", help="OpenTelemetry over HTTP; OTEL_EXPORTER_OTLP_ENDPOINT if not given.")
]
LogLevel = Annotated[Level, typer.Option(envvar="SLUICE_LOG_LEVEL", help="Of the log on standard error.")]
ReadyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Is there while the worker can answer; for health checks.")
]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Counters and stage times as JSON, written at the end.")
]
Decisions = Annotated[
    Path | None,
    typer.Option(
        "--record-decisions", metavar="FILE", help="Arrivals and decisions, a JSON line each; see sluice explain."
    ),
]


def serve(
    models: ModelsFrom = None,
    broker: BrokerOption = None,
    group: Group = "sluice",
    guarantee: Promise = Guarantee.AT_LEAST_ONCE,
    from_: From = "earliest",
    apply: Apply = True,
    partitions: Partitions = None,
    instance_id: InstanceId = None,
    answer_once_within: AnswerOnce = None,
    device: DeviceOption = "auto",
    threads: Threads = None,
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    otlp_endpoint: Endpoint = None,
    log_level: LogLevel = "info",
    ready_file: ReadyFile = None,
    report: Report = None,
    record_decisions: Decisions = None,
) -> None:
    """Answer requests with the models of a repository, until SIGTERM or Ctrl-C; then drain and exit 0.

    Prints one line beginning with "ready" when it can answer, and logs to standard error. The newest good version of
    each model is served; a newer one that appears in the repository is swapped in within seconds, or at once on SIGHUP.

    For instance: sluice serve --models ./models --broker localhost:9092 --group vision
    """
    from pipeline.core.settings import Settings

    hide_url(otlp_endpoint or "")
    _log_to_stderr(log_level)
    _mark(ready_file, ready=False)  # of a worker that was killed
    loaded = _load(models, device)
    settings = Settings(
        broker=broker_of(broker),
        group=group,
        guarantee=guarantee,
        offset_reset=from_,
        instance_id=instance_id,
        kafka=kafka_of(kafka, kafka_config),
        device=device,
        threads=threads,
        answer_once_within_s=answer_once_within,
        otlp_endpoint=otlp_endpoint,
        record_decisions=record_decisions,
    )
    _look(loaded, settings, partitions, apply=apply)

    def ready() -> None:
        _mark(ready_file, ready=True)
        names = ", ".join(model.label for model in loaded)
        print(f"ready: {names} on {settings.broker}, group {group}", flush=True)

    from pipeline.serve import run_worker

    try:
        status = run_worker(loaded, settings, repository=models, ready=ready, report=report)
    finally:
        _mark(ready_file, ready=False)
    raise typer.Exit(status)


def _load(models: Path | None, device: str) -> list[Model]:
    """The models to serve. What has no device is told before Kafka is asked for anything."""
    from pipeline.infer.placement import place
    from pipeline.models import BUNDLED, load_repository

    loaded = load_repository(models or BUNDLED)
    for model in loaded:
        place(model.manifest.backend, device)
    return loaded


def _look(models: Sequence[Model], settings: Settings, partitions: int | None, *, apply: bool) -> None:
    """Whether Kafka lets us in and has the models' topics; raises what is then told in one line."""
    from pipeline.core.errors import BrokerError
    from topics.admin import apply_topics, verify_topics
    from topics.connect import Connection

    there = Connection(settings.broker, settings.kafka).reach()
    wanted = [model.topics for model in models]
    if not apply:  # with no right to look at more than that they are there
        names = [name for each in wanted for name in (each.requests, each.predictions, each.dead_letters)]
        if missing := [name for name in names if name not in there]:
            raise BrokerError(f"missing topics: {', '.join(missing)}; create them with sluice topics apply")
        return
    for step in apply_topics(settings.broker, wanted, partitions=partitions, kafka=settings.kafka):
        if step.action != "kept":
            log.info("topic %s %s with %d partitions", step.topic, step.action, step.partitions)
    for drift in verify_topics(settings.broker, wanted, kafka=settings.kafka):
        log.warning("drift: %s", drift)


def _mark(ready_file: Path | None, *, ready: bool) -> None:
    """Make or remove the ready file; a worker serves on where it cannot."""
    if ready_file is None:
        return
    try:
        if ready:
            ready_file.touch()
        else:
            ready_file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the ready file %s cannot be %s: %s", ready_file, "made" if ready else "removed", error.strerror)


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Discreet("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level != "debug":
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.WARNING)
