"""Many schedules on all cores of the machine."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulate.world import run

__all__ = ["search", "told"]

BLOCK = 100  # schedules a process runs in one go

Found = tuple[Counter[str], list[tuple[int, str]]]


def search(first: int, schedules: int, jobs: int) -> int:
    """Many schedules; tells the seeds of those that break an invariant, and how to replay them."""
    began_s, total = time.monotonic(), Counter[str]()
    failed: list[tuple[int, str]] = []
    # Spawned: a process forked beside threads of this one might hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        starts = range(first, first + schedules, BLOCK)
        blocks = [pool.submit(block, start, min(start + BLOCK, first + schedules)) for start in starts]
        for done in as_completed(blocks):
            tally, found = done.result()
            total += tally
            failed += found
            for seed, what in found:
                print(f"seed {seed}: {what}\n  replay: python -m tests.simulate --seed {seed}", flush=True)
    print(f"{told(total)}; {len(failed)} broke an invariant; {time.monotonic() - began_s:.0f} s")
    return bool(failed)


def block(first: int, last: int) -> Found:
    """The schedules of these seeds: what was in them, and which broke an invariant."""
    total, failed = Counter[str](), []
    gc.freeze()  # what is imported stays; a schedule leaves cycles, which are few
    gc.set_threshold(20_000)
    for seed in range(first, last):
        try:
            total += run(seed).tally
        except Exception as error:  # noqa: BLE001 - whatever it is, its seed is told
            total["schedules"] += 1
            failed.append((seed, repr(error)))
    return total, failed


def told(tally: Counter[str]) -> str:
    """A tally in one line."""
    return ", ".join(f"{count:,} {what}" for what, count in tally.items())
