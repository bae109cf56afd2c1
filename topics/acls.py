"""Least privilege on the broker: what the principals of workers and clients must be allowed, and no more.

`worker_acls`, `client_acls`, `plan` and `drift` decide from plain values; `apply_acls` and `verify_acls` ask Kafka and
obey. Nothing is ever taken away here: what a principal has beyond its need is told as drift.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but without __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from topics.admin import Drift
from topics.connect import CONSUMER, Connection
from topics.errors import InputError, KafkaFailed
from topics.names import Topics

__all__ = ["Acl", "apply_acls", "client_acls", "drift", "plan", "verify_acls", "worker_acls"]

_PRINCIPAL = re.compile(r"[A-Za-z]+:.+")


@dataclass(frozen=True, slots=True, order=True)
class Acl:
    """One permission as Kafka keeps it; words are Kafka's own, in lower case.

    ``resource`` is ``topic``, ``group``, ``transactional_id`` or ``broker``; where ``prefixed``, ``name`` is only how
    the name begins.
    """

    principal: str
    resource: str
    name: str
    operation: str
    prefixed: bool = False
    host: str = "*"
    allowed: bool = True

    def __str__(self) -> str:
        kind = "" if self.resource == "topic" else f"{self.resource} "
        host = "" if self.host == "*" else f" from {self.host}"
        return f"{kind}{self.name}{'*' if self.prefixed else ''}: {self.operation} by {self.principal}{host}"

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "principal": self.principal,
            "resource": self.resource,
            "name": self.name,
            "prefixed": self.prefixed,
            "operation": self.operation,
            "host": self.host,
            "allowed": self.allowed,
        }


def worker_acls(principal: str, models: Iterable[Topics], group: str) -> list[Acl]:
    """What a worker does: read requests, write their outcomes, be in its group, have transactions of its own.

    Its transactional ids begin with ``GROUP.``. Kafka before 3.0 also wants IdempotentWrite on the cluster, which no
    broker since asks of who may write to a topic. It may not make topics: it runs with ``--no-apply``.
    """
    allowed = [*_both(principal, "group", group, "read"), *_both(principal, "transactional_id", f"{group}.", "write")]
    for model in models:
        allowed += _both(principal, "topic", model.requests, "read")
        allowed += _both(principal, "topic", model.predictions, "write")
        allowed += _both(principal, "topic", model.dead_letters, "write")
    return allowed


def client_acls(principal: str, models: Iterable[Topics]) -> list[Acl]:
    """What a client does: write requests and read predictions.

    Its reader joins no group, but librdkafka looks for the coordinator of the one it names, and would be refused (and
    the broker log it) again and again.
    """
    allowed = [Acl(principal, "group", str(CONSUMER["group.id"]), "describe", prefixed=True)]
    for model in models:
        allowed += _both(principal, "topic", model.requests, "write")
        allowed += _both(principal, "topic", model.predictions, "read")
    return allowed


def _both(principal: str, resource: str, name: str, operation: str) -> Iterator[Acl]:
    """The permission, and to see that what it is for exists."""
    if not _PRINCIPAL.fullmatch(principal):
        raise InputError(f"principal {principal!r}: write TYPE:NAME, such as User:worker")
    for each in (operation, "describe"):
        yield Acl(principal, resource, name, each, prefixed=resource == "transactional_id")


def plan(wanted: Iterable[Acl], found: Iterable[Acl]) -> list[Acl]:
    """What is to be created, each once and in order."""
    return sorted(set(wanted) - set(found))


def drift(wanted: Iterable[Acl], found: Iterable[Acl]) -> list[Drift]:
    """What the principals of ``wanted`` lack, and what they have beyond it: neither is least privilege."""
    wanted, found = set(wanted), set(found)
    principals = {acl.principal for acl in wanted}
    extra = {acl for acl in found - wanted if acl.principal in principals}
    return [
        *(_told(acl, "allowed", "missing") for acl in sorted(wanted - found)),
        *(_told(acl, "left out", "allowed" if acl.allowed else "denied") for acl in sorted(extra)),
    ]


def _told(acl: Acl, expected: str, found: str) -> Drift:
    where, _, what = str(acl).partition(": ")
    return Drift(where, what, expected, found)


def apply_acls(
    broker: str, wanted: Sequence[Acl], *, kafka: Mapping[str, str] | None = None, timeout_s: float = 30.0
) -> list[Acl]:
    """Create what is missing of ``wanted`` and return it; running it again changes nothing.

    Returns once the broker that is asked knows of all. Raises `KafkaFailed`.
    """
    connection = Connection(broker, kafka)
    admin = connection.admin()
    until_s = time.monotonic() + timeout_s
    missing = plan(wanted, _found(connection, admin, wanted, timeout_s))
    bindings = [_binding(acl) for acl in missing]
    try:
        for future in admin.create_acls(bindings, request_timeout=timeout_s).values() if bindings else ():
            future.result()
    except KafkaException as error:
        raise connection.failed("cannot create ACLs", error, admin) from error
    while plan(missing, _found(connection, admin, missing, timeout_s)):  # the controller has them, this broker not yet
        if time.monotonic() > until_s:
            raise KafkaFailed(f"ACLs were created, but {broker} does not know of them after {timeout_s:g} s")
        time.sleep(0.05)
    return missing


def verify_acls(
    broker: str, wanted: Sequence[Acl], *, kafka: Mapping[str, str] | None = None, timeout_s: float = 10.0
) -> list[Drift]:
    """Where the broker's permissions of these principals are not ``wanted``. Raises `KafkaFailed`."""
    connection = Connection(broker, kafka)
    return drift(wanted, _found(connection, connection.admin(), wanted, timeout_s))


def _found(connection: Connection, admin: AdminClient, wanted: Sequence[Acl], timeout_s: float) -> list[Acl]:
    """All that the broker has of the principals of ``wanted``."""
    found: list[Acl] = []
    anything: Any = None
    for principal in sorted({acl.principal for acl in wanted}):
        everything = AclBindingFilter(
            ResourceType.ANY,
            anything,
            ResourcePatternType.ANY,
            principal,
            anything,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        try:
            bindings = admin.describe_acls(everything, request_timeout=timeout_s).result()
        except KafkaException as error:
            raise connection.failed("cannot look at the ACLs", error, admin) from error
        found += map(_acl, bindings)
    return found


def _binding(acl: Acl) -> AclBinding:
    return AclBinding(
        ResourceType[acl.resource.upper()],
        acl.name,
        ResourcePatternType.PREFIXED if acl.prefixed else ResourcePatternType.LITERAL,
        acl.principal,
        acl.host,
        AclOperation[acl.operation.upper()],
        AclPermissionType.ALLOW if acl.allowed else AclPermissionType.DENY,
    )


def _acl(binding: AclBinding) -> Acl:
    return Acl(
        binding.principal,
        ResourceType(binding.restype).name.lower(),
        binding.name,
        AclOperation(binding.operation).name.lower(),
        prefixed=binding.resource_pattern_type == ResourcePatternType.PREFIXED,
        host=binding.host,
        allowed=binding.permission_type == AclPermissionType.ALLOW,
    )
