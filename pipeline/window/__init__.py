"""Windows requests into batches: pure planners and the shell that obeys them."""

from pipeline.window.cost import Cost, Rate
from pipeline.window.ladder import Ladder
from pipeline.window.ordered import Late
from pipeline.window.planner import Plan, Planner, Reason, WorkConserving
from pipeline.window.record import Departure, Parts, Recording, replay
from pipeline.window.remembered import Remembered
from pipeline.window.scheduler import Decision, Scheduler
from pipeline.window.slo import DeadlineFirst
from pipeline.window.waiting import Waiting
from pipeline.window.window import Window

__all__ = [
    "Cost",
    "DeadlineFirst",
    "Decision",
    "Departure",
    "Ladder",
    "Late",
    "Parts",
    "Plan",
    "Planner",
    "Rate",
    "Reason",
    "Recording",
    "Remembered",
    "Scheduler",
    "Waiting",
    "Window",
    "WorkConserving",
    "replay",
]
