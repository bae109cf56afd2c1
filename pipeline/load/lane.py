"""A lane: what one run has for itself, so that nothing of an earlier run helps or hinders it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from pipeline.load.peers.arguments import LINGER_MS
from pipeline.load.process import run_module
from pipeline.load.readback import end_offsets
from pipeline.models import Model
from pipeline.models.manifest import MANIFEST
from topics.connect import Connection

__all__ = ["Lane", "open_lane"]

ASK_S_MAX = 10.0
TOPICS_S_MAX = 15.0  # to create or delete three topics; a busy single node takes up to a second


@dataclass(frozen=True, slots=True)
class Lane:
    """A model under a name of its own in a repository of its own, its topics, and a folder for logs."""

    broker: str
    partitions: int
    folder: Path
    model: Model

    @property
    def repository(self) -> Path:
        """The repository that holds nothing but the lane's model."""
        return self.folder / "models"

    @property
    def admin(self) -> AdminClient:
        """A fresh admin client."""
        return Connection(self.broker).admin()

    def peer_arguments(self, linger_ms: float = LINGER_MS) -> list[str]:
        """The command line of a peer (`pipeline.load.peers.arguments`)."""
        topics = self.model.topics
        return [
            *("--broker", self.broker, "--group", self.model.name),
            *("--requests", topics.requests, "--predictions", topics.predictions),
            *("--onnx", str(self.model.file), "--label", self.model.label, "--linger-ms", str(linger_ms)),
        ]

    def serve_arguments(self, *options: str) -> list[str]:
        """The command line of ``sluice serve``, all else at its defaults."""
        where = ["--models", str(self.repository), "--broker", self.broker, "--group", self.model.name]
        return ["serve", *where, *options]

    def published(self) -> Callable[[], int]:
        """Asks how many records were published; transactions count too many: markers, and what was aborted."""
        admin = self.admin
        return lambda: sum(end_offsets(admin, self.model.topics.predictions, self.partitions))

    def committed(self) -> Callable[[], int]:
        """Asks how many requests the group has committed, which a transaction does with the answers."""
        # Not the admin client: librdkafka (2.16) crashes where a group's coordinator has only just started.
        reader = Connection(self.broker).consumer(group_id=self.model.name)
        places = [TopicPartition(self.model.topics.requests, partition) for partition in range(self.partitions)]
        return lambda: sum(max(place.offset, 0) for place in reader.committed(places, ASK_S_MAX))

    def preload(
        self, count: int, content_type: str, *, rows: int = 1, distinct: int = 4096, sampled: float | None = None
    ) -> None:
        """Fill the request topic from a process of its own; ``sampled`` is the share of traces to be recorded."""
        run_module(
            "pipeline.load.preload",
            [
                *("--broker", self.broker, "--topic", self.model.topics.requests),
                *("--repository", str(self.repository), "--model", self.model.name),
                *("--count", str(count), "--content-type", content_type, "--rows", str(rows)),
                *("--distinct", str(distinct), "--partitions", str(self.partitions)),
                *(() if sampled is None else ("--sampled", str(sampled))),
            ],
        )


@contextmanager
def open_lane(broker: str, folder: Path, model: Model, name: str, partitions: int) -> Iterator[Lane]:
    """A lane for one run, gone at its end: ``model`` is copied as ``MODEL-NAME`` and gets fresh topics.

    The log of a failed run stays in ``folder``. Raises `KafkaFailed` where the topics cannot be created.
    """
    place = folder / name
    manifest = replace(model.manifest, name=f"{model.name}-{name}")
    copy = place / "models" / manifest.name / manifest.version
    shutil.copytree(model.path, copy)
    (copy / MANIFEST).write_text(manifest.to_toml(), encoding="utf-8")
    lane = Lane(broker, partitions, place, Model(manifest, copy))
    topics = lane.model.topics
    connection = Connection(broker)
    admin = connection.admin()
    # The broker's own clock on every answer: `pipeline.load.readback` reads the rate from it.
    stamped = {"message.timestamp.type": "LogAppendTime"}
    configs = {topics.requests: {}, topics.predictions: stamped, topics.dead_letters: {}}
    wanted = [NewTopic(topic, partitions, config=config) for topic, config in configs.items()]
    try:
        for created in admin.create_topics(wanted, request_timeout=TOPICS_S_MAX).values():
            created.result()
    except KafkaException as error:
        raise connection.failed(f"create the topics of {manifest.name}", error) from error
    try:
        yield lane
        shutil.rmtree(place)
    finally:
        # What is measured next must not share the machine with a deletion, so this waits for it.
        for deleted in admin.delete_topics(list(configs), request_timeout=TOPICS_S_MAX).values():
            deleted.result()
