"""The OpenVINO backend: the contract of every backend, and its own format."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import BackendError, ModelError
from pipeline.infer.backend import Backend
from pipeline.infer.backends import backend_for
from pipeline.models import BUNDLED, Model, add_model, held_out, load_repository, verify
from pipeline.models.openvino import runtime
from tests.contract.backend_suite import ROWS_MAX, BackendSuite
from tests.unit.models import graphs
from tests.unit.models.bad_models import good_model, listed_as_they_are


class TestOpenVino(BackendSuite):
    def make(self) -> Backend:
        return backend_for("openvino")

    @pytest.fixture
    def model(self, tmp_path: Path) -> Model:
        """OpenVINO takes any index: shapes that do not fit are what fails."""
        return add_model(tmp_path / "models", graphs.pick_or_misfit(tmp_path / "pick.onnx"), rows_max=ROWS_MAX)


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """The bundled digits in OpenVINO's own format: ``digits.xml`` and, beside it, ``digits.bin``."""
    (bundled,) = load_repository(BUNDLED)
    folder = tmp_path / "converted"
    folder.mkdir()
    opened = runtime().Core().read_model(bundled.file)
    runtime().save_model(opened, folder / "digits.xml", compress_to_fp16=False)
    return folder / "digits.xml"


def answer(model: Model, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    backend = backend_for(model.manifest.backend)
    backend.load(model)
    (slot,) = backend.slots(1)
    slot.inputs["image"][: len(images)] = images
    backend.run(slot, len(images))
    backend.wait(slot)
    found = slot.outputs["label"][: len(images)].copy()
    backend.close()
    return found


def test_its_own_format_is_added_with_its_weights_and_answers(converted: Path, tmp_path: Path) -> None:
    model = add_model(tmp_path / "models", converted, rows_max=100)
    assert (model.manifest.backend, set(model.manifest.files)) == ("openvino", {"digits.xml", "digits.bin"})
    assert model.signature == load_repository(BUNDLED)[0].signature
    assert load_repository(tmp_path / "models") == [model]
    images, labels = held_out()
    assert (answer(model, images[:100]) == labels[:100]).mean() >= 0.95


def test_weights_that_changed_or_are_missing_are_refused(converted: Path, tmp_path: Path) -> None:
    model = add_model(tmp_path / "models", converted)
    weights = model.path / "digits.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + bytes(4))
    with pytest.raises(ModelError, match="its sha256 is"):
        backend_for("openvino").load(model)
    weights.write_bytes(content[:1000])
    with pytest.raises(ModelError, match="OpenVINO refuses it"):
        verify(listed_as_they_are(model))
    converted.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match="No such file"):
        add_model(tmp_path / "models", converted)


def test_external_data_of_an_onnx_file_is_read_as_it_was_hashed(tmp_path: Path) -> None:
    model = good_model(tmp_path / "models", tmp_path / "source", backend="openvino")
    assert set(model.manifest.files) == {"plus.onnx", "data/w.bin"}
    backend = backend_for("openvino")
    backend.load(model)
    (model.path / "data" / "w.bin").unlink()  # read already, and from nowhere else
    (slot,) = backend.slots(1)
    slot.inputs["x"][0] = 10
    backend.run(slot, 1)
    backend.wait(slot)
    assert slot.outputs["y"][0].tolist() == [11, 12, 13]
    backend.close()


def test_where_openvino_is_missing_its_format_cannot_be_read_and_that_is_said(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"pip install 'sluice\[openvino\]'"):
        add_model(tmp_path / "models", converted)


def test_nobody_is_told_that_it_is_used() -> None:
    """OpenVINO's import forks a process that looks an address up and reports; audited, as Python's events tell it."""
    code = """if True:
        import sys
        told = []
        sys.addaudithook(lambda event, _: told.append(event) if event in ("os.fork", "socket.getaddrinfo") else None)
        from pipeline.infer.backends import backend_for
        from pipeline.models import BUNDLED, load_repository
        backend_for("openvino").load(load_repository(BUNDLED)[0])
        assert "openvino" in sys.modules
        sys.exit(str(told) if told else 0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_of_fewer_rows_than_were_asked_for_is_an_error_and_nobody_gets_an_older_answer(
    tmp_path: Path,
) -> None:
    model = add_model(tmp_path / "models", graphs.positive(tmp_path / "some.onnx"), backend="openvino", rows_max=3)
    backend = backend_for("openvino")
    backend.load(model)
    (slot,) = backend.slots(1)
    backend.warm()
    for rows in ([[1, 1], [2, 2], [3, 3]], [[4, 4], [-5, -5], [6, 6]], [[7, 7], [8, 8], [9, 9]]):
        slot.inputs["x"][:] = rows
        if min(map(min, rows)) < 0:
            with pytest.raises(BackendError, match=r"of 3 rows it made outputs of shapes \[\[2, 2\]\]"):
                backend.run(slot, 3)
            continue
        backend.run(slot, 3)
        backend.wait(slot)
        assert slot.outputs["y"].tolist() == rows
    backend.close()


@pytest.mark.parametrize("kind", ["bf16", "u4", "i4", "f8e4m3", "nf4"])
def test_a_type_that_numpy_does_not_have_is_refused(kind: str, tmp_path: Path) -> None:
    """OpenVINO itself calls them float16 and bytes; their tensors do not fit such buffers."""
    ov = runtime()
    given = ov.opset13.parameter([-1, 2], getattr(ov.Type, kind), name="x")
    given.output(0).get_tensor().set_names({"x"})
    ov.save_model(ov.Model([ov.opset13.result(given)], [given]), tmp_path / "odd.xml", compress_to_fp16=False)
    with pytest.raises(ModelError, match="which no column can carry"):
        add_model(tmp_path / "models", tmp_path / "odd.xml")
