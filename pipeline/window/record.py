"""What schedulers are told and decide, a JSON line each, and the same again on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson

from pipeline.admit import Admitted
from pipeline.infer.batch import Run
from pipeline.infer.device import DeviceState
from pipeline.models import Model
from pipeline.window.asked import keys_of
from pipeline.window.cost import Cost, Rate
from pipeline.window.ladder import Ladder
from pipeline.window.ordered import Asked
from pipeline.window.planner import Reason, WorkConserving
from pipeline.window.remembered import Recall
from pipeline.window.scheduler import Decision, Scheduler
from pipeline.window.slo import DeadlineFirst
from topics.signature import Columns

__all__ = ["Departure", "Parts", "Recording", "replay"]

Samples = Sequence[tuple[int, int]]
"""Of each bucket when it was warmed: rows, ns."""

Write = Callable[[bytes], object]
_ASKED = ("order_ns", "due_ns", "deadline_ns", "keys")


@dataclass(frozen=True, slots=True)
class Parts:
    """What a version's planner is made of, and all that its decisions depend on besides what it is told later."""

    model: str  # name/version
    rows_max: int
    buckets: Sequence[int]
    gather_ns: int = 0
    slo_ns: int | None = None
    samples: Samples = ()
    rungs: Sequence[str] = ()  # of the model's ladder, itself first, where it has one
    below: Sequence[Samples] = ()  # of the ladder's other models; a rung without answers without a model
    cached: bool = False  # whether the first of those answers what is remembered

    @classmethod
    def of(cls, model: Model, samples: Samples = (), below: Sequence[Samples] = ()) -> Parts:
        """As the model's manifest has them."""
        manifest = model.manifest
        slo_ns = None if manifest.slo_ms is None else round(manifest.slo_ms * 1e6)
        gather_ns = int(manifest.gather_ms_max * 1e6)
        sizes = manifest.rows_max, manifest.buckets
        return cls(model.label, *sizes, gather_ns, slo_ns, samples, manifest.rungs, below, manifest.cached > 0)

    def planner(self) -> DeadlineFirst | Ladder:
        """A planner that knows nothing else yet."""
        plain, rate = WorkConserving(self.rows_max, self.gather_ns), Rate()
        costs = [Cost(self.buckets, samples) for samples in (self.samples, *self.below)]
        full, *below = (DeadlineFirst(plain, cost, rate, self.slo_ns) for cost in costs)
        return Ladder([full, *below], answers=len(self.rungs) - len(costs)) if self.rungs else full


class Recording:
    """Writes down what one scheduler is told and decides, so that `replay` can do it again."""

    def __init__(self, write: Write, parts: Parts) -> None:
        self._write = write
        self._model = parts.model
        self._numbers: dict[int, int] = {}  # of what waits, by identity
        self._count = 0
        self._remembered = set[tuple[int, int]]()  # since the planner was last asked: number and request
        self._line("start", asdict(parts))

    def added(self, admitted: Admitted, asked: Asked | None, now_ns: int) -> None:
        """Requests arrive."""
        self._numbers[id(admitted)] = self._count
        chunk = admitted.chunk
        first = f"{chunk.topic}/{chunk.partition}/{chunk.offsets[admitted.indices[0]]}"
        columns = None if asked is None else {name: getattr(asked, name).tolist() for name in _ASKED}
        rows = np.diff(admitted.row_start).tolist()
        told = {"at": now_ns, "number": self._count, "first": first, "polled_ns": chunk.polled_ns, "rows": rows}
        if asked is None:  # they may be ordered with others yet, and none overtakes one of its key
            told["keys"] = keys_of(admitted).tolist()
        self._line("added", {**told, "asked": columns})
        self._count += 1

    def ran(self, rows: int, run_ns: int, rung: int) -> None:
        """A batch has run."""
        self._line("ran", {"rows": rows, "run_ns": run_ns, "rung": rung})

    def acked(self, rows: int, run_ns: int, tail_ns: int, now_ns: int, *, late: bool, rung: int) -> None:
        """A batch is answered."""
        told = {"now_ns": now_ns, "rows": rows, "run_ns": run_ns, "tail_ns": tail_ns, "late": late, "rung": rung}
        self._line("acked", told)

    def recalls(self, recall: Recall) -> Recall:
        """The same, but whose answers were remembered is written down with the decision."""

        def recalled(admitted: Admitted, request: int) -> Columns | None:
            answer = recall(admitted, request)
            if answer is not None:
                self._remembered.add((self._numbers[id(admitted)], request))
            return answer

        return recalled

    def decided(self, decision: Decision, state: DeviceState, now_ns: int, *, last: bool) -> None:
        """The planner was asked."""
        told = {"at": now_ns, "state": asdict(state), "last": last, "remembered": self._remembered}
        self._line("decided", {**told, "decision": _plain(decision, self._numbers)})
        self._remembered = set()

    def _line(self, what: str, content: dict[str, Any]) -> None:
        self._write(orjson.dumps({"model": self._model, "what": what, **content}, default=list) + b"\n")


