"""Runs one worker until it is told to stop or fails."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from pipeline.app import create_app, flow_of
from pipeline.core.cores import OneCore
from pipeline.core.heaps import Heaps
from pipeline.core.settings import Settings
from pipeline.models import Model

__all__ = ["run_worker"]

log = logging.getLogger(__name__)


def run_worker(
    models: Sequence[Model],
    settings: Settings,
    *,
    repository: Path | None = None,
    ready: Callable[[], None] = lambda: None,
    report: Path | None = None,
) -> int:
    """Serve ``models`` until SIGTERM or SIGINT, drain, and return the exit code: 0, or 1 where the flow failed.

    Newer versions that appear in ``repository`` are swapped in; SIGHUP has it looked at at once.
    ``ready`` is called once partitions are assigned and requests can be answered; a second signal ends the
    process at once. ``report`` names a file for the observer's last snapshot, as JSON. Raises `SluiceError` for
    what is wrong before the start.
    """
    return uvloop.run(_serve(models, settings, repository, ready, report))


async def _serve(
    models: Sequence[Model],
    settings: Settings,
    repository: Path | None,
    ready: Callable[[], None],
    report: Path | None,
) -> int:
    loop, core, heaps = asyncio.get_running_loop(), OneCore(), Heaps()
    loop.set_default_executor(core.executor())
    app = create_app(models, settings, repository=repository)
    flow, intake = flow_of(app)
    if flow.swaps is not None:  # loading may take minutes, and the signal would end it
        loop.add_signal_handler(signal.SIGHUP, flow.swaps.look_now)
    flow.load()
    told = asyncio.Event()

    def stop() -> None:
        if told.is_set():
            os._exit(130)
        log.info("draining")
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await app.start()
        await app.wait_first(told.wait(), intake.assigned.wait())
        if intake.assigned.is_set() and not told.is_set():
            _quiet_gc()
            assert intake.thread is not None
            threads = threading.current_thread(), intake.thread, flow.publisher.thread, *flow.observer.threads
            app.add_future(core.keep(threads))
            app.add_future(heaps.follow(lambda: intake.polled_bytes))
            ready()
            await app.wait_first(told.wait())
        await app.stop()
    finally:
        if report is not None:
            await loop.run_in_executor(None, _write, report, json.dumps(flow.observer.snapshot().to_dict()))
    if app.crashed:  # also while it drained
        log.error("the worker failed: %s", app.crash_reason)
        return 1
    log.info("drained")
    return 0


def _write(report: Path, text: str) -> None:
    """All requests are answered by now: a full disk must not make a failure of that."""
    try:
        report.write_text(text)
    except OSError as error:
        log.warning("the report %s cannot be written: %s", report, error.strerror)


def _quiet_gc() -> None:
    """Keep the cycle collector out of the way of the flow, which makes no cycles.

    Requests in flight are a few hundred thousand containers that live for milliseconds. By default every 700 of
    them start a collection and, with all that Faust imports counted as old, full ones took a fifth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
