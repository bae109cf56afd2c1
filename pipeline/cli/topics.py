"""`sluice topics`: create, list and check the topics of the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.broker import BrokerOption, JsonOption, KafkaOption, ModelsOption, broker_of, kafka_of, models_of

if TYPE_CHECKING:
    from topics.admin import TopicState

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Create, list and check the three topics of each model.")

Partitions = Annotated[
    int | None, typer.Option(help="Of requests and predictions; 4 if not given.", min=1, show_default=False)
]
Replication = Annotated[
    int | None,
    typer.Option(help="Copies of each partition; the broker's default if not given.", min=1, show_default=False),
]


@app.command()
def apply(
    models: ModelsOption = None,
    broker: BrokerOption = None,
    partitions: Partitions = None,
    replication: Replication = None,
    grow: Annotated[
        bool, typer.Option("--grow", help="Add partitions to existing topics; changes which partition a key goes to.")
    ] = False,
    kafka: KafkaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create what is missing; running it again changes nothing. What has drifted is told, exit code 1.

    For instance: sluice topics apply --models ./models --broker localhost:9092 --partitions 12
    """
    from pipeline.cli.output import emit
    from topics.admin import apply_topics, verify_topics

    wanted, address, settings = [m.topics for m in models_of(models)], broker_of(broker), kafka_of(kafka)
    steps = apply_topics(address, wanted, partitions=partitions, replication=replication, grow=grow, kafka=settings)
    drifts = verify_topics(address, wanted, partitions=partitions, replication=replication, kafka=settings)
    emit(
        {
            "topics": [{"topic": s.topic, "action": s.action, "partitions": s.partitions} for s in steps],
            "drift": [d.to_dict() for d in drifts],
        },
        as_json,
        table=[f"{s.action:8}{s.topic}  {s.partitions} partitions" for s in steps] + [f"drift: {d}" for d in drifts],
    )
    if drifts:
        raise typer.Exit(1)


@app.command("list")
def list_(
    models: ModelsOption = None, broker: BrokerOption = None, kafka: KafkaOption = None, as_json: JsonOption = False
) -> None:
    """The topics of the models as the broker has them.

    For instance: sluice topics list --broker localhost:9092
    """
    from pipeline.cli.output import emit
    from topics.admin import list_topics

    wanted = [m.topics for m in models_of(models)]
    states = list_topics(broker_of(broker), wanted, kafka=kafka_of(kafka))
    emit([state.to_dict() for state in states], as_json, table=_table(states))


@app.command()
def verify(
    models: ModelsOption = None,
    broker: BrokerOption = None,
    partitions: Partitions = None,
    replication: Replication = None,
    kafka: KafkaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what has drifted: missing topics, partitions, copies, leaders, settings; exit code 1 if anything has.

    For instance: sluice topics verify --models ./models --broker localhost:9092
    """
    from pipeline.cli.output import emit
    from topics.admin import verify_topics

    wanted = [m.topics for m in models_of(models)]
    drifts = verify_topics(
        broker_of(broker), wanted, partitions=partitions, replication=replication, kafka=kafka_of(kafka)
    )
    emit(
        {"ok": not drifts, "drift": [d.to_dict() for d in drifts]},
        as_json,
        table=[str(d) for d in drifts] or [f"ok: {3 * len(wanted)} topics as they should be"],
    )
    if drifts:
        raise typer.Exit(1)


def _table(states: list[TopicState]) -> list[str]:
    width = max(len(state.topic) for state in states)
    lines = [f"{'topic':{width}}  partitions  copies  max.message.bytes  cleanup.policy"]
    for state in states:
        if state.missing:
            lines.append(f"{state.topic:{width}}  missing")
            continue
        size, policy = (state.configs.get(name, "?") for name in ("max.message.bytes", "cleanup.policy"))
        lines.append(f"{state.topic:{width}}  {state.partitions:10}  {state.replication:6}  {size:>17}  {policy}")
    return lines
