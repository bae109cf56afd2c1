"""Where requests are and where their time goes: counters, stage clock, snapshot, OpenTelemetry, health."""

from pipeline.observe.counters import Counts
from pipeline.observe.health import Health, State
from pipeline.observe.observer import Observer
from pipeline.observe.snapshot import Latency, Losses, ModelSnapshot, Snapshot
from pipeline.observe.stages import BatchTimes, Part, Stage, Traced
from pipeline.observe.tracecontext import continue_trace, is_sampled

__all__ = [
    "BatchTimes",
    "Counts",
    "Health",
    "Latency",
    "Losses",
    "ModelSnapshot",
    "Observer",
    "Part",
    "Snapshot",
    "Stage",
    "State",
    "Traced",
    "continue_trace",
    "is_sampled",
]
