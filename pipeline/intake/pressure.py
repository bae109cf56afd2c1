"""Back-pressure: how much may be in flight, and which topics wait, by how long the device needs for what is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.core.limits import Limits
from topics.records import PRIORITY_DEFAULT

__all__ = ["Allowed", "Demand", "Pressure"]

PROMISE = 0.5  # of an SLO: while more important requests take the device so long, others wait
RELEASE = 0.5  # of what a topic was held at: below it is read again


@dataclass(frozen=True, slots=True)
class Demand:
    """What the requests of a topic want of the device."""

    request_ns: float = 0.0  # of its time for each, as of late
    batch_requests: int = 1  # that fill a batch; so many may always be in flight
    priority: int = PRIORITY_DEFAULT
    slo_ns: float | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """How many requests may be in flight, and the topics that are not to be read now."""

    requests: int
    held: frozenset[str] = frozenset()


class Pressure:
    """Says what is allowed. Its only state is the hysteresis of what it holds back.

    What is in flight is drained within half of ``drain_ms_max`` as long as requests take the device what they took of
    late, so that a revoke or a stop ends in time also where the machine has become half as fast.

    Of n priorities the lowest is not read while the n-th part of that is in flight, the next while two are, and so on,
    so that there is room for what is more important, and nothing before it in the client; nor while the more important
    requests take half of their tightest SLO.

    ``transactions`` finish many requests at once: while one is committed as many again are allowed, for the next.
    """

    def __init__(self, limits: Limits, *, transactions: bool = False) -> None:
        self._requests_max = limits.in_flight_requests_max * (2 if transactions else 1)
        self._drain_ns = limits.drain_ms_max * 1e6 / 2
        self._held: frozenset[str] = frozenset()

    def allowed(self, demands: Mapping[str, Demand], in_flight: Mapping[str, int]) -> Allowed:
        """``in_flight`` has the requests of each topic that are polled and not answered."""
        drain_ns = {topic: in_flight.get(topic, 0) * demand.request_ns for topic, demand in demands.items()}
        self._held = frozenset(self._hold(demands, in_flight, drain_ns))
        read = [demand for topic, demand in demands.items() if topic not in self._held]
        dearest_ns = max((demand.request_ns for demand in read), default=0.0)
        least = max((demand.batch_requests for demand in read), default=self._requests_max)
        left_ns = self._drain_ns - sum(drain_ns.values())
        requests = sum(in_flight.values()) + left_ns / max(dearest_ns, 1.0)
        return Allowed(min(max(int(requests), least), self._requests_max), self._held)

    def _hold(
        self, demands: Mapping[str, Demand], in_flight: Mapping[str, int], drain_ns: Mapping[str, float]
    ) -> Iterator[str]:
        share = max(sum(drain_ns.values()) / self._drain_ns, sum(in_flight.values()) / self._requests_max)
        priorities = sorted({demand.priority for demand in demands.values()})
        for at, priority in enumerate(priorities[:-1], 1):
            above = [topic for topic, demand in demands.items() if demand.priority > priority]
            promises = [slo_ns for topic in above if (slo_ns := demands[topic].slo_ns) is not None]
            taken = sum(drain_ns[topic] for topic in above) / min(promises, default=float("inf")) / PROMISE
            fullness = max(share * len(priorities) / at, taken)
            for topic, demand in demands.items():
                if demand.priority == priority and fullness > (RELEASE if topic in self._held else 1.0):
                    yield topic
