"""`sluice serve` on a fake GPU, whose streams run when they like: ``python -m tests.contract.gpu_worker serve …``.

After ``LOSE_AFTER`` runs the device is lost. At the end standard error says what was not freed.
"""

from __future__ import annotations

import os
import sys
import threading
from random import Random
from typing import Any, cast

from pipeline.cli.main import main
from pipeline.infer import Backend, placement
from pipeline.infer.backends.tensorrt import TensorRt
from pipeline.models import Model
from tests.unit.infer.tensorrt.fake_cuda import LAUNCH_FAILURE, FakeCuda
from tests.unit.infer.tensorrt.fake_engine import of_onnx

__all__ = ["LEFT", "MODULE"]

MODULE = "tests.contract.gpu_worker"
LEFT = "left on the device:"


class Shared:
    """The device between threads, one call at a time."""

    def __init__(self, lose_after: int) -> None:
        self._cuda = FakeCuda(Random(1))
        self._lock = threading.RLock()
        self._runs_left = lose_after

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cuda, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                if name == "launch" and (left := self._runs_left - 1) >= 0:
                    self._runs_left = left
                    if left == 0:
                        self._cuda.trouble["event_done"] = LAUNCH_FAILURE
                return value(*args, **kwargs)

        return call


if __name__ == "__main__":
    cuda = cast("FakeCuda", Shared(int(os.environ.get("LOSE_AFTER", "0"))))

    def placed(model: Model, device: str) -> Backend:
        return TensorRt(cuda=cuda, opened=of_onnx(cuda))

    placement.placed = placed
    try:
        main()
    finally:
        sys.stderr.write(f"{LEFT} {cuda.left()}\n")
