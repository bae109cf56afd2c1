"""Random schedules keep every invariant, a seed says all of one, and code broken on purpose is caught."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.admit import Duplicates
from pipeline.commit import Ledger, Offsets
from pipeline.commit.ledger import Tracked, _Partition
from pipeline.publish import Publisher, Transactions, publisher, transactions
from pipeline.publish.flight import Flight
from pipeline.publish.transactions import Outcome
from pipeline.window import Window
from tests.simulate.world import run
from tests.tidy.tree import ROOT

SCHEDULES = 10_000
MUTANT_SEEDS = 500


def simulate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulate", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(1200)  # a minute on two cores of its own
def test_ten_thousand_schedules_keep_every_invariant() -> None:
    done = simulate("--schedules", str(SCHEDULES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{SCHEDULES:,} schedules, "), done.stdout


@pytest.mark.parametrize("seed", [4, 13])
def test_a_seed_says_all_that_happens(seed: int) -> None:
    logs = [simulate("--seed", str(seed), PYTHONHASHSEED=hashes) for hashes in ("1", "2")]
    assert logs[0].stdout == logs[1].stdout
    assert logs[0].stdout.count("\n") > 50 and logs[0].returncode == 0, logs[0].stderr
    here: list[str] = []
    run(seed, here.append)
    assert logs[0].stdout.splitlines()[:-1] == here


# --- code broken on purpose: what it does, and what is found ---------------------------------------------------------


def past_the_unfinished(partition: _Partition) -> None:
    finished = [entry.offsets[index] for entry in partition.order for index, done in enumerate(entry.done) if done]
    while partition.order and partition.order[0].left == 0:
        partition.order.popleft()
    partition.next_offset = max([partition.next_offset or 0, *(offset + 1 for offset in finished)]) or None


def any_epoch(self: Ledger, chunk: Tracked) -> bool:
    return True


def forget_nothing(self: Ledger, offsets: Offsets) -> None: ...


def drained_at_once(self: Ledger, keys: object, deadline_s: float) -> bool:
    return True


def nothing_is_held(self: Transactions, outcome: Outcome) -> None:
    self._emit(outcome)


def all_is_ready(held: Sequence[Outcome], prefix: int) -> tuple[list[Outcome], list[Outcome]]:
    return list(held), []


def settled_whatever_came(self: Flight, error: object, message: object) -> None:
    self.arrived()


def no_second_run(self: Publisher, device: Any, lane: Any, batch: Any, error: Any) -> None:
    device.give_back(lane, batch)


def nobody_has_room(real: Callable[..., None], self: Window) -> None:
    room, self._room = self._room, asyncio.Event()
    real(self)
    self._room = room


def as_they_lie(parts: Any, key: object) -> list[Any]:
    return list(parts)


def whosever_it_is(self: Duplicates, seen: object, deadline_ms: object) -> bool:
    return True


def wrapping(owner: Any, name: str, mutant: Callable[..., Any]) -> Callable[..., Any]:
    real = getattr(owner, name)
    return lambda *args, **kwargs: mutant(real, *args, **kwargs)


MUTANTS: dict[str, tuple[Any, str, Any, str]] = {
    "a commit passes an unfinished request": (Ledger, "_advance", staticmethod(past_the_unfinished), "I2"),
    "epochs are not checked": (Ledger, "is_current", any_epoch, "I[13]"),
    "a failed commit is not repeated": (Ledger, "forget_commit", forget_nothing, "hangs"),
    "a revoke does not wait for the drain": (Ledger, "wait_drained", drained_at_once, "I1"),
    "outcomes are not held": (Transactions, "add", nothing_is_held, "I[12]"),
    "outcomes that interleave are torn apart": (transactions, "closed_set", all_is_ready, "I[12]"),
    "an error is taken for an acknowledgement": (Flight, "delivered", settled_whatever_came, "I[12]"),
    "a failed batch is not run again": (Publisher, "_failed", no_second_run, "hangs"),
    "an offer that waits is never told of room": (
        Window,
        "_pump",
        wrapping(Window, "_pump", nobody_has_room),
        "hangs",
    ),
    "a request of a lost assignment has duplicates": (Duplicates, "_counts", whosever_it_is, "I[12]"),
    "a large request is published behind those after it": (publisher, "sorted", as_they_lie, "order"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, mutant, told = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, mutant, raising=False)
    with pytest.raises(AssertionError, match=told):  # noqa: PT012 - which seed finds it is not known
        for seed in range(MUTANT_SEEDS):
            run(seed)
