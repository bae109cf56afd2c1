"""`sluice` whose device is elsewhere: ``python -m pipeline.load.peers.elsewhere BATCH_MS serve …``.

Each batch takes BATCH_MS of the clock and, but for the model itself, nothing of the processor: what a GPU is to its
host.
"""

from __future__ import annotations

import runpy
import sys
import time

from pipeline.infer import Slot
from pipeline.infer.backends import onnxruntime


class Elsewhere(onnxruntime.OnnxRuntime):
    """Runs the model, and sleeps for what is left of the batch's time."""

    batch_s = 0.0

    def run(self, slot: Slot, rows: int) -> None:
        until_s = time.monotonic() + self.batch_s
        super().run(slot, rows)
        time.sleep(max(0.0, until_s - time.monotonic()))


if __name__ == "__main__":
    Elsewhere.batch_s = float(sys.argv.pop(1)) / 1000
    setattr(onnxruntime, "OnnxRuntime", Elsewhere)  # noqa: B010 - mypy: it is a class
    runpy.run_module("pipeline.cli", run_name="__main__")