@dataclass(frozen=True, slots=True)
class Departure:
    """A batch that left, or requests that were expired, as recorded."""

    model: str
    at_ns: int
    reason: Reason
    rows: int
    requests: int
    expired: int
    basis: dict[str, Any] | None
    same: bool  # whether the replay decided just that
    rung: str | None = None  # of a batch of a model with a ladder


def replay(lines: Iterable[bytes]) -> Iterator[Departure]:
    """Tell fresh schedulers what the recorded ones were told, at the recorded moments; yield what left, and why.

    Every decision is compared, also that nothing should leave yet: one that differs is yielded with ``same`` false.
    Raises ``ValueError``, ``TypeError`` or ``LookupError`` for what is no recording; a last line that was cut off is
    left out.
    """
    again: dict[str, _Again] = {}
    for line in lines:
        if not line.endswith(b"\n"):
            return
        told = orjson.loads(line)
        if not isinstance(told, dict):
            raise TypeError("a line is not an object")
        model, what = told.pop("model"), told.pop("what")
        if what == "start":
            parts = Parts(model=model, **told)
            again[model] = _Again(parts)
            continue
        departure = again[model].tell(model, what, told)
        if departure is not None:
            yield departure


class _Again:
    """A scheduler told from a recording."""

    def __init__(self, parts: Parts) -> None:
        self.scheduler = Scheduler(parts.planner(), parts.rows_max, recall=self._recall if parts.cached else None)
        self.rungs = parts.rungs
        self.numbers: dict[int, int] = {}
        self.kept: list[Admitted] = []  # so that no identity comes twice
        self.remembered: set[tuple[int, int]] = set()

    def tell(self, model: str, what: str, told: dict[str, Any]) -> Departure | None:
        if what == "ran":
            self.scheduler.ran(**told)
        elif what == "acked":
            self.scheduler.acked(**told)
        elif what == "added":
            self._add(told)
        elif what == "decided":
            return self._decide(model, told)
        else:
            raise ValueError(f"not a recording of decisions: {what}")
        return None

    def _add(self, told: dict[str, Any]) -> None:
        admitted = request_of(told["rows"], told["polled_ns"], told.get("keys"))
        self.kept.append(admitted)
        self.numbers[id(admitted)] = told["number"]
        asked = told["asked"]
        columns = None if asked is None else Asked(*(np.array(asked[name], np.int64) for name in _ASKED))
        self.scheduler.add(admitted, columns, told["at"])

    def _recall(self, admitted: Admitted, request: int) -> Columns | None:
        return {} if (self.numbers[id(admitted)], request) in self.remembered else None

    def _decide(self, model: str, told: dict[str, Any]) -> Departure | None:
        self.remembered = set(map(tuple, told.get("remembered", ())))
        decision = self.scheduler.next(DeviceState(**told["state"]), told["at"], last=told["last"])
        now = orjson.loads(orjson.dumps(_plain(decision, self.numbers)))
        recorded = told["decision"]
        same = now == recorded
        if same and not recorded["parts"] and not recorded["late"]:
            return None
        return Departure(
            model=model,
            at_ns=told["at"],
            reason=Reason(recorded["reason"]),
            rows=recorded["rows"],
            requests=sum(hi - lo for _, lo, hi, _ in recorded["parts"]),
            expired=sum(len(requests) for _, requests in recorded["late"]),
            basis=recorded["basis"],
            same=same,
            rung=self.rungs[recorded["rung"]] if self.rungs and recorded["rows"] else None,
        )


class _Key(int):
    """A key's hash in the key's place; that of a large integer would be another."""

    def __hash__(self) -> int:
        return int(self)


def request_of(rows: Sequence[int], polled_ns: int, keys: Sequence[int] | None = None) -> Admitted:
    """Requests of so many rows each as a scheduler sees them: their sizes, arrival and hashes of keys, 0 for none."""
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(rows, out=starts[1:])
    hashed = [_Key(key) if key else None for key in keys or [0] * len(rows)]
    chunk = SimpleNamespace(polled_ns=polled_ns, keys=lambda: hashed)
    nothing = cast(Any, None)
    return Admitted(cast(Any, chunk), {}, starts, polled_ns, range(len(rows)), nothing, None)


def _plain(decision: Decision, numbers: dict[int, int]) -> dict[str, Any]:
    """A decision as JSON has it: parts are number of the admitted, first and last request, rows."""
    plan, batch = decision.plan, decision.batch
    parts: list[tuple[int, int, int, int]] = []
    for part in sorted(batch.parts(), key=lambda part: part.slot_row) if batch is not None else ():
        lo, hi = (part.lo, part.hi) if isinstance(part, Run) else (part.joined.request, part.joined.request + 1)
        parts.append((numbers[id(part.admitted)], lo, hi, part.rows))
    return {
        **asdict(plan),
        "rows": 0 if batch is None else batch.rows,
        "parts": parts,
        "late": [(numbers[id(admitted)], requests) for admitted, requests in decision.late],
    }
