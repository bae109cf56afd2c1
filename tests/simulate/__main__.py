"""``python -m tests.simulate --seed S`` replays a schedule and prints its log; ``--schedules N --from S`` runs many."""

from __future__ import annotations

import argparse
import os
import sys

from tests.simulate.search import search, told
from tests.simulate.world import run


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
    print(f"seed {seed}: {told(world.tally)}; every invariant holds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
