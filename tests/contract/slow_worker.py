"""`sluice serve` whose batches take ``BATCH_MS`` and whose drains at most ``DRAIN_MS_MAX``, so that tests are short.

``python -m tests.contract.slow_worker serve …``
"""

from __future__ import annotations

import os
import runpy
import sys
from functools import partial

import pipeline.core.settings
from pipeline.core.limits import Limits

MODULE = "tests.contract.slow_worker"

if __name__ == "__main__":
    settings = partial(pipeline.core.settings.Settings, limits=Limits(drain_ms_max=int(os.environ["DRAIN_MS_MAX"])))
    setattr(pipeline.core.settings, "Settings", settings)  # noqa: B010 - mypy: it is a class
    sys.argv.insert(1, os.environ["BATCH_MS"])
    runpy.run_module("pipeline.load.peers.elsewhere", run_name="__main__")
