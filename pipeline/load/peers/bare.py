"""The bare model: called in a loop on rows in memory, with the session settings of the worker's backend, no Kafka."""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.infer.backends.onnxruntime import OnnxRuntime
from pipeline.load.requests import random_columns
from pipeline.models import Model
from pipeline.models.manifest import read_manifest

__all__ = ["BareModel", "main"]

TRIALS = 5  # of the model's largest buckets: smaller batches only cost more a row
TRIAL_S = 0.3  # per batch size; long enough for hundreds of runs of a small model


class BareModel:
    """A model and rows in memory: each slot of the worker's own backend holds ``rows_max`` of them, ready to run.

    The rows lie where the runtime reads them, so a run copies nothing: no loop around this model is faster.
    """

    def __init__(self, model: Model, rows: int) -> None:
        """Load the model and lay out at least ``rows`` rows of `random_columns`, in whole slots."""
        self._backend = OnnxRuntime()
        self._backend.load(model)
        rows_max = model.manifest.rows_max
        self._slots = self._backend.slots(-(-rows // rows_max))
        for name, column in random_columns(model.signature.inputs, rows).items():
            for slot, at in zip(self._slots, range(0, rows, rows_max), strict=True):
                part = column[at : at + rows_max]
                slot.inputs[name][: len(part)] = part

    def time(self, batch: int, seconds: float) -> list[int]:
        """Run the first ``batch`` rows of slot after slot, round and round, for ``seconds``; each run's ns."""
        took_ns: list[int] = []
        now_ns = time.monotonic_ns()
        until_ns = now_ns + int(seconds * 1e9)
        for slot in itertools.cycle(self._slots):
            self._backend.run(slot, batch)
            self._backend.wait(slot)
            then_ns, now_ns = now_ns, time.monotonic_ns()
            took_ns.append(now_ns - then_ns)
            if now_ns >= until_ns:
                return took_ns
        raise AssertionError("there is at least one slot")


def main() -> int:
    """Find the best batch size, measure it, print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path, help="directory of one model version")
    parser.add_argument("--rows", required=True, type=int, help="rows in memory")
    parser.add_argument("--batches", help="batch sizes to choose from, 8,16,... (default: the model's largest buckets)")
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    model = Model(read_manifest(arguments.model), arguments.model)
    batches = [int(b) for b in arguments.batches.split(",")] if arguments.batches else model.manifest.buckets[-TRIALS:]
    bare = BareModel(model, arguments.rows)
    trials = {batch: batch / np.median(bare.time(batch, TRIAL_S)) for batch in batches}
    best = max(trials, key=lambda batch: trials[batch])
    before = resource.getrusage(resource.RUSAGE_SELF)
    took_ns = np.array(bare.time(best, arguments.seconds))
    after = resource.getrusage(resource.RUSAGE_SELF)
    rows = best * len(took_ns)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    p50_ms, p99_ms = np.percentile(took_ns, [50, 99]) / 1e6
    figures = {
        "batch_rows": best,
        "rows_per_s": rows / (took_ns.sum() / 1e9),
        "cpu_us_per_row": cpu_s / rows * 1e6,
        "p50_ms": float(p50_ms),
        "p99_ms": float(p99_ms),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
