"""A model's topics on the broker: create what is missing, list what is there, tell what has drifted.

`plan` and `drift` decide from plain states; the functions above them ask Kafka and obey. Nothing is ever
shrunk, deleted or reconfigured here, and partitions are added only where asked: a key's partition changes
with their number.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but without __all__
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from topics.connect import Connection
from topics.errors import KafkaFailed
from topics.names import Topics

__all__ = ["Applied", "Drift", "TopicState", "apply_topics", "drift", "list_topics", "plan", "verify_topics"]

PARTITIONS = 4
# A dead letter is its request plus headers: source, model, code, reason (4,096 characters) and the rest.
DEAD_LETTER_HEADROOM_BYTES = 16 * 1024
CONFIGS = ("cleanup.policy", "compression.type", "max.message.bytes", "min.insync.replicas", "retention.ms")
# A limit on a compressed batch does not bound what it holds: 6 kB of zstd became a value that no dead-letter topic
# took, and ended each worker that read it. So the broker unpacks what it is given, and its limit is on that.
REQUEST_CONFIGS = {"compression.type": "uncompressed"}
BROKER_DEFAULT = -1  # what CreateTopics takes for "the broker's default replication factor"


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as the broker has it; ``partitions`` is 0 where it is missing."""

    topic: str
    partitions: int = 0
    replication: int = 0
    leaderless: int = 0
    configs: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> bool:
        return self.partitions == 0

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "topic": self.topic,
            "missing": self.missing,
            "partitions": self.partitions,
            "replication": self.replication,
            "leaderless": self.leaderless,
            "configs": dict(self.configs),
        }


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply_topics` did with one topic: ``created``, ``grown`` (partitions added) or ``kept``."""

    topic: str
    action: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between what a model's topics should be and what the broker has."""

    topic: str
    what: str
    expected: str
    found: str

    def to_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return {"topic": self.topic, "what": self.what, "expected": self.expected, "found": self.found}

    def __str__(self) -> str:
        return f"{self.topic}: {self.what} is {self.found}, should be {self.expected}"


def apply_topics(
    broker: str,
    models: Iterable[Topics],
    *,
    partitions: int | None = None,
    replication: int | None = None,
    grow: bool = False,
    kafka: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> list[Applied]:
    """Create the missing topics of ``models``; running it again changes nothing.

    ``partitions`` of request topics (`PARTITIONS` where not given); predictions and dead letters get as many as
    the requests have. With ``grow`` existing topics with fewer get more. ``replication`` None is the broker's
    default. Returns once every topic created has leaders. Raises `KafkaFailed`.
    """
    wanted = list(models)
    connection = Connection(broker, kafka)
    admin = connection.admin()
    until_s = time.monotonic() + timeout_s
    before = _states(connection, admin, wanted, timeout_s)
    steps = plan(wanted, before, partitions, grow=grow)
    # Requests first: their effective max.message.bytes decides that of the dead letters.
    requests = {model.requests for model in wanted}
    unpacked = dict.fromkeys(requests, REQUEST_CONFIGS)
    _perform(connection, admin, [s for s in steps if s.topic in requests], replication, unpacked, timeout_s)
    _await_leaders(connection, admin, [s for s in steps if s.topic in requests], until_s)
    now = {state.topic: state for state in _states(connection, admin, wanted, timeout_s)}
    configs = {
        model.dead_letters: {"max.message.bytes": str(_dead_letter_bytes(now[model.requests]))}
        for model in wanted
        if "max.message.bytes" in now[model.requests].configs
    }
    rest = [s for s in steps if s.topic not in requests]
    _perform(connection, admin, rest, replication, configs, timeout_s)
    _await_leaders(connection, admin, rest, until_s)
    return steps


def list_topics(
    broker: str, models: Iterable[Topics], *, kafka: Mapping[str, str] | None = None, timeout_s: float = 10.0
) -> list[TopicState]:
    """The three topics of each model as they are, missing ones included, in order. Raises `KafkaFailed`."""
    connection = Connection(broker, kafka)
    return _states(connection, connection.admin(), list(models), timeout_s)


def verify_topics(
    broker: str,
    models: Iterable[Topics],
    *,
    partitions: int | None = None,
    replication: int | None = None,
    kafka: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> list[Drift]:
    """What keeps these topics from serving their models; empty means none. Raises `KafkaFailed`."""
    wanted = list(models)
    states = list_topics(broker, wanted, kafka=kafka, timeout_s=timeout_s)
    return drift(wanted, states, partitions, replication)


def plan(
    models: Sequence[Topics], states: Iterable[TopicState], partitions: int | None, *, grow: bool
) -> list[Applied]:
    """What to do with each topic of ``models``, given what there is."""
    have = {state.topic: state.partitions for state in states}
    steps = []
    for model in models:
        answered, asked = have[model.predictions], partitions or 0
        wanted = have[model.requests] or asked or answered or PARTITIONS
        if grow:
            wanted = max(wanted, answered, asked)
        for topic in (model.requests, model.predictions, model.dead_letters):
            now = have[topic]
            action = "created" if not now else "grown" if grow and now < wanted else "kept"
            steps.append(Applied(topic, action, now if action == "kept" else wanted))
    return steps


def drift(
    models: Sequence[Topics],
    states: Iterable[TopicState],
    partitions: int | None = None,
    replication: int | None = None,
) -> list[Drift]:
    """Every difference that would lose, refuse or misplace a record; ``partitions`` and ``replication`` where asked."""
    have = {state.topic: state for state in states}
    found: list[Drift] = []
    for model in models:
        requests = have[model.requests]
        for topic in (model.requests, model.predictions, model.dead_letters):
            state = have[topic]
            if state.missing:
                found.append(Drift(topic, "topic", "there", "missing"))
                continue
            like = partitions or requests.partitions
            if topic != model.dead_letters and like and state.partitions != like:
                found.append(Drift(topic, "partitions", str(like), str(state.partitions)))
            copies = replication or requests.replication
            if copies and state.replication != copies:
                found.append(Drift(topic, "replication", str(copies), str(state.replication)))
            if state.leaderless:
                found.append(Drift(topic, "partitions without a leader", "0", str(state.leaderless)))
            found.extend(_config_drift(state))
        packed = requests.configs.get("compression.type", "uncompressed")
        if packed != "uncompressed":  # a small batch may then hold a request that no dead-letter topic takes
            found.append(Drift(model.requests, "compression.type", "uncompressed", packed))
        dead_letters = have[model.dead_letters]
        size, least = dead_letters.configs.get("max.message.bytes"), _dead_letter_bytes(requests)
        if size is not None and not requests.missing and int(size) < least:
            # Otherwise the largest requests could never be dead-lettered, and their partition would stand still.
            found.append(Drift(model.dead_letters, "max.message.bytes", f"at least {least}", size))
    return found


def _config_drift(state: TopicState) -> Iterable[Drift]:
    policy = state.configs.get("cleanup.policy", "delete")
    if policy != "delete":  # compaction would drop all but the last request of a key
        yield Drift(state.topic, "cleanup.policy", "delete", policy)
    in_sync = int(state.configs.get("min.insync.replicas", "1"))
    if in_sync > state.replication:  # acks=all could never be given
        yield Drift(state.topic, "min.insync.replicas", f"at most {state.replication}", str(in_sync))


def _dead_letter_bytes(requests: TopicState) -> int:
    return int(requests.configs.get("max.message.bytes", "0")) + DEAD_LETTER_HEADROOM_BYTES


def _states(connection: Connection, admin: AdminClient, models: Sequence[Topics], timeout_s: float) -> list[TopicState]:
    names = [topic for model in models for topic in (model.requests, model.predictions, model.dead_letters)]
    try:
        # Of all topics: asking for one by name could make the broker create it.
        known = admin.list_topics(timeout=timeout_s).topics
        there = [name for name in names if name in known and known[name].error is None]
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in there]
        described = admin.describe_configs(resources, request_timeout=timeout_s) if resources else {}
        configs = {resource.name: future.result() for resource, future in described.items()}
    except KafkaException as error:
        raise connection.failed("cannot look at the topics", error, admin) from error
    states = []
    for name in names:
        parts = list(known[name].partitions.values()) if name in there else []
        states.append(
            TopicState(
                name,
                len(parts),
                min((len(part.replicas) for part in parts), default=0),
                sum(part.leader < 0 for part in parts),
                {key: configs[name][key].value for key in CONFIGS if name in configs and key in configs[name]},
            )
        )
    return states


def _perform(
    connection: Connection,
    admin: AdminClient,
    steps: Sequence[Applied],
    replication: int | None,
    configs: Mapping[str, Mapping[str, str]],
    timeout_s: float,
) -> None:
    new = [
        NewTopic(s.topic, s.partitions, replication or BROKER_DEFAULT, config=dict(configs.get(s.topic, {})))
        for s in steps
        if s.action == "created"
    ]
    more = [NewPartitions(s.topic, s.partitions) for s in steps if s.action == "grown"]
    created = {s.topic for s in steps if s.action == "created"}
    futures: dict[str, Future[None]] = {}
    if new:
        futures |= admin.create_topics(new, request_timeout=timeout_s)
    if more:
        futures |= admin.create_partitions(more, request_timeout=timeout_s)
    for topic, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            # Another worker was faster: what it made is looked at by `verify_topics`, not here.
            # Nor are partitions that another has added meanwhile.
            done = KafkaError.TOPIC_ALREADY_EXISTS if topic in created else KafkaError.INVALID_PARTITIONS
            if error.args[0].code() != done:
                raise connection.failed(f"cannot create topic {topic}", error) from error


def _await_leaders(connection: Connection, admin: AdminClient, steps: Sequence[Applied], until_s: float) -> None:
    waiting = {s.topic: s.partitions for s in steps if s.action != "kept"}
    while waiting:
        try:
            known = admin.list_topics(timeout=5).topics
        except KafkaException as error:
            raise connection.failed("cannot look at the topics", error) from error
        for topic, count in list(waiting.items()):
            parts = known[topic].partitions.values() if topic in known else ()
            if sum(part.leader >= 0 for part in parts) >= count:
                del waiting[topic]
        if waiting and time.monotonic() > until_s:
            raise KafkaFailed(f"created, but still without a leader: {', '.join(sorted(waiting))}")
        if waiting:
            time.sleep(0.05)
