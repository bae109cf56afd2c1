"""What one worker measures of itself: where requests are, where their time goes, and who is told."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.core.errors import ConfigError
from pipeline.observe.counters import Counts, Outcome
from pipeline.observe.endpoints import signals_of
from pipeline.observe.snapshot import Losses, ModelSnapshot, Snapshot, Swap
from pipeline.observe.stages import BatchTimes
from pipeline.observe.timings import Finished, Timings, measure
from pipeline.observe.waiting import PARTS_WAITING_MAX, Commit, Waiting

if TYPE_CHECKING:
    from pipeline.observe.otlp import Telemetry
    from pipeline.observe.spans import BatchSpan

__all__ = ["Observer"]

SWAPS_KEPT = 16  # of all models together, the latest


class Observer:
    """One per worker; every method may be called from any thread, costs microseconds and never waits for anyone.

    Counters take plain model names and count whole chunks or batches. A batch's times are kept until the commits
    of its partitions cover them, then all its requests are recorded at once. Without an OpenTelemetry endpoint
    (``otlp_endpoint``, a base URL such as ``http://host:4318``, or the standard OTEL_ variables) nothing of
    OpenTelemetry is even imported.
    """

    def __init__(
        self,
        *,
        otlp_endpoint: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        worker: str = "",
        group: str = "",
        parts_max: int = PARTS_WAITING_MAX,
    ) -> None:
        self._endpoint = otlp_endpoint
        self._clock = clock
        self._worker = worker
        self._group = group
        self._telemetry: Telemetry | None = None
        # Two locks: callers on the event loop never wait for a commit's numpy.
        self._lock = threading.Lock()
        self._tallies: dict[str, dict[str, int]] = {}
        self._reasons: dict[str, dict[str, int]] = {}
        self._waiting: Waiting[BatchSpan | None] = Waiting(parts_max)
        self._rungs: dict[str, dict[str, int]] = {}
        self._recording = threading.Lock()
        self._timings: dict[str, Timings] = {}
        self._clock_skew = 0
        self._swaps: deque[tuple[str, str, dict[str, int]]] = deque(maxlen=SWAPS_KEPT)

    def start(self) -> None:
        """Start the exporters where there is an endpoint. Raises `ConfigError` for OTEL_ settings nobody can read."""
        signals = signals_of(self._endpoint)
        if not signals or self._telemetry is not None:
            return
        from pipeline.observe.otlp import Telemetry

        try:
            self._telemetry = Telemetry(
                self, signals, endpoint=self._endpoint, worker=self._worker, group=self._group, clock=self._clock
            )
        except ValueError as error:
            raise ConfigError(f"OpenTelemetry settings: {error}") from error

    def shutdown(self) -> None:
        """Bring out what the exporters still hold, for at most about two seconds. Counting goes on regardless."""
        if self._telemetry is not None:
            self._telemetry.shutdown()

    def begin_trace(self) -> bool:
        """Whether the spans of a batch with sampled requests will be exported, for which they are told a span each.

        Where not, for want of an endpoint or because there are too many, a request's traceparent is best passed on as
        it is: a span that it named would be missing from the trace.
        """
        return self._telemetry is not None and self._telemetry.begin()

    def traced(self, requests: int) -> None:
        """So many requests of such a batch have been told their spans."""
        if self._telemetry is not None:
            self._telemetry.spend(requests)

    @property
    def threads(self) -> Sequence[threading.Thread]:
        """Who exports, once started."""
        return () if self._telemetry is None else self._telemetry.threads

    def received(self, model: str, count: int) -> None:
        """Requests taken from Kafka."""
        self._tally(model, "received", count)

    def answered(self, model: str, count: int, rung: str | None = None) -> None:
        """Requests whose prediction is acknowledged; ``rung`` of the model's ladder gave it, where it has one."""
        self._tally(model, Outcome.ANSWERED, count)
        if rung is not None:
            with self._lock:
                _add(self._rungs, model, rung, count)

    def expired(self, model: str, count: int) -> None:
        """Requests whose expired notice is acknowledged."""
        self._tally(model, Outcome.EXPIRED, count)

    def dead_lettered(self, model: str, count: int) -> None:
        """Requests whose dead letter is acknowledged."""
        self._tally(model, Outcome.DEAD_LETTERED, count)

    def duplicate(self, model: str, count: int) -> None:
        """Requests without an outcome of their own: one like them has it."""
        self._tally(model, Outcome.DUPLICATE, count)

    def released(self, model: str, count: int) -> None:
        """Requests in flight on a partition that was lost or revoked; another worker answers them."""
        self._tally(model, Outcome.RELEASED, count)

    def vanished(self, model: str, count: int) -> None:
        """Requests that retention has deleted before they were read."""
        self._tally(model, "vanished", count)

    def left(self, model: str, reason: str) -> None:
        """A batch left its window, and why."""
        with self._lock:
            _add(self._reasons, model, reason, 1)

    def in_flight(self, model: str) -> int:
        """Requests received and without an outcome."""
        with self._lock:
            return Counts(**self._tallies.get(model, {})).in_flight

    def swapped(self, before: str, after: str) -> None:
        """A version takes another's place, as ``name/version``."""
        with self._lock:
            self._swaps.append((before, after, {}))

    def begins(self, after: str, topic: str, partition: int, offset: int) -> None:
        """The first offset of a partition that the version swapped in last answers."""
        with self._lock:
            for _, version, first_offsets in reversed(self._swaps):
                if version == after:
                    first_offsets.setdefault(f"{topic}/{partition}", offset)
                    return

    def batch_acked(self, times: BatchTimes) -> None:
        """All predictions of a batch are acknowledged; its requests wait for their commit."""
        context = self._telemetry.batch(times) if self._telemetry is not None else None
        with self._lock:
            finished = self._waiting.add(times, context)
        self._record(finished)

    def committed(self, offsets: Mapping[tuple[str, int], int], at_ns: int | None = None) -> None:
        """Next offsets by (topic, partition) that are now committed, at a monotonic moment or just now."""
        now_ns, unix_ms = self._clock.now_ns(), self._clock.unix_ms()
        at_ns = now_ns if at_ns is None else at_ns
        at_unix_ms = unix_ms - (now_ns - at_ns) / 1e6
        commits = {key: Commit(offset, at_ns, at_unix_ms) for key, offset in offsets.items()}
        with self._lock:
            finished = self._waiting.commit(commits)
        self._record(finished)

    def forget(self, topic: str, partition: int) -> None:
        """A partition is lost or revoked: what waits for its commit is left to its new owner."""
        with self._lock:
            self._waiting.forget((topic, partition))

    def counts(self) -> dict[str, Counts]:
        """All counters in one reading, by model (invariant I6 holds in it)."""
        with self._lock:
            return {model: Counts(**tallies) for model, tallies in self._tallies.items()}

    def timings(self) -> dict[str, Timings]:
        """Copies of all histograms in one reading, by model (invariant I5 holds in it)."""
        with self._recording:
            return {model: timings.copy() for model, timings in self._timings.items()}

    def losses(self) -> Losses:
        """What measuring had to leave out or mend."""
        spans_dropped = self._telemetry.spans_dropped() if self._telemetry is not None else 0
        return Losses(self._clock_skew, self._waiting.dropped, spans_dropped)

    def snapshot(self) -> Snapshot:
        """Counters, stage tables and losses up to now."""
        counts, timings = self.counts(), self.timings()
        all_counts, all_timings = sum(counts.values(), Counts()), Timings()
        for of_model in timings.values():
            all_timings.merge(of_model)
        return Snapshot(
            models={
                model: ModelSnapshot.of(counts.get(model, Counts()), timings.get(model, Timings()))
                for model in sorted(counts.keys() | timings.keys())
            },
            total=ModelSnapshot.of(all_counts, all_timings),
            losses=self.losses(),
            swaps=self._swaps_now(),
            batches=self._copy(self._reasons),
            rungs=self.rungs(),
        )

    def rungs(self) -> dict[str, dict[str, int]]:
        """Answered requests by model and rung, of models with a ladder."""
        return self._copy(self._rungs)

    def _copy(self, counted: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        with self._lock:
            return {model: dict(of_model) for model, of_model in counted.items()}

    def _swaps_now(self) -> tuple[Swap, ...]:
        with self._lock:
            return tuple(Swap(before, after, dict(offsets)) for before, after, offsets in self._swaps)

    def _tally(self, model: str, what: str, count: int) -> None:
        with self._lock:
            _add(self._tallies, model, what, count)

    def _record(self, finished: Sequence[tuple[Finished, BatchSpan | None]]) -> None:
        by_model: dict[str, list[tuple[Finished, BatchSpan | None]]] = {}
        for each, batch in finished:
            # Versions of a model share its histograms: as many as models are served, not as were ever swapped in.
            by_model.setdefault(each.times.model.partition("/")[0], []).append((each, batch))
        for model, of_model in by_model.items():
            measured = measure([each for each, _ in of_model])
            if self._telemetry is not None:
                self._telemetry.requests(of_model, measured)
            with self._recording:
                self._timings.setdefault(model, Timings()).record(measured)
                self._clock_skew += measured.clock_skew


def _add(counted: dict[str, dict[str, int]], model: str, what: str, count: int) -> None:
    of_model = counted.setdefault(model, {})
    of_model[what] = of_model.get(what, 0) + count
