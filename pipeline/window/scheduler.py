"""What waits and who decides: everything of a window but the event loop, so that it also runs on a virtual clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.admit import Admitted
from pipeline.infer.batch import Batch
from pipeline.infer.device import DeviceState
from pipeline.window.ladder import Ladder
from pipeline.window.ordered import Asked, Late
from pipeline.window.planner import Plan, Planner, Reason
from pipeline.window.remembered import Recall
from pipeline.window.slo import DeadlineFirst
from pipeline.window.waiting import Waiting

if TYPE_CHECKING:
    from pipeline.window.record import Recording

__all__ = ["Decision", "Scheduler"]


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """A plan, and what it takes out of what waits: a batch, expired requests, or nothing yet."""

    plan: Plan
    batch: Batch | None = None
    late: Sequence[Late] = ()


class Scheduler:
    """What waits of one version, obeying its planner. The same calls with the same moments make the same batches.

    ``recording``, where there is one, is told of every call and what came of it. With ``recall`` the first rung below
    the models of a ladder answers those whose answers are remembered.
    """

    def __init__(
        self, planner: Planner, rows_max: int, recording: Recording | None = None, recall: Recall | None = None
    ) -> None:
        self.waiting = Waiting(rows_max)
        self._planner = planner
        self._ladder = planner if isinstance(planner, Ladder) else None
        self._rungs: Sequence[DeadlineFirst] = (planner,) if isinstance(planner, DeadlineFirst) else ()
        self._answers: list[Recall | None] = []  # of a ladder's rungs below its models
        if self._ladder is not None:
            self._rungs = self._ladder.rungs
            self._answers = [None] * self._ladder.answers
            if recall is not None:
                self._answers[0] = recall if recording is None else recording.recalls(recall)
        self._learning = self._rungs[0] if self._rungs else None
        self._rows_max = rows_max
        self._recording = recording

    def add(self, admitted: Admitted, asked: Asked | None, now_ns: int) -> None:
        """Requests arrive."""
        self.waiting.add(admitted, asked)
        if self._learning is not None and self._learning.slo_ns is not None:
            self._learning.rate.add(admitted.rows, now_ns)
        if self._recording is not None:
            self._recording.added(admitted, asked, now_ns)

    def next(self, state: DeviceState, now_ns: int, *, last: bool = False) -> Decision:
        """What to do now; ask again until it is nothing. ``last``: nothing more comes, and another version waits."""
        self.load(now_ns)  # others ask for it too, unrecorded: what it learns from is so learnt at a recorded moment
        plan = self._planner.plan(self.waiting, state, now_ns)
        if last and plan.expire_ns is None and state.free_slots and self.waiting.rows:
            plan = Plan(run_rows=min(self.waiting.rows, self._rows_max), reason=Reason.HAND_OVER, rung=plan.rung)
        decision = self._obey(plan, state, now_ns)
        if self._recording is not None:
            self._recording.decided(decision, state, now_ns, last=last)
        return decision

    def _obey(self, plan: Plan, state: DeviceState, now_ns: int) -> Decision:
        if plan.expire_ns is None and not plan.run_rows:
            return Decision(plan)
        due_ns = self.waiting.due_ns
        if plan.expire_ns is not None:
            if self._learning is not None:
                self._learning.cost.missed()
            late = plan.expire_ns, plan.expire_row_ns
            for rung, recall in enumerate(self._answers, len(self._rungs)) if plan.run_rows else ():
                answered = self.waiting.take_late(*late, plan.run_rows, now_ns, recall)
                if answered is not None:
                    plan, batch = replace(plan, rung=rung), answered
                    break
            else:
                return Decision(plan, late=self.waiting.expire(*late))
        else:
            batch = self.waiting.take(plan.run_rows, now_ns)
        batch.due_ns, batch.rung = due_ns, plan.rung
        if self._ladder is not None:
            self._ladder.left(plan.rung, now_ns)
        # Nobody plans by it while no model has deadlines.
        foreseen = batch.deadline_ns is not None or state.load > 0
        if foreseen and plan.rung < len(self._rungs) and self._rungs[plan.rung].cost.known:
            batch.expected_ns = round(self._rungs[plan.rung].cost.run_ns(batch.rows))
        return Decision(plan, batch)

    def ran(self, rows: int, run_ns: int, rung: int = 0) -> None:
        """A batch has run for so long."""
        if rung < len(self._rungs):
            self._rungs[rung].cost.ran(rows, run_ns)
        if self._recording is not None:
            self._recording.ran(rows, run_ns, rung)

    def acked(self, rows: int, run_ns: int, tail_ns: int, now_ns: int, *, late: bool, rung: int = 0) -> None:
        """So long after its end a batch's answers are with the broker; ``late``: after a deadline of one of them."""
        if rung < len(self._rungs):
            self._rungs[rung].cost.acked(rows, run_ns, tail_ns, now_ns, late=late)
        if self._recording is not None:
            self._recording.acked(rows, run_ns, tail_ns, now_ns, late=late, rung=rung)

    def load(self, now_ns: int) -> float:
        """What is offered, as a share of what can be served within the SLO; 0 without one."""
        learning = self._learning if self._ladder is None else self._ladder.current
        return 0.0 if learning is None else learning.load(now_ns)

    def gather_ns(self, now_ns: int) -> tuple[int, int]:
        """How long requests may gather before they are added (`DeadlineFirst.gather_ns`); 0 where they should not."""
        return self._rungs[0].gather_ns(now_ns) if len(self._rungs) == 1 else (0, 0)
