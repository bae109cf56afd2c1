"""What a worker has seen so far, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.observe.counters import Counts
from pipeline.observe.histogram import Histogram
from pipeline.observe.stages import Stage
from pipeline.observe.timings import Timings

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Latency", "Losses", "ModelSnapshot", "Snapshot", "Swap"]


@dataclass(frozen=True, slots=True)
class Latency:
    """One histogram in figures, in microseconds; quantiles within 1.1%, count, mean and sum exact."""

    count: int
    mean_us: float
    p50_us: float
    p99_us: float
    sum_us: float

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        return cls(
            count=histogram.count,
            mean_us=histogram.mean_s * 1e6,
            p50_us=histogram.quantile_s(0.50) * 1e6,
            p99_us=histogram.quantile_s(0.99) * 1e6,
            sum_us=histogram.sum_s * 1e6,
        )

    def to_dict(self, whole_us: float) -> dict[str, float]:
        """With ``sum_share``, the part of ``whole_us`` that the sum is."""
        return {
            "count": self.count,
            "mean_us": round(self.mean_us, 3),
            "p50_us": round(self.p50_us, 3),
            "p99_us": round(self.p99_us, 3),
            "sum_share": round(_share(self.sum_us, whole_us), 6),
        }


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """Counters and latency of one model, or of all together.

    ``answered`` is Kafka timestamp to acknowledged prediction, what a client waits for; ``end_to_end`` goes on to
    the commit, and is measured by the wall clock, not summed.
    """

    counts: Counts
    stages: Mapping[Stage, Latency]
    answered: Latency
    end_to_end: Latency

    @classmethod
    def of(cls, counts: Counts, timings: Timings) -> ModelSnapshot:
        stages = {stage: Latency.of(histogram) for stage, histogram in timings.stages.items()}
        return cls(counts, stages, Latency.of(timings.answered), Latency.of(timings.end_to_end))

    @property
    def stages_over_end_to_end(self) -> float:
        """Sum of all stages over the sum of end-to-end: 1 within 1% (invariant I5), 0 when nothing ended yet."""
        return _share(sum(each.sum_us for each in self.stages.values()), self.end_to_end.sum_us)

    def to_dict(self) -> dict[str, Any]:
        whole_us = self.end_to_end.sum_us
        return {
            "requests": self.counts.to_dict(),
            "stages": {str(stage): latency.to_dict(whole_us) for stage, latency in self.stages.items()},
            "answered": self.answered.to_dict(whole_us),
            "end_to_end": self.end_to_end.to_dict(whole_us),
            "stages_over_end_to_end": round(self.stages_over_end_to_end, 6),
        }

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Stage, mean, p50, p99 and share, as text: the nine stages, then what spans several."""
        whole_us = self.end_to_end.sum_us
        for stage, latency in self.stages.items():
            yield _row(str(stage).replace("_", " "), latency, whole_us)
        yield _row("answered", self.answered, whole_us)
        yield _row("end to end", self.end_to_end, whole_us)


@dataclass(frozen=True, slots=True)
class Losses:
    """What the measurements themselves had to leave out or to mend; the requests are all right."""

    clock_skew: int = 0  # requests with a Kafka timestamp after our poll, or none: their dwell counts as zero
    parts_dropped: int = 0  # waited for a commit beyond the limit
    spans_dropped: int = 0  # over the rate or the queue, or not taken by the endpoint


@dataclass(frozen=True, slots=True)
class Swap:
    """A version that took another's place, and the first offset it answered of each partition, ``topic/partition``."""

    before: str
    after: str
    first_offsets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of an `Observer`."""

    models: Mapping[str, ModelSnapshot]
    total: ModelSnapshot
    losses: Losses
    swaps: tuple[Swap, ...] = ()
    batches: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by model: how many left for each reason
    rungs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by model with a ladder: answered requests

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "models": {name: model.to_dict() for name, model in self.models.items()},
            "total": self.total.to_dict(),
            "losses": {name: getattr(self.losses, name) for name in Losses.__slots__},
            "swaps": [asdict(swap) for swap in self.swaps],
            "batches": {model: dict(reasons) for model, reasons in self.batches.items()},
            "rungs": {model: dict(answered) for model, answered in self.rungs.items()},
        }

    def table(self, model: str | None = None) -> Table:
        """The stage table of one model, or of all together, for a terminal."""
        from rich.table import Table

        table = Table("stage", *_COLUMNS[1:], caption=self._caption(model), title="Where a request's time goes")
        for column in table.columns[1:]:
            column.justify = "right"
        rows = list(self._of(model).rows())
        for index, row in enumerate(rows):
            table.add_row(*row, end_section=index == len(Stage) - 1)
        return table

    def text(self, model: str | None = None) -> str:
        """The same table in plain characters, for logs and files."""
        rows = [_COLUMNS, *self._of(model).rows()]
        lines = [f"{row[0]:<12}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows]
        return "\n".join([*lines, self._caption(model)])

    def _of(self, model: str | None) -> ModelSnapshot:
        return self.total if model is None else self.models[model]

    def _caption(self, model: str | None) -> str:
        chosen = self._of(model)
        return f"{chosen.end_to_end.count:,} requests; stages sum to {chosen.stages_over_end_to_end:.2%} of end to end"


_COLUMNS = ("stage", "mean", "p50", "p99", "share")


def _row(name: str, latency: Latency, whole_us: float) -> tuple[str, str, str, str, str]:
    figures = (latency.mean_us, latency.p50_us, latency.p99_us)
    mean, p50, p99 = (f"{us / 1e3:,.3f} ms" for us in figures)
    return name, mean, p50, p99, f"{_share(latency.sum_us, whole_us):.1%}"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
