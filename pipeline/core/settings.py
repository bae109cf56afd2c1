"""What a worker is told, checked before anything starts."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pipeline.core.errors import ConfigError
from pipeline.core.limits import Limits
from topics.limits import RequestLimits
from topics.secrets import KafkaSettings

__all__ = ["ANSWER_ONCE_S_MAX", "Guarantee", "Settings"]

ANSWER_ONCE_S_MAX = 24 * 3600.0  # what is remembered is in memory: beyond a day a worker has hardly run on

# Settings of librdkafka that the flow's guarantees rest on; passing them through would break I1 or I2.
OWNED = frozenset(
    {
        "bootstrap.servers",
        "group.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "transactional.id",
        "acks",
        "request.required.acks",
        "delivery.report.only.error",
        "go.delivery.reports",
    }
)


class Guarantee(StrEnum):
    """What a consumer of the predictions may rely on."""

    AT_LEAST_ONCE = "at-least-once"
    EXACTLY_ONCE = "exactly-once"


@dataclass(frozen=True, slots=True)
class Settings:
    """One worker's settings. Raises `ConfigError` for what cannot work together.

    ``kafka`` passes any librdkafka setting (SASL, TLS, back-offs) to consumer and producer, except those the
    guarantees rest on. ``instance_id`` is the static membership of this worker (KIP-345): unique in the group.
    ``answer_once_within_s`` has duplicates, of the same ``request-id`` and body, read within it answered once.
    """

    broker: str
    group: str = "sluice"
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE
    offset_reset: Literal["earliest", "latest"] = "earliest"
    instance_id: str | None = None
    kafka: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    request_limits: RequestLimits = field(default_factory=RequestLimits)
    device: str = "auto"  # or cpu, cuda:0, cuda:1, ...: `pipeline.infer.placement`
    threads: int | None = None
    answer_once_within_s: float | None = None
    otlp_endpoint: str | None = field(default=None, repr=False)  # its URL may hold a password
    record_decisions: Path | None = None  # what every window is told and decides, for `sluice explain`

    def __post_init__(self) -> None:
        object.__setattr__(self, "kafka", KafkaSettings(self.kafka))  # is shown without its secrets
        if not self.broker:
            raise ConfigError("no broker: give --broker HOST:PORT")
        if not self.group:
            raise ConfigError("a consumer group needs a name")
        if self.answer_once_within_s is not None and not 0 < self.answer_once_within_s <= ANSWER_ONCE_S_MAX:
            raise ConfigError(f"duplicates are answered once within 0 to {ANSWER_ONCE_S_MAX:.0f} seconds, 0 excluded")
        if owned := sorted(OWNED.intersection(self.kafka)):
            raise ConfigError(f"{', '.join(owned)}: set by the worker itself, its guarantees rest on it")

    def transactional_id(self) -> str | None:
        """Of this worker's producer: begins with the group's name, for ACLs by prefix; None at least once.

        With an ``instance_id`` it is the same after a restart, which fences the worker's former self at once. Without,
        it is new each time: the group's generation fences (KIP-447), and an open transaction times out.
        """
        if self.guarantee is not Guarantee.EXACTLY_ONCE:
            return None
        return f"{self.group}.{self.instance_id or uuid.uuid4().hex}"
