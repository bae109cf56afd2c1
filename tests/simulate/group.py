"""The consumer group as its coordinator has it: members, generations, owners, committed offsets (KIP-429, KIP-447)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException

from tests.simulate.machine import Machine

__all__ = ["Group", "Membership"]

Membership = tuple[str, int]
"""Member id and generation; ``("", -1)`` is what librdkafka gives after the coordinator has thrown it out."""

HEARD_NS_MAX = 10_000_000


class Member(Protocol):
    """A consumer, as the coordinator reaches it."""

    def hear(self, membership: Membership, assigned: list[int], revoked: list[int]) -> None:
        """The generation, and what changes for this member; some time after it was decided."""
        ...

    def hear_removed(self, member_id: str) -> None: ...


class Group:
    """Cooperative: what a member is to give up is another's only after it said that it has, or was thrown out."""

    def __init__(self, machine: Machine, partitions: int) -> None:
        self._machine = machine
        self.members: dict[str, Member] = {}
        self.owners: dict[int, str | None] = dict.fromkeys(range(partitions))
        self.committed: dict[int, int] = {}
        self.pending = dict.fromkeys(range(partitions), 0)  # open transactions with an offset: who asks must wait
        self.generation = 0
        self.refused = 0  # commits
        self._target: dict[int, str] = {}
        self._revoking: set[int] = set()
        self._ids = 0
        self._told_ns: dict[str, int] = {}

    def join(self, member: Member) -> str:
        self._ids += 1
        member_id = f"member-{self._ids}"
        self.members[member_id] = member
        self.rebalance()
        return member_id

    def remove(self, member_id: str) -> None:
        """It left, its session timed out, or it polled too late."""
        if self.members.pop(member_id, None) is None:
            return
        for partition, owner in self.owners.items():
            if owner == member_id:
                self.owners[partition] = None
                self._revoking.discard(partition)
        self.rebalance()

    def kick(self, member_id: str) -> None:
        """Thrown out; it learns of it later."""
        if (member := self.members.get(member_id)) is not None:
            self.remove(member_id)
            self._tell(member_id, member.hear_removed, member_id)

    def rebalance(self) -> None:
        """Share the partitions out anew, at random; a member keeps some that it would not need to."""
        random = self._machine.random
        ids = list(self.members)
        for partition, owner in self.owners.items():
            if owner not in self.members or random.random() < 0.5:
                self._target[partition] = random.choice(ids) if ids else ""
            else:
                self._target[partition] = owner
        self._next_generation()

    def released(self, member_id: str, partitions: Iterable[int]) -> None:
        """A member has given these up and joins again."""
        if member_id not in self.members:
            return
        for partition in partitions:
            if self.owners[partition] == member_id:
                self.owners[partition] = None
                self._revoking.discard(partition)
        self._next_generation()

    def _next_generation(self) -> None:
        self.generation += 1
        for member_id, member in self.members.items():
            assigned, revoked = [], []
            for partition, owner in self.owners.items():
                mine = self._target.get(partition) == member_id
                if owner is None and mine:
                    self.owners[partition] = member_id
                    assigned.append(partition)
                elif owner == member_id and not mine and partition not in self._revoking:
                    self._revoking.add(partition)
                    revoked.append(partition)
            self._tell(member_id, member.hear, (member_id, self.generation), assigned, revoked)

    def _tell(self, member_id: str, call: Callable[..., None], *args: object) -> None:
        """Some time later, and not before what it was told before."""
        soon_ns = self._machine.now_ns + int(self._machine.random.random() * HEARD_NS_MAX)
        self._told_ns[member_id] = at_ns = max(soon_ns, self._told_ns.get(member_id, 0))
        self._machine.at(at_ns, call, *args)

    # --- commits ---------------------------------------------------------------------------------------------------

    def check(self, membership: Membership, *, transactional: bool) -> None:
        """Raise what the coordinator answers to a commit of this membership."""
        member_id, generation = membership
        if generation < 0 and not member_id and (transactional or not self.members):
            return  # taken for a producer that knows nothing of KIP-447, or a consumer without a group
        if member_id in self.members and generation == self.generation:
            return
        self.refused += 1
        code = KafkaError.ILLEGAL_GENERATION if member_id in self.members else KafkaError.UNKNOWN_MEMBER_ID
        raise KafkaException(KafkaError(code, txn_requires_abort=transactional))

    def commit(self, offsets: Mapping[int, int]) -> None:
        self.committed.update(offsets)
