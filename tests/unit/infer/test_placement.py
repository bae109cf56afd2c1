"""Which device and backend a model gets, and what is said where it cannot have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorrt_rtx_bindings as trt
from typer.testing import CliRunner, Result

from pipeline.cli.main import app
from pipeline.core.errors import BackendError, ConfigError
from pipeline.infer import placement
from pipeline.infer.backends import tensorrt
from pipeline.infer.backends.onnxruntime_cuda import OnnxRuntimeCuda
from pipeline.infer.backends.tensorrt import TensorRt
from pipeline.infer.cuda import CudaBindings, Gpu, Gpus, look_for_gpus, probe
from pipeline.infer.placement import Place, place, placed
from pipeline.models import BUNDLED, load_repository
from tests.unit.infer.tensorrt.networks import network

TWO = Gpus(tuple(Gpu(number, f"NVIDIA Test {number}", "9.0", 80 << 30, "13.1", "13.5") for number in (0, 1)))
WITHOUT = Place("onnxruntime", why="TensorRT is not installed")
NONE = Gpus((), "no CUDA driver")


@pytest.mark.parametrize(
    ("backend", "device", "gpus", "where"),
    [
        ("onnxruntime", "auto", TWO, Place("onnxruntime")),
        ("onnxruntime", "cpu", TWO, Place("onnxruntime")),
        ("onnxruntime", "cuda:1", TWO, Place("tensorrt", 1)),
        ("tensorrt", "auto", TWO, Place("tensorrt", 0)),
        ("tensorrt", "auto", NONE, Place("onnxruntime", why="no CUDA driver")),
        ("tensorrt", "cpu", TWO, Place("onnxruntime")),
        ("tensorrt", "cuda:0", TWO, Place("tensorrt", 0)),
        ("onnxruntime_cuda", "auto", TWO, Place("onnxruntime_cuda")),
        ("onnxruntime_cuda", "cpu", TWO, Place("onnxruntime")),
        ("onnxruntime_cuda", "cuda:1", TWO, Place("onnxruntime_cuda", 1)),
        ("torch", "cuda:1", TWO, Place("torch_cuda", 1)),
        ("torch_cuda", "cuda:1", TWO, Place("torch_cuda", 1)),
        ("torch_cuda", "cpu", TWO, Place("torch")),
        ("torch", "auto", TWO, Place("torch")),
        ("openvino", "cpu", TWO, Place("openvino")),
        ("openvino", "auto", NONE, Place("openvino")),
    ],
)
def test_where_a_model_runs(backend: str, device: str, gpus: Gpus, where: Place) -> None:
    assert place(backend, device, look=lambda: gpus, tensorrt=lambda: "tensorrt") == where


def test_without_tensorrt_auto_is_the_cpu_and_a_gpu_is_refused() -> None:
    assert place("tensorrt", "auto", look=lambda: TWO, tensorrt=lambda: None) == WITHOUT
    with pytest.raises(BackendError, match="TensorRT is not installed: pip install"):
        place("tensorrt", "cuda:0", look=lambda: TWO, tensorrt=lambda: None)


@pytest.mark.parametrize(
    ("backend", "device", "gpus", "said"),
    [
        ("onnxruntime", "cuda:0", NONE, "--device cuda:0: no CUDA driver"),
        ("tensorrt", "cuda:2", TWO, r"there is none; there are: cuda:0 \(NVIDIA Test 0\), cuda:1"),
        ("openvino", "cuda:0", TWO, "backend 'openvino' does not run there"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(backend: str, device: str, gpus: Gpus, said: str) -> None:
    with pytest.raises(BackendError, match=said):
        place(backend, device, look=lambda: gpus, tensorrt=lambda: "tensorrt")


def test_a_backend_is_made_for_the_gpu_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "place", lambda backend, device: Place("tensorrt", 1))
    backend = placed(load_repository(BUNDLED)[0], "cuda:1")
    assert isinstance(backend, TensorRt)
    assert backend._device == 1
    monkeypatch.setattr(placement, "place", lambda backend, device: Place("onnxruntime_cuda", 1))
    backend = placed(load_repository(BUNDLED)[0], "cuda:1")
    assert isinstance(backend, OnnxRuntimeCuda)
    assert backend.providers[0][1]["device_id"] == "1"


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:", "cuda:x", "cuda:0 ", "CUDA:0", ""])
def test_what_is_no_device_is_misuse(device: str) -> None:
    with pytest.raises(ConfigError, match=r"no GPU is called so; they are cuda:0, cuda:1"):
        place("onnxruntime", device, look=lambda: TWO)


def build(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", "build", *map(str, arguments)])


def test_an_engine_is_built_ahead_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network(tmp_path, rows_max=1)
    monkeypatch.setenv("SLUICE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.infer.cuda.look_for_gpus", lambda: TWO)
    monkeypatch.setattr(tensorrt, "load_tensorrt", lambda: trt)
    used: list[int] = []
    monkeypatch.setattr(CudaBindings, "use", lambda self, device: used.append(device))
    options = ("float32", "--models", tmp_path / "models", "--device", "cuda:1", "--json")
    first, again = (json.loads(build(*options).stdout) for _ in range(2))
    assert (first["model"], first["gpu"], first["built"]) == ("float32/1", "NVIDIA Test 1", True)
    assert Path(first["path"]).stat().st_size > first["bytes"] > 0
    assert used == [1, 1]
    assert again == first | {"built": False, "seconds": 0.0}
    assert "float32/1 on NVIDIA Test 1: there already" in build(*options[:-1]).stdout


def test_what_cannot_be_built_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "look_for_gpus", lambda: NONE)
    monkeypatch.setattr("pipeline.infer.cuda.look_for_gpus", lambda: NONE)
    for arguments, kind, said in (
        (("digits",), BackendError, "--device cuda:0: no CUDA driver"),
        (("letters",), ConfigError, "no model letters in"),
        (("digits/7",), ConfigError, "no model digits/7 in"),
        (("digits/1", "--device", "cpu"), ConfigError, "--device cpu: no GPU is called so"),
    ):
        error = build(*arguments).exception
        assert isinstance(error, kind), arguments
        assert said in str(error)


def test_the_devices_are_listed_or_why_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpus, line in (
        (TWO, "cuda:1  NVIDIA Test 1  80.0 GiB  compute capability 9.0"),
        (NONE, "no GPU: no CUDA driver"),
    ):
        monkeypatch.setattr("pipeline.infer.cuda.look_for_gpus", lambda gpus=gpus: gpus)
        assert line in CliRunner().invoke(app, ["devices"]).stdout
        told = json.loads(CliRunner().invoke(app, ["devices", "--json"]).stdout)
        assert [gpu["name"] for gpu in told["gpus"]] == [gpu.name for gpu in gpus.found]
        assert told["reason"] == (gpus.reason or None)


if not look_for_gpus().found:

    def test_a_gpu_that_is_not_there_is_one_line_before_kafka_is_asked() -> None:
        command = [sys.executable, "-m", "pipeline.cli", "serve", "--device", "cuda:0"]
        env = {name: value for name, value in os.environ.items() if name != "SLUICE_BROKER"}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == f"sluice: error: --device cuda:0: {look_for_gpus().reason}\n"
