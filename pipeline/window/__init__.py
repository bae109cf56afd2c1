"""Windows requests into batches: a pure planner and the shell that obeys it."""

from pipeline.window.planner import Plan, Planner, WorkConserving
from pipeline.window.waiting import Late, Waiting
from pipeline.window.window import Window

__all__ = ["Late", "Plan", "Planner", "Waiting", "Window", "WorkConserving"]
