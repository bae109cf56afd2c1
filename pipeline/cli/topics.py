"""`sluice topics`: create, list and check the topics of the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.broker import (
    BrokerOption,
    JsonOption,
    KafkaConfigOption,
    KafkaOption,
    ModelsOption,
    broker_of,
    kafka_of,
    models_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from topics.acls import Acl
    from topics.admin import TopicState
    from topics.names import Topics

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Create, list and check the three topics of each model.")

Partitions = Annotated[
    int | None, typer.Option(help="Of requests and predictions; 4 if not given.", min=1, show_default=False)
]
Replication = Annotated[
    int | None,
    typer.Option(help="Copies of each partition; the broker's default if not given.", min=1, show_default=False),
]
WithAcls = Annotated[
    bool, typer.Option("--acls", help="Also what --principal and --client-principal are allowed: just what they need.")
]
Principals = Annotated[
    list[str] | None,
    typer.Option("--principal", metavar="TYPE:NAME", help="Of workers, such as User:worker; may be repeated."),
]
ClientPrincipals = Annotated[
    list[str] | None,
    typer.Option("--client-principal", metavar="TYPE:NAME", help="Of clients, such as User:app; may be repeated."),
]
Group = Annotated[str, typer.Option(envvar="SLUICE_GROUP", help="The workers' consumer group.")]


@app.command()
def apply(
    models: ModelsOption = None,
    broker: BrokerOption = None,
    partitions: Partitions = None,
    replication: Replication = None,
    grow: Annotated[
        bool, typer.Option("--grow", help="Add partitions to existing topics; changes which partition a key goes to.")
    ] = False,
    acls: WithAcls = False,
    principal: Principals = None,
    client_principal: ClientPrincipals = None,
    group: Group = "sluice",
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create what is missing; running it again changes nothing. What has drifted is told, exit code 1.

    With --acls a principal is allowed just what it needs; what it has beyond that is told too, and never taken away.

    For instance: sluice topics apply --models ./models --acls --principal User:worker --client-principal User:app
    """
    from pipeline.cli.output import emit
    from topics.acls import apply_acls, verify_acls
    from topics.admin import apply_topics, verify_topics

    wanted, address, settings = [m.topics for m in models_of(models)], broker_of(broker), kafka_of(kafka, kafka_config)
    allowed = _acls(wanted, principal, client_principal, group, given=acls)
    steps = apply_topics(address, wanted, partitions=partitions, replication=replication, grow=grow, kafka=settings)
    made = apply_acls(address, allowed, kafka=settings)
    drifts = verify_topics(address, wanted, partitions=partitions, replication=replication, kafka=settings)
    drifts += verify_acls(address, allowed, kafka=settings)
    emit(
        {
            "topics": [{"topic": s.topic, "action": s.action, "partitions": s.partitions} for s in steps],
            "acls": [{**acl.to_dict(), "action": "created" if acl in made else "kept"} for acl in allowed],
            "drift": [d.to_dict() for d in drifts],
        },
        as_json,
        table=[
            *(f"{s.action:8}{s.topic}  {s.partitions} partitions" for s in steps),
            *(f"{'created' if acl in made else 'kept':8}{acl}" for acl in allowed),
            *(f"drift: {d}" for d in drifts),
        ],
    )
    if drifts:
        raise typer.Exit(1)


@app.command("list")
def list_(
    models: ModelsOption = None,
    broker: BrokerOption = None,
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The topics of the models as the broker has them.

    For instance: sluice topics list --broker localhost:9092
    """
    from pipeline.cli.output import emit
    from topics.admin import list_topics

    wanted = [m.topics for m in models_of(models)]
    states = list_topics(broker_of(broker), wanted, kafka=kafka_of(kafka, kafka_config))
    emit([state.to_dict() for state in states], as_json, table=_table(states))


@app.command()
def verify(
    models: ModelsOption = None,
    broker: BrokerOption = None,
    partitions: Partitions = None,
    replication: Replication = None,
    acls: WithAcls = False,
    principal: Principals = None,
    client_principal: ClientPrincipals = None,
    group: Group = "sluice",
    kafka: KafkaOption = None,
    kafka_config: KafkaConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what has drifted: missing topics, partitions, copies, leaders, settings; exit code 1 if anything has.

    With --acls also what the principals lack, and what they are allowed beyond their need.

    For instance: sluice topics verify --models ./models --broker localhost:9092
    """
    from pipeline.cli.output import emit
    from topics.acls import verify_acls
    from topics.admin import verify_topics

    wanted, address, settings = [m.topics for m in models_of(models)], broker_of(broker), kafka_of(kafka, kafka_config)
    allowed = _acls(wanted, principal, client_principal, group, given=acls)
    drifts = verify_topics(address, wanted, partitions=partitions, replication=replication, kafka=settings)
    drifts += verify_acls(address, allowed, kafka=settings)
    emit(
        {"ok": not drifts, "drift": [d.to_dict() for d in drifts]},
        as_json,
        table=[str(d) for d in drifts]
        or [f"ok: {3 * len(wanted)} topics{f' and {len(allowed)} ACLs' if acls else ''} as they should be"],
    )
    if drifts:
        raise typer.Exit(1)


def _acls(
    models: Sequence[Topics], workers: list[str] | None, clients: list[str] | None, group: str, *, given: bool
) -> list[Acl]:
    """What is to be allowed; nothing without ``--acls``. Raises `ConfigError` where it is unclear to whom."""
    from pipeline.core.errors import ConfigError
    from topics.acls import client_acls, worker_acls

    if given != bool(workers or clients):
        raise ConfigError("--acls needs --principal or --client-principal, and they need --acls")
    allowed = [acl for name in workers or () for acl in worker_acls(name, models, group)]
    allowed += [acl for name in clients or () for acl in client_acls(name, models)]
    return list(dict.fromkeys(allowed))


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
