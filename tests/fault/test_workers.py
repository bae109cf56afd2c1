"""Faults of workers: killed, stopped, frozen, bounced, fenced."""

from __future__ import annotations

import signal
import time

import pytest

from tests.contract.worker import Worker
from tests.fault.conftest import MakeScene
from tests.fault.scene import Scene
from tests.fault.workload import slow

AT_LEAST, EXACTLY = "at-least-once", "exactly-once"
BOTH = pytest.mark.parametrize("guarantee", [AT_LEAST, EXACTLY])
LONG = pytest.mark.long

RATE_PER_S = 1000
ONLY = ("--instance-id", "only")  # static membership: the next one need not wait for the last to time out
# A frozen worker is out of the group after 3 s, and its own consumer knows that it has not polled for 5.
IMPATIENT = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 500, "max.poll.interval.ms": 5000}
FROZEN_S = 8.0


@BOTH
def test_f1_killed_in_the_middle_of_batches(scene: MakeScene, guarantee: str, long: bool) -> None:
    with scene("F1", "worker killed -9 mid-batch", guarantee, workload=slow) as at:
        for _ in range(20 if long else 3):
            at.client.send(10_000)
            before, worker = at.produced(), at.start(*ONLY)
            at.wait_for_outcomes(before + 1000)
            at.kill(worker)
            assert at.committed() < len(at.client.sent), "killed too late"
        at.start(*ONLY)
        at.finish()


@BOTH
@LONG
def test_f2_told_to_stop_under_load(scene: MakeScene, guarantee: str) -> None:
    """Drained, committed, exit 0, within the budget of `Scene.stop`: a clean stop repeats nothing."""
    with scene("F2", "SIGTERM, Ctrl-C under load", guarantee) as at:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            worker = at.start(*ONLY)
            with at.client.steadily(RATE_PER_S):
                at.pause(1.0)
                at.injected()
                assert worker.stop(number, timeout_s=40) == 0
            at.workers.remove(worker)
        at.start(*ONLY)
        at.finish(repeats=False)


@pytest.mark.parametrize("guarantee", [pytest.param(AT_LEAST, marks=LONG), EXACTLY])
def test_f4_frozen_until_its_partitions_are_another_ones(scene: MakeScene, guarantee: str, long: bool) -> None:
    """A zombie that wakes: its commits and transactions are refused, what it publishes is a repeat at most."""
    with scene("F4", "worker SIGSTOPped past its session", guarantee) as at:
        frozen, other = at.start(kafka=IMPATIENT), at.start(kafka=IMPATIENT)
        at.wait_for_members(2)
        look = at.supervise(kafka=IMPATIENT)
        with at.client.steadily(RATE_PER_S):
            for _ in range(2 if long else 1):
                at.pause(1.0)
                frozen.process.send_signal(signal.SIGSTOP)
                at.injected(rebalances=2)
                at.pause(FROZEN_S)
                frozen.process.send_signal(signal.SIGCONT)
                at.wait_for_members(2)
                look()
                frozen, other = other, at.workers[0]
        at.finish(meanwhile=look)


@BOTH
@LONG
def test_f6_every_worker_bounced_in_turn(scene: MakeScene, guarantee: str) -> None:
    with scene("F6", "all workers bounced cleanly", guarantee) as at:
        workers = [at.start() for _ in range(2)]
        at.wait_for_members(2)
        with at.client.steadily(RATE_PER_S):
            for _ in range(3):
                for _ in range(2):
                    at.stop(workers.pop(0))
                    workers.append(at.start())
                    at.injected(rebalances=2)
                    at.wait_for_members(2)
        at.finish(repeats=False)


@BOTH
@LONG
def test_f8_a_worker_joins_or_leaves_every_two_seconds(scene: MakeScene, guarantee: str) -> None:
    """For a minute; one stays all the time."""
    with scene("F8", "a worker joins or leaves every 2 s", guarantee, partitions=8) as at:
        at.start()
        guests: list[Worker] = []
        with at.client.steadily(RATE_PER_S):
            end_s, turn = time.monotonic() + 60, 0
            while time.monotonic() < end_s:
                next_s, turn = time.monotonic() + 2, turn + 1
                if turn % 2:
                    guests.append(at.start())
                    at.injected(rebalances=1)
                else:
                    at.stop(guests.pop(0))
                    at.injected(rebalances=1)
                at.wait_for_outcomes(at.produced())
                at.pause(next_s - time.monotonic())
        at.finish()


def slow_sink(at: Scene, linger_ms: int) -> None:
    """The first worker's records wait in its producer for ``linger_ms`` when the second one joins."""
    slow = at.start(kafka={"linger.ms": linger_ms})
    at.client.send(2000)
    at.pause(0.5)  # all of it is polled and computed by now, and waits to be sent
    at.injected(rebalances=1)
    at.start()
    at.wait_for_members(2)
    at.client.send(2000)
    at.stop(slow)


@LONG
def test_f9_revoked_while_the_sink_is_slow(scene: MakeScene) -> None:
    """Acknowledged within the deadline of the drain: released only then, so nothing is repeated."""
    with scene("F9", "revoked, acks 3 s late", AT_LEAST) as at:
        slow_sink(at, 3000)
        at.finish(repeats=False)


@LONG
def test_f10_acknowledged_after_the_revoke(scene: MakeScene) -> None:
    """Later than the deadline: given back unfinished, answered by the next owner; what is late commits nothing."""
    with scene("F10", "revoked, acks 25 s late", AT_LEAST) as at:
        slow_sink(at, 25_000)
        assert at.finish().repeated > 0


@pytest.mark.parametrize("guarantee", [pytest.param(AT_LEAST, marks=LONG), EXACTLY])
def test_f15_the_same_identity_twice(scene: MakeScene, guarantee: str, long: bool) -> None:
    """The older one is fenced and exits with 1, clearly."""
    with scene("F15", "a second worker of the same identity", guarantee) as at:
        with at.client.steadily(RATE_PER_S):
            for _ in range(3 if long else 1):
                old = at.start(*ONLY)
                at.pause(0.5)
                at.injected()
                at.start(*ONLY)
                assert old.process.wait(60) == 1
                at.workers.remove(old)
                assert "fenced" in old.log.read_text().lower()
                at.stop(at.workers[0])
            at.start(*ONLY)
        at.finish()
