"""Backends agree: the same rows have the same answers, within float32's rounding, whichever of them is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import BackendError
from pipeline.infer.backends import BACKENDS, backend_for
from pipeline.models import BUNDLED, Model, add_model, held_out, load_repository
from tests.unit.models import graphs

# Float32 rounds by 2**-24 = 6e-8 of itself; a sum of 600 products, one behind the other, by up to 600 times that.
ABSOLUTE, RELATIVE = 1e-5, 1e-4

Columns = dict[str, np.ndarray[Any, Any]]


def answers(name: str, model: Model, columns: Columns) -> Columns:
    backend = backend_for(name)
    backend.load(model)
    (slot,) = backend.slots(1)
    rows = len(next(iter(columns.values())))
    for column, values in columns.items():
        slot.inputs[column][:rows] = values
    backend.run(slot, rows)
    backend.wait(slot)
    found = {column: values[:rows].copy() for column, values in slot.outputs.items()}
    backend.close()
    return found


def same_in(name: str, model: Model, tmp_path: Path) -> Model:
    """The model in the format that the backend reads."""
    if not name.startswith("torch"):
        return model
    from tests.unit.models import programs

    source = {"digits": programs.digits, "conv": programs.conv}[model.name](tmp_path / f"{model.name}.pt2", model.file)
    return add_model(tmp_path / "programs", source, rows_max=model.manifest.rows_max)


def case(name: str, tmp_path: Path) -> tuple[Model, Columns]:
    if name == "digits":
        (model,) = load_repository(BUNDLED)
        return model, {"image": held_out()[0][:250]}
    model = add_model(tmp_path / "models", graphs.conv(tmp_path / "conv.onnx"), rows_max=32)
    return model, {"x": np.random.default_rng(1).normal(size=(20, 3, 32, 32)).astype(np.float32)}


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("onnxruntime", "tensorrt")])
@pytest.mark.parametrize("model", ["digits", "conv"])
def test_it_answers_as_onnxruntime(backend: str, model: str, tmp_path: Path) -> None:
    onnx, columns = case(model, tmp_path)
    expected = answers("onnxruntime", onnx, columns)
    try:
        backend_for(backend)
        found = answers(backend, same_in(backend, onnx, tmp_path), columns)
    except BackendError as error:  # not installed, or no GPU: what it says is why
        pytest.skip(str(error))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype.kind == "f":
            assert values.std() > 0.01, "all alike"
            np.testing.assert_allclose(found[name], values, rtol=RELATIVE, atol=ABSOLUTE, err_msg=name)
        else:
            assert np.array_equal(found[name], values)
