"""``python -m tests.simulate --seed S`` replays a schedule and prints its log; ``--schedules N --from S`` runs many."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulate.world import run

BLOCK = 100  # schedules a process runs in one go

Found = tuple[Counter[str], list[tuple[int, str]]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one schedule and print what happens in it")
    parser.add_argument("--schedules", type=int, default=10_000, help="how many to run")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one's seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    args = parser.parse_args()
    if args.seed is not None:
        return replay(args.seed)
    return search(args.first, args.schedules, args.jobs)


def replay(seed: int) -> int:
    """One schedule, told."""
    try:
        world = run(seed, print)
    except AssertionError as error:
        print(f"seed {seed}: {error!r}")
        return 1
    print(f"seed {seed}: {_told(world.tally)}; every invariant holds")
    return 0


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
    print(f"{_told(total)}; {len(failed)} broke an invariant; {time.monotonic() - began_s:.0f} s")
    return bool(failed)


def block(first: int, last: int) -> Found:
    """The schedules of these seeds: what was in them, and which broke an invariant."""
    total, failed = Counter[str](), []
    for seed in range(first, last):
        try:
            total += run(seed).tally
        except AssertionError as error:
            total["schedules"] += 1
            failed.append((seed, repr(error)))
    return total, failed


def _told(tally: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in tally.items())


if __name__ == "__main__":
    sys.exit(main())
