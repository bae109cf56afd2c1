"""How much may be in flight, and which topics wait for more important ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
from confluent_kafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.limits import Limits
from pipeline.intake import Demand
from pipeline.intake.consumer import ConsumerLike
from pipeline.intake.pauses import Pauses
from pipeline.intake.pressure import Allowed, Pressure

LIMITS = Limits(drain_ms_max=20_000, in_flight_requests_max=10_000)
MS = 1e6


@pytest.mark.parametrize(
    ("demand", "in_flight", "requests"),
    [
        (Demand(), 0, 10_000),
        (Demand(request_ns=0.1 * MS), 0, 10_000),
        (Demand(request_ns=10 * MS), 0, 1000),  # ten seconds of the device, half of a drain
        (Demand(request_ns=10 * MS), 400, 1000),
        (Demand(request_ns=10 * MS), 5000, 1000),  # they have become dearer since they were polled
        (Demand(request_ns=10_000 * MS, batch_requests=8), 0, 8),  # what fills a batch may always be there
    ],
)
def test_what_is_in_flight_is_drained_within_half_of_the_time_for_it(
    demand: Demand, in_flight: int, requests: int
) -> None:
    assert Pressure(LIMITS).allowed({"a": demand}, {"a": in_flight}) == Allowed(requests)


def test_the_time_is_shared_with_what_other_topics_have_in_flight() -> None:
    demands = {"a": Demand(request_ns=10 * MS), "b": Demand(request_ns=1 * MS)}
    # Of ten seconds b has two: 800 of the dearer ones take what is left.
    assert Pressure(LIMITS).allowed(demands, {"b": 2000}) == Allowed(2000 + 800)


def test_with_transactions_as_many_again_may_be_in_flight() -> None:
    for pressure, most in ((Pressure(LIMITS), 10_000), (Pressure(LIMITS, transactions=True), 20_000)):
        assert pressure.allowed({"a": Demand(1000)}, {}) == Allowed(most)


@pytest.mark.parametrize(
    ("important", "in_flight", "held"),
    [
        (Demand(1 * MS, priority=9, slo_ns=100 * MS), (50, 100), ""),
        (Demand(1 * MS, priority=9, slo_ns=100 * MS), (51, 100), "b"),  # half of the SLO is gone with the last of them
        (Demand(1 * MS, priority=9), (51, 100), ""),
        (Demand(1 * MS, priority=9), (0, 5000), ""),
        (Demand(1 * MS, priority=9), (0, 5001), "b"),  # half of the drain
        (Demand(0.001 * MS, priority=9), (4900, 101), "b"),  # half of the requests that may be in flight
        (Demand(1 * MS, priority=5, slo_ns=100 * MS), (1000, 8000), ""),  # no more important than b
        (Demand(1 * MS, priority=4, slo_ns=100 * MS), (1000, 1000), ""),
        (Demand(1 * MS, priority=4, slo_ns=100 * MS), (1000, 8000), "a"),
    ],
)
def test_less_important_topics_wait_while_others_have_enough_to_do(
    important: Demand, in_flight: tuple[int, int], held: str
) -> None:
    demands = {"a": important, "b": Demand(1 * MS)}
    assert Pressure(LIMITS).allowed(demands, dict(zip("ab", in_flight, strict=True))).held == set(held)


@pytest.mark.parametrize(("in_flight", "held"), [(3333, ""), (3334, "c"), (6666, "c"), (6667, "bc")])
def test_the_least_important_waits_first(in_flight: int, held: str) -> None:
    demands = {topic: Demand(1 * MS, priority=priority) for topic, priority in (("a", 9), ("b", 5), ("c", 0))}
    assert Pressure(LIMITS).allowed(demands, {"a": in_flight}).held == set(held)


def test_a_topic_is_read_again_only_when_there_is_room_to_spare() -> None:
    pressure, demands = Pressure(LIMITS), {"a": Demand(1 * MS, priority=9, slo_ns=100 * MS), "b": Demand(1 * MS)}
    held = [bool(pressure.allowed(demands, {"a": in_flight}).held) for in_flight in (40, 60, 40, 26, 25, 40, 60, 0)]
    assert held == [False, True, True, True, False, False, True, False]


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.tuples(st.integers(0, 9), st.floats(0, 1e9), st.none() | st.floats(1e6, 1e10), st.integers(0, 20_000)),
        min_size=1,
    )
)
def test_whoever_is_more_important_is_never_held_before_the_less_important(
    topics: dict[str, tuple[int, float, float | None, int]],
) -> None:
    demands = {topic: Demand(each_ns, 1, priority, slo) for topic, (priority, each_ns, slo, _) in topics.items()}
    allowed = Pressure(LIMITS).allowed(demands, {topic: in_flight for topic, (*_, in_flight) in topics.items()})
    assert 1 <= allowed.requests <= LIMITS.in_flight_requests_max
    free = demands.keys() - allowed.held
    assert free
    assert all(demands[held].priority <= demands[topic].priority for held in allowed.held for topic in free)
    assert max(demand.priority for demand in demands.values()) not in {demands[held].priority for held in allowed.held}


class Consumer:
    """Four partitions of two topics; what is paused of them."""

    def __init__(self) -> None:
        self.mine = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
        self.paused: set[tuple[str, int]] = set()
        self.calls = 0

    def assignment(self) -> Sequence[TopicPartition]:
        self.calls += 1
        return [TopicPartition(*each) for each in self.mine]

    def pause(self, partitions: Sequence[TopicPartition]) -> None:
        self.paused |= {(each.topic, each.partition) for each in partitions}

    def resume(self, partitions: Sequence[TopicPartition]) -> None:
        self.paused -= {(each.topic, each.partition) for each in partitions}


def test_just_the_partitions_of_held_topics_are_paused() -> None:
    consumer, pauses = Consumer(), Pauses()
    like = cast(ConsumerLike, consumer)
    for topics, paused in (
        ({"b"}, {("b", 0), ("b", 1)}),
        ({"a", "b"}, set(consumer.mine)),
        ({"a"}, {("a", 0), ("a", 1)}),
        (set[str](), set[tuple[str, int]]()),
    ):
        pauses.pause(like, topics, 1)
        assert consumer.paused == paused
    asked = consumer.calls
    for generation in (1, 1, 2):
        pauses.pause(like, frozenset(), generation)
    assert consumer.calls == asked, "nothing is asked of the consumer while nothing is paused"


def test_what_is_assigned_while_its_topic_is_held_is_paused_and_what_comes_back_later_is_read() -> None:
    consumer, pauses = Consumer(), Pauses()
    like = cast(ConsumerLike, consumer)
    consumer.mine = [("a", 0), ("b", 0)]
    pauses.pause(like, {"b"}, 1)
    consumer.mine = [("a", 0), ("b", 1)]
    pauses.pause(like, {"b"}, 2)
    assert consumer.paused == {("b", 0), ("b", 1)}, "the client keeps a partition paused that went away so"
    pauses.pause(like, frozenset(), 2)
    assert consumer.paused == {("b", 0)}
    consumer.mine = [("a", 0), ("b", 0)]
    pauses.pause(like, frozenset(), 3)
    assert consumer.paused == set()
