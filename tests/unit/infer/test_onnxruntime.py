"""The ONNX Runtime backend: the contract of every backend, and how a backend is found by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import pipeline.load
from pipeline.core.errors import BackendBusyError, BackendError
from pipeline.infer import backends, threads
from pipeline.infer.backend import Backend, bucket_of
from pipeline.infer.backends import backend_for
from pipeline.models import BUNDLED, add_model, load_repository
from tests.contract.backend_suite import BackendSuite
from tests.unit.models import graphs


class TestOnnxRuntime(BackendSuite):
    def make(self) -> Backend:
        return backend_for("onnxruntime")

    def test_two_backends_share_nothing(self) -> None:
        assert backend_for("onnxruntime") is not backend_for("onnxruntime")


def test_the_cuda_provider_is_refused_where_it_is_missing() -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("the onnxruntime that is installed has CUDA")
    (model,) = load_repository(BUNDLED)
    with pytest.raises(BackendError, match=r"'onnxruntime_cuda': .* has no CUDA, .*CPU.*pip install onnxruntime-gpu"):
        backend_for("onnxruntime_cuda").load(model)


def test_a_row_is_answered_alike_at_whatever_length_its_batch_is_padded_to() -> None:
    (model,) = [
        each for each in load_repository(Path(pipeline.load.__file__).parent / "models") if each.name == "encoder"
    ]
    manifest, rng = model.manifest, np.random.default_rng(3)
    tokens = np.zeros((5, manifest.lengths[0]), np.int64)
    for row in tokens:
        row[: rng.integers(1, len(row))] = rng.integers(1, 256)
    backend = backend_for("onnxruntime")
    backend.load(model)
    (slot,) = backend.slots(1)
    backend.warm()
    answers = []
    for length in manifest.lengths:
        slot.inputs["tokens"][:] = 255  # as a longer batch left it
        slot.length = length
        slot.input("tokens")[: len(tokens)] = np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))
        backend.run(slot, len(tokens))
        answers.append(slot.outputs["probabilities"][: len(tokens)].copy())
    backend.close()
    assert len(answers) == 5 and np.ptp(answers[0], axis=0).max() > 0.01
    assert all(np.allclose(answers[0], answer, atol=1e-5) for answer in answers)


def test_an_unknown_backend_is_told_with_the_known_ones() -> None:
    with pytest.raises(BackendError, match=r"no backend 'tpu'; there are: .*onnxruntime"):
        backend_for("tpu")


def test_a_runtime_that_is_not_installed_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.BACKENDS, "onnxruntime", ("OnnxRuntime", "sluice[some-extra]"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "pipeline.infer.backends.onnxruntime")
    with pytest.raises(BackendError, match=r"pip install 'sluice\[some-extra\]'"):
        backend_for("onnxruntime")


def test_no_runtime_is_imported_before_a_model_asks_for_it() -> None:
    code = "import pipeline.models, pipeline.infer.backends, sys; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 4), (4, 4), (5, 16), (16, 16)])
def test_a_batch_is_padded_to_the_smallest_bucket_that_holds_it(rows: int, bucket: int) -> None:
    assert bucket_of(rows, (1, 4, 16)) == bucket


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [(1, "max 100000", 1), (2, "max 100000", 1), (8, "max 100000", 7), (8, "400000 100000", 3), (8, "50000 100000", 1)],
)
def test_one_core_of_what_the_container_may_use_is_left_to_kafka(
    cores: int, quota: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(threads, "CGROUP_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert threads.default_threads() == expected


def test_slots_that_memory_does_not_hold_are_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*given: object) -> None:
        raise MemoryError("Unable to allocate 32.0 TiB")

    row = (TensorProto.DOUBLE, ("batch", 1 << 26))
    node = helper.make_node("Identity", ["x"], ["y"])
    source = graphs.save(tmp_path / "huge.onnx", [node], inputs={"x": row}, outputs={"y": row})
    backend = backend_for("onnxruntime")
    backend.load(add_model(tmp_path / "models", source, rows_max=65_536))
    monkeypatch.setattr(np, "zeros", short)
    with pytest.raises(BackendBusyError, match=r"huge/1: no memory for a batch of 65536 rows: .* 32\.0 TiB"):
        backend.slots(3)
