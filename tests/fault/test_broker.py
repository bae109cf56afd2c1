"""Faults of the broker and of the network to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline.local import EmbeddedKafka
from tests.contract.refusing import HOLD_S, Refusing, broker_behind_a_proxy
from tests.fault.conftest import MakeScene
from tests.fault.toxiproxy import Toxiproxy
from tests.fault.workload import one_by_one

AT_LEAST, EXACTLY = "at-least-once", "exactly-once"
BOTH = pytest.mark.parametrize("guarantee", [AT_LEAST, EXACTLY])
LONG = pytest.mark.long
RATE_PER_S = 1000


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("guarantee", [pytest.param(AT_LEAST, marks=LONG), EXACTLY])
def test_f7_the_broker_is_killed(scene: MakeScene, own_broker: EmbeddedKafka, guarantee: str, long: bool) -> None:
    with scene("F7", "broker killed -9, restarted", guarantee, broker=own_broker.bootstrap) as at:
        at.start()
        look = at.supervise()
        with at.client.steadily(RATE_PER_S):
            for _ in range(2 if long else 1):
                at.pause(1.0)
                own_broker.kill()
                at.injected(broker_kills=1)
                at.pause(2.0, look)
                own_broker.restart()
                at.wait_for_outcomes(at.produced(), look)
        at.finish(meanwhile=look)


@BOTH
@LONG
def test_f7_the_broker_is_frozen(scene: MakeScene, own_broker: EmbeddedKafka, guarantee: str) -> None:
    with scene("F7", "broker SIGSTOPped 30 s", guarantee, broker=own_broker.bootstrap) as at:
        at.start()
        look = at.supervise()
        with at.client.steadily(RATE_PER_S):
            at.pause(1.0)
            with frozen(own_broker.pid):
                at.injected()
                at.pause(30.0, look)
            at.wait_for_outcomes(at.produced(), look)
        at.finish(meanwhile=look)


@BOTH
@LONG
def test_f13_deliveries_fail(scene: MakeScene, own_broker: EmbeddedKafka, guarantee: str) -> None:
    """Librdkafka gives records up; they are produced again, behind later ones: order per key ends here."""
    options = {"message.timeout.ms": 1000}
    with scene("F13", "predictions given up by librdkafka", guarantee, broker=own_broker.bootstrap) as at:
        at.start(kafka=options)
        look = at.supervise(kafka=options)
        with at.client.steadily(RATE_PER_S):
            for _ in range(3):
                at.pause(1.0)
                with frozen(own_broker.pid):
                    at.injected()
                    at.pause(3.0, look)
                at.wait_for_outcomes(at.produced(), look)
        at.finish(meanwhile=look, ordered=guarantee == EXACTLY)


@pytest.fixture(scope="module")
def proxied() -> Iterator[tuple[EmbeddedKafka, Toxiproxy, str]]:
    """A broker with a second listener, the proxy that it is advertised at, and the proxy's address."""
    with Toxiproxy() as proxy, broker_behind_a_proxy() as (kafka, address):
        proxy.open(address, kafka.listener("PROXIED"))
        yield kafka, proxy, address


def test_f13_a_partitions_first_predictions_are_refused_and_the_next_taken(scene: MakeScene) -> None:
    """To librdkafka the broker's word for the next ones is one for the first, too; exactly once has its own test."""
    options = {"linger.ms": 0}  # few records are in a request: with 5 and more of a partition in the air no next one is
    with (
        broker_behind_a_proxy() as (kafka, address),
        scene(
            "F13",
            "first predictions refused, next taken",
            AT_LEAST,
            broker=kafka.bootstrap,
            worker_broker=address,
            workload=one_by_one,
        ) as at,
        Refusing(address, kafka.listener("PROXIED"), at.topics.predictions) as way,
    ):
        at.start(kafka=options)
        look = at.supervise(kafka=options)
        at.injected()
        at.client.send(1)  # by its prediction the producer learns the partitions
        at.pause(HOLD_S / 2)
        at.client.send(4000)
        at.finish(meanwhile=look, ordered=False)
        assert min(way.refused.values()) < 5, way.refused


@LONG
def test_f14_a_transaction_times_out_under_its_producer(scene: MakeScene, own_broker: EmbeddedKafka) -> None:
    """The broker has aborted it and fenced the producer when the worker, a member all the while, goes on."""
    options = {"transaction.timeout.ms": 2000}
    with scene("F14", "producer fenced by its transaction's time-out", EXACTLY, broker=own_broker.bootstrap) as at:
        at.start(kafka=options)
        look = at.supervise(kafka=options)
        with at.client.steadily(RATE_PER_S):
            for _ in range(3):
                at.pause(1.0)
                with frozen(at.workers[0].process.pid):
                    at.injected()
                    at.pause(12.0)  # the broker looks for such transactions every 10 s
                at.pause(1.0, look)
                at.wait_for_outcomes(at.produced(), look)
        at.finish(meanwhile=look)


@BOTH
@LONG
@pytest.mark.parametrize(
    ("what", "seconds"), [("connection cut 60 s", 60), ("latency 100 ms", 15), ("bandwidth 3 Mbit/s", 15)]
)
def test_f16_the_network(
    scene: MakeScene,
    proxied: tuple[EmbeddedKafka, Toxiproxy, str],
    guarantee: str,
    what: str,
    seconds: int,
) -> None:
    """Only the workers' way is harmed: clients go on, and what waits is in Kafka."""
    kafka, proxy, address = proxied
    with scene("F16", what, guarantee, broker=kafka.bootstrap, worker_broker=address) as at:
        at.start()
        look = at.supervise()
        with at.client.steadily(RATE_PER_S):
            at.pause(1.0)
            with proxy.harmed(what.split(maxsplit=1)[0]):
                at.injected()
                at.pause(seconds, look)
            at.wait_for_outcomes(at.produced(), look)
        at.finish(meanwhile=look)
