"""A backend's call that does not return ends the worker, whichever thread is in it, and is left behind by the stop."""

from __future__ import annotations

import asyncio
import threading
from typing import ClassVar

import pytest

import pipeline.app
from pipeline.app import Flow
from pipeline.commit import Ledger
from pipeline.core.errors import BackendError
from pipeline.core.limits import Limits
from pipeline.core.settings import Settings
from pipeline.infer import Slot
from pipeline.observe import Observer
from tests.unit.infer.makers import FakeBackend, model_of
from tests.unit.intake.messages import TOPIC, chunk_of, message
from tests.unit.publish.bench import WAIT_S, Clock, FakeProducer
from topics.records import RAW

COMPUTE_MS_MAX = 60_000


class Hanging(FakeBackend):
    """Its call of that name waits to be let go; ``wait``, as where a batch runs on after `run` has returned."""

    asynchronous: ClassVar[bool] = True

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.entered, self.go_on = threading.Event(), threading.Event()

    def _at(self, place: str) -> None:
        if place == self.place:
            self.entered.set()
            self.go_on.wait()

    def run(self, slot: Slot, rows: int) -> None:
        self._at("run")
        super().run(slot, rows)

    def wait(self, slot: Slot) -> None:
        self._at("wait")


def flow_of(backend: Hanging, clock: Clock) -> Flow:
    """A flow of one loaded model, with partition 0."""
    ledger = Ledger()
    ledger.assign([(TOPIC, 0)])
    flow = Flow(
        [model_of()],
        Settings("broker", limits=Limits(compute_ms_max=COMPUTE_MS_MAX)),
        ledger=ledger,
        observer=Observer(clock=clock),
        clock=clock,
        producer_factory=lambda settings: FakeProducer(),
        group_metadata=lambda: None,
    )
    flow._backends.append(backend)
    return flow


async def hung(flow: Flow, backend: Hanging) -> None:
    """Start the flow; returns when a request has got to where the backend hangs."""
    backend.go_on.set()  # it is run once to see how long it takes
    await flow.start()
    backend.go_on.clear()
    backend.entered.clear()
    request = message(0, bytes(8), headers=[("content-type", RAW.encode())])
    chunk = chunk_of([request], epoch=flow._ledger.epoch((TOPIC, 0)) or 0, finish=flow._ledger.finish)
    flow._ledger.track(chunk)
    await flow.serve("m", chunk)
    await until(backend.entered)


async def until(event: threading.Event) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, event.wait, WAIT_S)


@pytest.mark.parametrize("place", ["run", "wait"])
def test_a_call_that_does_not_return_ends_the_worker(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.app, "FLUSH_S", 0.1)
    backend, clock = Hanging(place), Clock()
    flow = flow_of(backend, clock)
    crashed = threading.Event()
    fail = flow.fail

    def failed(error: BaseException) -> None:
        fail(error)
        crashed.set()

    monkeypatch.setattr(flow, "fail", failed)

    async def scenario() -> None:
        await hung(flow, backend)
        assert not crashed.is_set()
        clock.late_ns += (COMPUTE_MS_MAX + 1) * 1_000_000
        await until(crashed)
        await asyncio.sleep(0)
        await flow.stop()

    try:
        asyncio.run(scenario())
        assert isinstance(flow.crash_reason, BackendError)
        assert str(flow.crash_reason) == f"a batch has not ended within {COMPUTE_MS_MAX} ms"
        assert backend.closed == 0, "a thread is in it"
    finally:
        backend.go_on.set()


def test_a_stop_does_not_wait_for_a_call_that_does_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.app, "FLUSH_S", 0.1)
    backend = Hanging("run")
    flow = flow_of(backend, Clock())

    async def scenario() -> None:
        await hung(flow, backend)
        await asyncio.wait_for(flow.stop(), WAIT_S)

    try:
        asyncio.run(scenario())
        assert (flow.crashed, backend.closed) == (False, 0)
    finally:
        backend.go_on.set()
