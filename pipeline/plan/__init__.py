"""How much a model can take: its window on a virtual device, beside the policies of others."""

from pipeline.plan.noise import Noise
from pipeline.plan.peers import Adaptive, DelayedQueue, Device, Eager, EarlyDrop, Policy, StockTake
from pipeline.plan.simulate import Outcome, Planned, peak_rate, simulate

__all__ = [
    "Adaptive",
    "DelayedQueue",
    "Device",
    "Eager",
    "EarlyDrop",
    "Noise",
    "Outcome",
    "Planned",
    "Policy",
    "StockTake",
    "peak_rate",
    "simulate",
]
