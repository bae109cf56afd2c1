"""The engine builder with a real TensorRT, which builds without a GPU (and runs nothing)."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper

from pipeline.core.errors import BackendError, ModelError
from pipeline.infer.backends.tensorrt import build_plan
from pipeline.models import BUNDLED, Model, add_model, load_repository, read_content
from tests.unit.infer.tensorrt.networks import FLOAT16, FLOAT32, INT8, network
from tests.unit.models import graphs
from tests.unit.models.bad_models import good_model, missing_operator
from topics.signature import Signature, Tensor


def build(model: Model, **options: Any) -> tuple[bytes, bytes]:
    return build_plan(trt, model, *read_content(model), **options)


class Recorder:
    """A config whose profiles, flags and timing cache are written down; all else is TensorRT's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.profiles: list[Any] = []
        self.flags: list[Any] = []
        self.network: Any = None
        recorder, real = self, trt.Builder

        class Builder(trt.Builder):  # type: ignore[misc] # of a module without types
            def build_serialized_network(self, network: Any, config: Any) -> Any:
                recorder.network = network
                recorder.flags = [flag for flag in trt.BuilderFlag.__members__.values() if config.get_flag(flag)]
                return real.build_serialized_network(self, network, config)

            def create_optimization_profile(self) -> Any:
                recorder.profiles.append(real.create_optimization_profile(self))
                return recorder.profiles[-1]

        monkeypatch.setattr(trt, "Builder", Builder)


@pytest.mark.parametrize(
    ("kind", "types"), [(FLOAT32, {"FLOAT"}), (FLOAT16, {"FLOAT", "HALF"}), (INT8, {"FLOAT", "INT8"})]
)
def test_an_engine_is_built_in_the_types_that_the_onnx_says(
    kind: str, types: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    plan, timings = build(network(tmp_path, kind))
    assert len(plan) > 10_000 and timings
    built = recorder.network
    layers = [built.get_layer(index) for index in range(built.num_layers)]
    assert {layer.get_output(0).dtype.name for layer in layers} - {"INT64"} == types  # shapes are int64
    assert built.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_every_bucket_has_a_profile_of_just_its_size_and_float32_is_no_tf32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    build(network(tmp_path, rows_max=4))
    shapes = [[tuple(shape) for shape in profile.get_shape("x")] for profile in recorder.profiles]
    assert shapes == [[(bucket, 8)] * 3 for bucket in (1, 2, 3, 4)]
    assert trt.BuilderFlag.TF32 not in recorder.flags
    assert trt.BuilderFlag.REQUIRE_USER_ALLOCATION in recorder.flags


def test_the_models_that_other_tests_serve_can_be_built(tmp_path: Path) -> None:
    (digits,) = load_repository(BUNDLED)
    pick = add_model(tmp_path / "models", graphs.pick(tmp_path / "pick.onnx"), rows_max=1)
    for model in (Model(replace(digits.manifest, rows_max=1, buckets=(1,)), digits.path), pick):
        assert build(model)[0]


def test_external_data_is_what_was_verified_and_not_what_lies_on_disk(tmp_path: Path) -> None:
    model = good_model(tmp_path / "models", tmp_path, rows_max=1)
    content = read_content(model)
    (model.path / "data" / "w.bin").unlink()
    assert build_plan(trt, model, *content)[0]


def test_progress_tells_the_phase_and_how_far_the_whole_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build(network(tmp_path, rows_max=1), progress=lambda *step: told.append(step))
    steps = {total for _, _, total in told}
    assert len(steps) == 1
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[0][1] == 0 and told[-1][1] == steps.pop()
    assert len({phase for phase, _, _ in told}) > 3


def test_a_build_is_given_up_when_it_is_cancelled(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(BackendError, match="cannot build"):
        build(network(tmp_path, rows_max=1), cancelled=cancelled)


def test_what_the_parser_cannot_take_is_told_with_its_node(tmp_path: Path) -> None:
    model = missing_operator(add_model(tmp_path / "models", graphs.add(tmp_path / "plus.onnx"), rows_max=1))
    with pytest.raises(BackendError, match=r"plus/1: TensorRT cannot take it: node \S+.*Conjure"):
        build(model)


def test_a_node_with_a_name_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="the-good-one")
    bad = helper.make_node("Conjure", ["y"], ["z"], name="the-bad-one", domain="example.none")
    shape = (TensorProto.FLOAT, ("batch", 3))
    path = graphs.save(
        tmp_path / "odd.onnx", [node, bad], inputs={"x": shape}, outputs={"z": shape}, domains=("", "example.none")
    )
    model = add_model(tmp_path / "models", graphs.add(tmp_path / "plus.onnx"), rows_max=1)
    with pytest.raises(BackendError, match=r"node the-bad-one \(Conjure\)"):
        build_plan(trt, model, path.read_bytes(), {})


@pytest.mark.parametrize(
    "signature",
    [
        lambda x, y: Signature((replace(x, name="other"),), (y,)),
        lambda x, y: Signature((x,), (replace(y, shape=(5,)),)),
        lambda x, y: Signature((x, Tensor("more", x.dtype, ())), (y,)),
        lambda x, y: Signature((x,), (replace(y, dtype=np.dtype("float16")),)),
    ],
)
def test_a_model_that_is_not_as_declared_is_refused(signature: Any, tmp_path: Path) -> None:
    model = network(tmp_path, rows_max=1)
    other = signature(*model.signature.inputs, *model.signature.outputs)
    content = read_content(model)
    with pytest.raises(ModelError, match="declares"):
        build_plan(trt, Model(replace(model.manifest, signature=other), model.path), *content)
