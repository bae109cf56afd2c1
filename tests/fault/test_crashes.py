"""Faults inside a worker: it dies at the worst moment, its device fails, one row is poison."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.contract.poison import POISON, poison_model
from tests.contract.worker import Worker
from tests.fault.breaking_worker import MODULE
from tests.fault.conftest import ROWS, MakeScene
from tests.fault.scene import Scene
from tests.fault.table import Row
from tests.fault.workload import Made, Workload, made
from tests.unit.commit.test_ledger_model import LedgerMachine

AT_LEAST, EXACTLY = "at-least-once", "exactly-once"
ONLY = ("--instance-id", "only")
LONG = pytest.mark.long
EVENTS = 2000
ENDS_S_MAX = 90.0


def broken(at: Scene, what: str) -> Worker:
    """A worker that breaks so while it is in the midst of requests."""
    armed = at.folder / "armed"
    worker = at.start(*ONLY, module=MODULE, env={"BREAK": what, "BREAK_ARMED": str(armed)})
    at.client.send(EVENTS)
    armed.touch()
    at.client.send(EVENTS)
    at.wait(lambda: not armed.exists(), what)
    at.injected()
    return worker


def ended(at: Scene, worker: Worker) -> int:
    """The exit code of a worker that ends by itself."""
    at.workers.remove(worker)
    return worker.process.wait(ENDS_S_MAX)


@pytest.mark.parametrize(
    ("guarantee", "places"),
    [
        pytest.param(AT_LEAST, ["commit"], marks=LONG),
        (EXACTLY, ["send_offsets_to_transaction", "commit_transaction"]),
    ],
)
def test_f3_dies_just_before_and_just_after_a_commit(scene: MakeScene, guarantee: str, places: list[str]) -> None:
    with scene("F3", "dies just before or after a commit", guarantee) as at:
        for place in places:
            for when in ("before", "after"):
                assert ended(at, broken(at, f"{place} {when} die")) == -signal.SIGKILL
        at.start(*ONLY)
        at.finish()


@pytest.mark.parametrize("guarantee", [AT_LEAST, pytest.param(EXACTLY, marks=LONG)])
def test_f5_the_backend_raises(scene: MakeScene, guarantee: str) -> None:
    """The batch runs again in halves, and all its requests are answered; later batches may overtake it."""
    with scene("F5", "the backend raises", guarantee) as at:
        for error in ("RuntimeError", "MemoryError", "BackendError"):
            at.stop(broken(at, f"run before {error}"))
        at.start(*ONLY)
        assert at.finish(repeats=False, ordered=guarantee == EXACTLY).dead == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("SystemExit", 1),
        pytest.param("DeviceLostError", 1, marks=LONG),
        pytest.param("KeyboardInterrupt", 1, marks=LONG),
        ("crash", -signal.SIGSEGV),
    ],
)
@pytest.mark.parametrize("guarantee", [pytest.param(AT_LEAST, marks=LONG), EXACTLY])
def test_f5_the_device_thread_ends(scene: MakeScene, guarantee: str, error: str, code: int) -> None:
    """The worker never goes on without it: it exits non-zero, and the next one answers."""
    with scene("F5", f"the device thread ends by {error}", guarantee) as at:
        assert ended(at, broken(at, f"run before {error}")) == code
        at.start(*ONLY)
        assert at.finish().dead == 0


@pytest.mark.parametrize("error", ["RuntimeError", pytest.param("BackendError", marks=LONG)])
@pytest.mark.parametrize("guarantee", [pytest.param(AT_LEAST, marks=LONG), EXACTLY])
def test_f5_the_backend_fails_from_now_on(scene: MakeScene, guarantee: str, error: str) -> None:
    """The circuit: zeros fail too, so the worker exits with 1 and blames no request, and the next one answers."""
    with scene("F5", f"the backend fails for good by {error}", guarantee) as at:
        assert ended(at, broken(at, f"run before {error} always")) == 1
        at.start(*ONLY)
        assert at.finish().dead == 0


@pytest.mark.parametrize("place", ["wait", pytest.param("run", marks=LONG)])
@pytest.mark.parametrize("guarantee", [pytest.param(AT_LEAST, marks=LONG), EXACTLY])
def test_f5_a_call_of_the_backend_hangs(scene: MakeScene, guarantee: str, place: str) -> None:
    """On the device thread, or on the completion thread: the worker ends without it, and the next one answers."""
    with scene("F5", f"the backend's {place} hangs", guarantee) as at:
        assert ended(at, broken(at, f"{place} before hang")) == 1
        at.start(*ONLY)
        assert at.finish().dead == 0


@LONG
def test_f14_a_call_of_the_transaction_does_not_return(scene: MakeScene) -> None:
    """As librdkafka's may not once a coordinator has left the cluster: the worker gives up and exits with 1."""
    with scene("F14", "the transaction's call hangs", EXACTLY) as at:
        assert ended(at, broken(at, "send_offsets_to_transaction before hang")) == 1
        at.start(*ONLY)
        at.finish()


def poison(folder: Path, name: str) -> Workload:
    """One row of 256 makes the runtime refuse the whole batch."""
    models, _ = poison_model(folder / "models", name)

    def make(number: int) -> Made:
        index = POISON if number % 256 == 77 else number % 10
        return b"key", np.int64(index).tobytes(), made(number, None)[2]

    return Workload(models, name, make, lambda request_id, value: value == np.float32(int(request_id) % 10).tobytes())


@pytest.mark.parametrize("guarantee", [pytest.param(AT_LEAST, marks=LONG), EXACTLY])
def test_f25_a_poison_row_in_a_full_batch(scene: MakeScene, guarantee: str, long: bool) -> None:
    """I7: 255 answered, one dead letter; so each time. At least once, later batches may overtake the halves."""
    times = 20 if long else 4
    with scene("F25", "a poison row in a batch of 256", guarantee, workload=poison) as at:
        at.client.send(256 * times)
        at.injected(times)
        at.start()
        verdict = at.finish(repeats=False, ordered=guarantee == EXACTLY)
        assert (verdict.answered, verdict.dead) == (255 * times, times)


@LONG
def test_f11_completions_out_of_order(pytestconfig: pytest.Config) -> None:
    """The ledger beside a naive model in any interleaving; I2 is asserted at each commit. No worker takes part."""
    times = 1000
    started_s = time.monotonic()
    run_state_machine_as_test(
        LedgerMachine, settings=settings(max_examples=times, stateful_step_count=40, deadline=None)
    )
    row = Row("F11", "completions out of order, schedules", "", injected=times, wall_s=time.monotonic() - started_s)
    pytestconfig.stash[ROWS].append(row)
