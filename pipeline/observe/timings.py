"""From the moments of finished batches to histograms of their requests, in bulk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.observe.histogram import Floats, Histogram, Ints
from pipeline.observe.stages import BatchTimes, Part, Stage

__all__ = ["Finished", "Measured", "PartTimes", "Timings", "measure"]


@dataclass(frozen=True, slots=True)
class Finished:
    """A part whose offsets are committed, and when they were, on both clocks."""

    part: Part
    times: BatchTimes
    committed_ns: int
    committed_unix_ms: float


class PartTimes(NamedTuple):
    """Durations in seconds of one part."""

    shared_s: Floats  # (8,): every stage after the first, in order
    kafka_dwell_s: Floats  # (requests,)
    end_to_end_s: Floats  # (requests,)

    def only(self, positions: Sequence[int]) -> PartTimes:
        """The same of some of its requests, without a hold on the others'."""
        return PartTimes(self.shared_s, self.kafka_dwell_s[positions], self.end_to_end_s[positions])


@dataclass(frozen=True, slots=True)
class Measured:
    """Durations in seconds of some parts: of each part where its requests share them, of each request where not."""

    counts: Ints  # (parts,) requests of each part
    shared_s: Floats  # (parts, 8): every stage after the first, in order
    processed_s: Floats  # (parts,): polled -> acknowledged
    kafka_dwell_s: Floats  # (requests,)
    answered_s: Floats  # (requests,): Kafka timestamp -> acknowledged
    end_to_end_s: Floats  # (requests,): Kafka timestamp -> committed, by the wall clock alone
    clock_skew: int  # requests whose clock was ahead of ours, or without a timestamp

    def parts(self) -> Iterator[PartTimes]:
        """The same part by part."""
        first = 0
        for shared_s, count in zip(self.shared_s, self.counts.tolist(), strict=True):
            these = slice(first, first + count)
            first += count
            yield PartTimes(shared_s, self.kafka_dwell_s[these], self.end_to_end_s[these])


def measure(finished: Sequence[Finished]) -> Measured:
    """Stage values of at least one part.

    All stages but the first are differences of the monotonic clock. End-to-end is not their sum: it is the wall
    clock at the commit less the Kafka timestamp, so that a stage left out or counted twice shows (invariant I5).
    A timestamp after our poll (another machine's clock) is taken as the moment of the poll, in both.
    """
    moments = np.array([_moments_ns(each) for each in finished], np.int64)
    counts = np.array([each.part.timestamps_ms.size for each in finished], np.int64)
    polled_ms = np.repeat([each.part.polled_unix_ms for each in finished], counts)
    sent_ms = np.concatenate([each.part.timestamps_ms for each in finished])
    skewed = (sent_ms > polled_ms) | (sent_ms <= 0)
    since_ms = np.where(skewed, polled_ms, sent_ms)
    until_ms = np.repeat([each.committed_unix_ms for each in finished], counts)
    kafka_dwell_s = (polled_ms - since_ms) / 1e3
    processed_s = (moments[:, -2] - moments[:, 0]) / 1e9
    return Measured(
        counts=counts,
        shared_s=np.diff(moments, axis=1) / 1e9,
        processed_s=processed_s,
        kafka_dwell_s=kafka_dwell_s,
        answered_s=kafka_dwell_s + np.repeat(processed_s, counts),
        # The wall clock may be set back while a request is under way.
        end_to_end_s=np.maximum(until_ms - since_ms, 0.0) / 1e3,
        clock_skew=int(np.count_nonzero(skewed)),
    )


def _moments_ns(each: Finished) -> tuple[int, ...]:
    part, times = each.part, each.times
    return (
        part.polled_ns,
        part.decoded_ns,
        times.planned_ns,
        times.copied_ns,
        times.started_ns,
        times.computed_ns,
        times.encoded_ns,
        times.acked_ns,
        each.committed_ns,
    )


class Timings:
    """The latency of one model's requests: a histogram per stage and three that span several. Not thread-safe."""

    __slots__ = ("answered", "end_to_end", "processed", "stages")

    def __init__(self) -> None:
        self.stages = {stage: Histogram() for stage in Stage}
        self.processed = Histogram()
        self.answered = Histogram()
        self.end_to_end = Histogram()

    def record(self, measured: Measured) -> None:
        """Add finished requests: a dozen numpy calls, however many they are."""
        first, *rest = Stage
        self.stages[first].record_many(measured.kafka_dwell_s)
        for stage, values_s in zip(rest, measured.shared_s.T, strict=True):
            self.stages[stage].record_many(values_s, measured.counts)
        self.processed.record_many(measured.processed_s, measured.counts)
        self.answered.record_many(measured.answered_s)
        self.end_to_end.record_many(measured.end_to_end_s)

    def merge(self, other: Timings) -> None:
        """Add what another model's timings hold."""
        for stage, histogram in self.stages.items():
            histogram.merge(other.stages[stage])
        self.processed.merge(other.processed)
        self.answered.merge(other.answered)
        self.end_to_end.merge(other.end_to_end)

    def copy(self) -> Timings:
        """Timings of their own with the same content."""
        twin = Timings()
        twin.merge(self)
        return twin
