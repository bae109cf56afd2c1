"""How a worker ends: what it says of a failure while it drains, and which signals it outlives while it loads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import faust
import pytest

import pipeline.serve
from pipeline.app import create_app, flow_of
from pipeline.core.errors import DeviceLostError
from pipeline.core.settings import Settings
from pipeline.models import Model
from tests.contract.memory import MemoryBroker
from tests.unit.app.test_watch import Hanging
from tests.unit.infer.makers import model_of
from tests.unit.publish.bench import WAIT_S, FakeProducer
from topics.records import RAW


def test_a_worker_whose_device_is_lost_while_it_drains_has_failed() -> None:
    """In a process of its own, which is told to stop."""
    code = "import sys; from tests.unit.app.test_serve import lose_while_draining; sys.exit(lose_while_draining())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "{}"), done.stderr


def lose_while_draining() -> int:
    """The worker's exit code; prints what it has committed."""
    broker, backend, draining = MemoryBroker(1), Hanging("run"), threading.Event()
    backend.raises = DeviceLostError("gone")
    backend.go_on.set()  # it is run once to see how long it takes

    def made(models: Sequence[Model], settings: Settings, **options: Any) -> faust.App:
        app = create_app(
            models, settings, consumer_factory=broker.consumer, producer_factory=lambda _: FakeProducer(), **options
        )
        flow, intake = flow_of(app)
        flow._backends.append(backend)
        patch.setattr(intake, "_let_go", _telling(intake._let_go, draining))
        return app

    def lose() -> None:
        """The device is lost once the worker, told to stop, drains."""
        assert backend.entered.wait(WAIT_S)
        os.kill(os.getpid(), signal.SIGTERM)
        assert draining.wait(WAIT_S)
        backend.poison = {0}
        backend.go_on.set()

    def ready() -> None:
        backend.go_on.clear()
        backend.entered.clear()
        broker.produce(model_of().topics.requests, 0, bytes(8), None, [("content-type", RAW.encode())])
        threading.Thread(target=lose, daemon=True).start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.serve, "create_app", made)
        code = pipeline.serve.run_worker([model_of()], Settings("broker"), ready=ready)
    sys.stdout.write(str(broker.committed))
    return code


def _telling(call: Any, told: threading.Event) -> Any:
    def telling(*arguments: Any) -> Any:
        told.set()
        return call(*arguments)

    return telling


def test_a_worker_that_is_told_to_look_while_it_loads_goes_on_loading() -> None:
    """In a process of its own, which the signal would end."""
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        import pipeline.serve
        from pipeline.app import Flow, create_app
        from pipeline.core.settings import Settings
        from tests.contract.memory import MemoryBroker
        from tests.unit.infer.makers import FakeBackend, model_of
        from tests.unit.publish.bench import FakeProducer
        def load(flow):
            if not flow._backends:
                os.kill(os.getpid(), signal.SIGHUP)
                flow._backends.append(FakeBackend())
        Flow.load = load
        made = {"consumer_factory": MemoryBroker(1).consumer, "producer_factory": lambda settings: FakeProducer()}
        pipeline.serve.create_app = lambda *given, **options: create_app(*given, **options, **made)
        stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
        sys.exit(pipeline.serve.run_worker([model_of()], Settings("broker"), repository=Path("none"), ready=stop))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
