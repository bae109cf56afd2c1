"""An open loop described, and driven by the generator in a process of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.core.subprocesses import module_command, module_environment
from pipeline.load.arrivals import Arrivals
from pipeline.load.process import BenchError

__all__ = ["Load", "drive"]

TICK_S = 0.2  # of a progress bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent where, when, and what is good enough.

    ``model`` is the directory of a model version, for its signature and topics. ``rate`` is the mean requests a second
    and may only be None with a ``trace``, a file of arrival times, which then replaces ``arrivals``. ``duration_s`` is
    the time counted, after the warm-up; None is to the end of the trace. ``deadline_ms`` counts from when each is due.
    """

    broker: str
    model: str
    content_type: str
    rate: float | None = None
    duration_s: float | None = None
    warmup_s: float = 2.0
    arrivals: Arrivals = Arrivals.POISSON
    trace: str | None = None
    seed: int = 0
    rows: int = 1
    keys: int = 1000
    priority: int | None = None
    deadline_ms: int | None = None
    slo_ms: float | None = None
    linger_ms: float | None = None  # of the producer; None is by the rate (`pipeline.load.generator`)
    answer_s_max: float = 10.0  # after the last was due; what has no answer by then is unanswered
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold passwords


def drive(load: Load, tick: Callable[[float], None] | None = None) -> dict[str, Any]:
    """Run the generator to its end; its report (`pipeline.load.outcome`). ``tick`` hears the seconds since the start.

    The load goes to the process by its standard input, not its command line, which everyone on the machine may read.
    Raises `BenchError` with the last line of what it said where it fails.
    """
    text: str | None = json.dumps(asdict(load) | {"kafka": dict(load.kafka)})
    started_s = time.monotonic()
    process = subprocess.Popen(
        module_command("pipeline.load.generator"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=module_environment(),
    )
    try:
        while True:
            try:
                printed, said = process.communicate(text, timeout=TICK_S)
                break
            except subprocess.TimeoutExpired:
                text = None  # is being sent
                if tick is not None:
                    tick(time.monotonic() - started_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        lines = said.strip().splitlines() or ["it said nothing"]
        raise BenchError(f"the generator exited with {process.returncode}: {lines[-1]}")
    found: dict[str, Any] = json.loads(printed)
    return found
