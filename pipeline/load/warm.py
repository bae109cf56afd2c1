"""Warming a broker up: one that has just been started is several times slower until it has compiled itself."""

from __future__ import annotations

from pathlib import Path

from pipeline.load.drive import Load, drive
from pipeline.load.lane import open_lane
from pipeline.load.process import Process
from pipeline.models import Model
from topics.records import RAW

__all__ = ["warm"]

WARM_S = 20.0
RATE = 900.0  # below the rate from which the generator gathers: each request is one of the broker's, too
PARTITIONS = 4


def warm(broker: str, folder: Path, model: Model) -> None:
    """Have one-row requests of ``model`` go through the broker, and an echo of them, for `WARM_S`."""
    with (
        open_lane(broker, folder, model, "warm", PARTITIONS) as lane,
        Process("pipeline.load.peers.echo", lane.peer_arguments(), lane.folder / "log") as process,
    ):
        process.wait_ready()
        drive(Load(broker=broker, model=str(lane.model.path), content_type=RAW, rate=RATE, duration_s=WARM_S))
