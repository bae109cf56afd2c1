"""On a real GPU: the contract of every backend, engines that answer as ONNX Runtime does, the worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from pipeline.core.errors import BackendBusyError
from pipeline.infer import Backend
from pipeline.infer.backends import backend_for
from pipeline.infer.backends.onnxruntime import OnnxRuntime
from pipeline.infer.backends.tensorrt import TensorRt
from pipeline.infer.cuda import CudaBindings, look_for_gpus
from pipeline.local import EmbeddedKafka
from pipeline.models import BUNDLED, Model, add_model, held_out, load_repository
from tests.contract.backend_suite import BackendSuite
from tests.contract.worker import Worker
from tests.gpu.backends import installed, made
from tests.gpu.perceptron import perceptron
from tests.gpu.spans import bare_loop
from tests.unit.infer import test_torch
from tests.unit.infer.tensorrt.fake_cuda import array_at
from tests.unit.infer.tensorrt.networks import FLOAT16, FLOAT32, INT8, network
from topics import Client

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True, scope="module")
def cache(broker: EmbeddedKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines of the tests' own; the broker has started from the user's cache before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLUICE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


RESOLUTION_MS = 0.001  # of an event


def needs(name: str) -> str:
    """Skip where the backend is not installed."""
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    return name


# A kernel that reads past the end of its table says nothing, or takes the device with it.
FAILS = "test_a_batch_that_fails_says_so_and_the_slot_works_again"


class TestTensorRtOnAGpu(BackendSuite):
    def make(self) -> Backend:
        return backend_for(needs("tensorrt"))


class TestTorchOnAGpu(test_torch.TestTorch):
    def make(self) -> Backend:
        return backend_for("torch_cuda")


class TestOnnxRuntimeOnAGpu(BackendSuite):
    def make(self) -> Backend:
        return backend_for(needs("onnxruntime_cuda"))


for suite in (TestTensorRtOnAGpu, TestTorchOnAGpu, TestOnnxRuntimeOnAGpu):
    setattr(suite, FAILS, None)


@pytest.mark.parametrize(("kind", "tolerance"), [(FLOAT32, 1e-5), (FLOAT16, 5e-3), (INT8, 5e-2)])
def test_an_engine_answers_as_onnx_runtime_does(kind: str, tolerance: float, tmp_path: Path) -> None:
    needs("tensorrt")
    model = network(tmp_path, kind, rows_max=64)
    rows = np.random.default_rng(3).normal(size=(64, 8)).astype(np.float32)
    expected, found = (answer(backend, model, rows) for backend in (OnnxRuntime(), TensorRt()))
    assert np.allclose(expected, found, atol=tolerance)


def answer(backend: Backend, model: Model, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    backend.load(model)
    (slot,) = backend.slots(1)
    backend.warm()
    slot.inputs["x"][:] = rows
    backend.run(slot, len(rows))
    backend.wait(slot)
    found = slot.outputs["y"].copy()
    backend.close()
    return found


def test_every_bucket_is_captured(tmp_path: Path) -> None:
    needs("tensorrt")
    backend, model = TensorRt(), network(tmp_path, rows_max=64)
    backend.load(model)
    backend.slots(3)
    backend.warm()
    assert all(gpu_slot.graphs == model.manifest.buckets for gpu_slot in backend.gpu_slots)
    backend.close()


@pytest.fixture(params=["tensorrt", "torch_cuda"])
def name(request: pytest.FixtureRequest) -> str:
    """Each backend whose slots are those of `pipeline.infer.backends.tensorrt`."""
    return needs(request.param)


def test_runs_take_turns_and_copies_go_on_beside_them(name: str, tmp_path: Path) -> None:
    backend = made(name)
    assert isinstance(backend, TensorRt)
    backend.load(perceptron(tmp_path, name, width=1024, layers=8, rows_max=256))
    slots = backend.slots(3)
    backend.warm()
    loop = bare_loop(backend, CudaBindings(), slots, 256, 0.5, time.monotonic)
    assert len(loop.batches) > 3 and loop.overlap > 0
    assert all(one.computed <= other.started + RESOLUTION_MS for one, other in pairwise(loop.batches))
    backend.close()


def test_memory_is_copied_there_and_back() -> None:
    cuda, size = CudaBindings(), 1 << 20
    cuda.use(0)
    stream, event = cuda.stream(), cuda.event()
    device, one, two = cuda.allocate(size), cuda.pin(size), cuda.pin(size)
    sent, back = (array_at(address, (size,), np.dtype("uint8")) for address in (one, two))
    sent[:] = np.arange(size, dtype=np.uint64).astype(np.uint8)
    back[:] = 0
    cuda.copy_in(device, one, size, stream)
    cuda.copy_out(two, device, size, stream)
    cuda.record(event, stream)
    while not cuda.event_done(event):
        pass
    assert cuda.stream_done(stream)
    assert np.array_equal(sent, back)
    cuda.end_event(event)
    cuda.end_stream(stream)
    cuda.free(device)
    cuda.unpin(one)
    cuda.unpin(two)


def test_what_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    backend = made(name)
    backend.load(perceptron(tmp_path, name, width=64, layers=1, rows_max=64))
    with pytest.raises(BackendBusyError, match="slots take"):
        backend.slots(1 << 40)
    backend.close()


def test_a_worker_answers_from_the_gpu(
    name: str, broker: EmbeddedKafka, topic: Callable[..., str], tmp_path: Path
) -> None:
    (digits,) = load_repository(BUNDLED)
    repository = BUNDLED
    if name == "torch_cuda":
        from tests.unit.models import programs

        repository = tmp_path / "models"
        add_model(repository, programs.digits(tmp_path / "digits.pt2", digits.file), rows_max=digits.manifest.rows_max)
    images, labels = held_out()
    options = ("--device", "cuda:0", "--from", "latest")
    with Worker(broker.bootstrap, repository, topic("group"), *options, log=tmp_path / "log") as worker:
        with Client(broker.bootstrap, digits.name, digits.signature) as client:
            said = client.predict(images[:256], timeout_s=60)
        assert worker.stop() == 0
    assert (said["label"] == labels[:256]).mean() >= 0.98


def test_the_gpu_is_listed() -> None:
    told = json.loads(CliRunner().invoke(app, ["devices", "--json"]).stdout)
    assert [gpu["name"] for gpu in told["gpus"]] == [gpu.name for gpu in look_for_gpus().found]
