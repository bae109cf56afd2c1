"""Load and benchmarks: schedules, an open-loop generator, peers, and interleaved rounds of them."""

from pipeline.load.arrivals import Arrivals, burst, constant, poisson, schedule
from pipeline.load.drive import Load, drive
from pipeline.load.process import BenchError
from pipeline.load.rounds import Rounds, Spread

__all__ = ["Arrivals", "BenchError", "Load", "Rounds", "Spread", "burst", "constant", "drive", "poisson", "schedule"]
