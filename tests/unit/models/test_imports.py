"""Models of other frameworks: converted, compared with what they answered there, and refused where they differ."""

from __future__ import annotations

import json
import os
import pickle
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner, Result

from pipeline.cli.main import app
from pipeline.core.errors import BackendError, ConfigError, ModelError
from pipeline.models import BUNDLED, held_out, load_repository
from pipeline.models.imports import Rows, from_sklearn, import_model
from tests.unit.models import graphs
from tests.unit.models.archives import GRAPH, PICK, changed

BARE = Path(sys.base_prefix) / "bin" / "python3"  # without the packages of this environment


slow = pytest.mark.timeout(1800)  # each framework starts several times, on a busy machine for half a minute each


def sluice(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", "import", *map(str, arguments)])


def needs(module: str, target: str) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed: {target}")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    images, labels = held_out()
    return images.reshape(len(images), -1), labels


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        RandomForestClassifier(10, random_state=0),
        LinearRegression(),
        StandardScaler(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_an_estimator_answers_rows_it_was_not_fitted_on_as_before(
    estimator: Any, digits: tuple[Any, Any], tmp_path: Path
) -> None:
    images, labels = digits
    estimator.fit(images[:300], labels[:300])
    done = from_sklearn(estimator, images[300:], tmp_path, name="digits", rows_max=64)
    assert (done.rows, done.model.label) == (len(images) - 300, "digits/1")
    assert done.difference < 1e-4
    assert load_repository(tmp_path) == [done.model]


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_an_estimator_that_is_answered_otherwise_is_refused(
    method: str, digits: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = digits
    estimator = LogisticRegression(max_iter=300).fit(images[:300], labels[:300])
    one = np.arange(200) == 7
    answer = getattr(estimator, method)(images[300:500])
    monkeypatch.setattr(estimator, method, lambda rows: answer + (one if answer.ndim == 1 else 0.002 * one[:, None]))
    with pytest.raises(ModelError, match=r"differs (in 1 of 200 rows|by 0\.002)"):
        from_sklearn(estimator, images[300:500], tmp_path, name="digits")
    assert not list(tmp_path.iterdir())


def test_an_onnx_file_is_compared_with_itself_unoptimised_on_the_rows_given(tmp_path: Path) -> None:
    (bundled,) = load_repository(BUNDLED)
    np.savez(tmp_path / "rows.npz", image=held_out()[0])
    options = ["--models", tmp_path / "models", "--name", "mine", "--rows", tmp_path / "rows.npz", "--rows-max", 8]
    result = sluice(bundled.file, *options, "--backend", "openvino", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["name"], told["backend"], told["rows_max"]) == ("mine", "openvino", 8)
    assert told["compared"]["framework"] == "onnx"
    assert told["compared"]["rows"] == 32
    assert told["compared"]["difference"] < 1e-4
    assert [model.label for model in load_repository(tmp_path / "models")] == ["mine/1"]
    assert "32 rows compared with onnx" in sluice(bundled.file, *options).stdout


def test_rows_that_do_not_fit_are_told_and_ranges_are_kept(tmp_path: Path) -> None:
    (bundled,) = load_repository(BUNDLED)
    np.savez(tmp_path / "narrow.npz", image=np.zeros((4, 1, 8, 7), np.float32))
    np.savez(tmp_path / "other.npz", picture=np.zeros((4, 1, 8, 8), np.float32))
    for name, reason in (("narrow", r"\(1, 8, 7\)"), ("other", "not rows of image"), ("missing", "No such file")):
        with pytest.raises(ModelError, match=reason):
            import_model(tmp_path / "models", bundled.file, rows=Rows(tmp_path / f"{name}.npz"))
    image = Rows(low=2, high=16).of(bundled.signature)["image"]
    assert 2 <= image.min() < image.max() <= 16
    assert isinstance(sluice(bundled.file, "--models", tmp_path, "--between", "1").exception, ConfigError)


def test_rows_that_a_model_fails_on_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fails on the rows"):
        import_model(tmp_path / "models", graphs.pick(tmp_path / "pick.onnx"), rows=Rows(low=50, high=60))


@pytest.mark.parametrize("name", ["net.pt", "net.pkl", "net.joblib", "net.onnx", "net.tflite", "saved/variables"])
def test_a_pickle_is_not_imported_whatever_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    path = tmp_path / name
    path.write_bytes(pickle.dumps({}))
    with pytest.raises(ModelError, match="is a pickle"):
        import_model(tmp_path / "models", tmp_path / "saved" if path.parent != tmp_path else path)


@pytest.mark.parametrize(
    ("name", "reason"), [("none.onnx", "No such file"), ("net.h5", "not a format"), (".", "Saved")]
)
def test_a_source_that_is_no_model_is_told(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(b"")
    with pytest.raises(ModelError, match=reason):
        import_model(tmp_path / "models", tmp_path / name)


def test_a_program_that_would_run_code_is_refused_before_any_interpreter_sees_it(tmp_path: Path) -> None:
    operator = {"torch.ops.aten.index.Tensor": "torch.serialization.os.system"}
    (tmp_path / "bad.pt2").write_bytes(changed(PICK.read_bytes(), GRAPH, operator))
    with pytest.raises(ModelError, match="target"):
        import_model(tmp_path / "models", tmp_path / "bad.pt2", python=Path("/nonexistent"))


def test_an_interpreter_without_the_framework_is_told_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"")
    for source, extra in ((PICK, "import-torch"), (tmp_path / "net.tflite", "import-tf")):
        with pytest.raises(BackendError, match=rf"cannot convert it \(.*sluice\[{extra}\]"):
            import_model(tmp_path / "models", source, python=BARE)
    with pytest.raises(BackendError, match="No such file"):
        import_model(tmp_path / "models", PICK, python=Path("/nonexistent"))


@slow
def test_a_torch_program_is_imported_with_its_own_names(tmp_path: Path) -> None:
    needs("torch", "make test-torch")
    done = import_model(tmp_path, PICK, rows=Rows(low=0, high=9))
    assert str(done.model.signature) == str(load_repository(tmp_path)[0].signature)
    assert [tensor.name for tensor in done.model.signature.outputs] == ["picked", "copied"]
    assert (done.framework, done.model.manifest.backend, done.difference) == ("torch", "onnxruntime", 0.0)


@slow
def test_a_mobilenet_of_torch_is_imported(tmp_path: Path) -> None:
    needs("torchvision", "make test-torch")
    from torch import manual_seed
    from torchvision.models import mobilenet_v2

    from tests.unit.models import programs

    manual_seed(0)
    net = mobilenet_v2(weights=None, num_classes=10)
    source = programs.export(tmp_path / "mobilenet.pt2", net, np.zeros((3, 3, 96, 96), np.float32))
    done = import_model(tmp_path / "models", source, rows_max=8)
    assert (done.framework, done.rows) == ("torch", 32)
    assert [tensor.shape for tensor in done.model.signature.inputs] == [(3, 96, 96)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a MobileNetV2 as a SavedModel, ``saved``, and as ``mobilenet.tflite``."""
    needs("tensorflow", "make test-tensorflow")
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("tensorflow")
    net = keras.applications.MobileNetV2(input_shape=(96, 96, 3), weights=None, classes=10, alpha=0.35)
    net.export(folder / "saved", verbose=False)
    lite = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    (folder / "mobilenet.tflite").write_bytes(lite.convert())
    return folder


@slow
@pytest.mark.parametrize("name", ["saved", "mobilenet.tflite"])
def test_a_mobilenet_of_tensorflow_is_imported(name: str, saved: Path, tmp_path: Path) -> None:
    done = import_model(tmp_path / "models", saved / name, rows_max=8)
    assert (done.framework, done.rows) == ("tensorflow", 32)
    assert [tensor.shape for tensor in done.model.signature.inputs] == [(96, 96, 3)]
    assert done.difference < 1e-4


def npz(path: Path, **arrays: Any) -> bytes:
    np.savez(path, **arrays)
    return path.read_bytes()


def test_a_file_of_rows_that_is_none_or_damaged_is_told(tmp_path: Path) -> None:
    good = npz(tmp_path / "good.npz", at=np.zeros(4, np.int64), image=np.zeros((4, 2, 2), np.float32))
    np.save(tmp_path / "image.npy", np.zeros((4, 2, 2), np.float32))
    flipped = bytearray(good)
    flipped[200] ^= 0xFF
    for name, content in (
        ("a bare array", (tmp_path / "image.npy").read_bytes()),
        ("nothing", b""),
        ("cut off", good[: len(good) // 2]),
        ("changed", bytes(flipped)),
        ("texts", npz(tmp_path / "texts.npz", at=np.full(4, "a"), image=np.zeros((4, 2, 2)))),
        ("no rows", npz(tmp_path / "none.npz", at=np.zeros(0, np.int64), image=np.zeros((0, 2, 2)))),
        ("one number", npz(tmp_path / "number.npz", at=np.int64(3), image=np.zeros((4, 2, 2)))),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            import_model(tmp_path / "models", graphs.pick(tmp_path / "pick.onnx"), rows=Rows(tmp_path / name))


def test_a_single_row_is_enough_to_compare_on(tmp_path: Path) -> None:
    (bundled,) = load_repository(BUNDLED)
    np.savez(tmp_path / "row.npz", image=held_out()[0][:1])
    assert import_model(tmp_path / "models", bundled.file, rows=Rows(tmp_path / "row.npz")).rows == 1


@pytest.mark.parametrize(("low", "high"), [(5, 1), (float("nan"), 1), (0, float("inf"))])
def test_a_range_without_rows_is_misuse(low: float, high: float, tmp_path: Path) -> None:
    for source in (graphs.pick(tmp_path / "pick.onnx"), graphs.add(tmp_path / "plus.onnx")):
        with pytest.raises(ConfigError, match="no rows between"):
            import_model(tmp_path / "models", source, rows=Rows(low=low, high=high))


@pytest.mark.timeout(20)  # a pipe nobody writes to would be read for ever
@pytest.mark.parametrize("location", ["missing.bin", "../pipe", "pipe", "nul\0.bin"])
def test_external_data_that_does_not_lie_beside_the_file_is_not_even_read(location: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for folder in (tmp_path, tmp_path / "source"):
        os.mkfifo(folder / "pipe")
    source = graphs.add(tmp_path / "source" / "plus.onnx", location=location)
    with pytest.raises(ModelError):
        import_model(tmp_path / "models", source)


@pytest.mark.parametrize(
    ("script", "reason"), [(r"printf '\377 broken' >&2; exit 1", "broken"), ("exit 0", "converted it to nothing")]
)
def test_an_interpreter_that_says_no_text_or_does_nothing_is_told(script: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"")
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o700)
    with pytest.raises(ModelError, match=reason):
        import_model(tmp_path / "models", tmp_path / "net.tflite", python=tmp_path / "python")
