"""Models of other frameworks become ONNX, and are taken only if they still answer what they answered there."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.arrays import read_arrays
from pipeline.core.errors import BackendError, ConfigError, ModelError
from pipeline.models import converters, onnx, program
from pipeline.models.formats import check_kind
from pipeline.models.manifest import Model
from pipeline.models.repository import add_model, read_external
from topics.signature import Signature, Tensor

__all__ = ["Checked", "Rows", "from_sklearn", "import_model"]

Columns = Mapping[str, np.ndarray[Any, Any]]

ROWS = 32  # compared; enough for several batch sizes, and a second's work for an image classifier
CONVERT_S_MAX = 900  # TensorFlow takes half a minute to start on a busy machine, and a large graph minutes to convert
SEED = 20261125


@dataclass(frozen=True, slots=True)
class Rows:
    """What both are asked: the arrays in ``file`` (.npz, by input), or random rows between ``low`` and ``high``."""

    file: Path | None = None
    low: float = 0.0
    high: float = 1.0

    def of(self, signature: Signature) -> Columns:
        """Rows for each input. Raises `ModelError` where the file does not fit."""
        if self.file is None:
            rng = np.random.default_rng(SEED)
            try:
                return {tensor.name: self._random(rng, tensor) for tensor in signature.inputs}
            except (ValueError, OverflowError) as error:
                raise ConfigError(f"no rows between {self.low:g} and {self.high:g}: {error}") from error
        try:
            arrays = read_arrays(self.file)
            columns = {t.name: arrays[t.name][:ROWS] for t in signature.inputs}
            for tensor in signature.inputs:
                if columns[tensor.name].shape[1:] != tensor.shape or not len(columns[tensor.name]):
                    raise ModelError(f"{self.file}: {tensor} has rows of {columns[tensor.name].shape[1:]}, or none")
            return {tensor.name: columns[tensor.name].astype(tensor.dtype) for tensor in signature.inputs}
        except (OSError, ValueError, LookupError) as error:
            raise ModelError(f"{self.file}: not rows of {', '.join(map(str, signature.inputs))}: {error}") from error

    def _random(self, rng: np.random.Generator, tensor: Tensor) -> np.ndarray[Any, Any]:
        shape = (ROWS, *tensor.shape)
        if tensor.dtype.kind == "f":
            return rng.uniform(self.low, self.high, shape).astype(tensor.dtype)
        return rng.integers(int(self.low), int(self.high), shape, endpoint=True).astype(tensor.dtype)


@dataclass(frozen=True, slots=True)
class Checked:
    """An imported model: how many rows were compared with which framework, and the largest difference."""

    model: Model
    framework: str
    rows: int
    difference: float


def import_model(
    directory: Path,
    source: Path,
    *,
    rows: Rows | None = None,
    python: Path | None = None,
    absolute: float = 1e-4,
    relative: float = 1e-3,
    **manifest: Any,
) -> Checked:
    """Convert ``source`` to ONNX, compare, and add it to the repository ``directory``; ``manifest`` as `add_model`.

    ``source`` is an .onnx file, a .pt2 of `torch.export`, a .tflite file or the folder of a TensorFlow SavedModel. The
    latter are programs that TensorFlow runs: convert none that you do not trust. The framework is that of the
    interpreter ``python``, which needs nothing of Sluice; by default of this one.

    Numbers may differ by ``absolute`` and ``relative`` of themselves, integers not at all. Raises `ModelError` where
    they do more, or the source is none; `BackendError` where the framework is missing.
    """
    rows = rows or Rows()
    framework = _framework(source)
    with tempfile.TemporaryDirectory(prefix="sluice-") as scratch:
        folder = Path(scratch)
        if framework == "onnx":
            data = source.read_bytes()
            try:
                external = read_external(source, data)
            except (OSError, ValueError) as error:
                raise ModelError(f"cannot import {source}: {error}") from error
            bare = onnx.open_bare(source, data, external)
            columns = rows.of(onnx.signature_of(bare, source))
            difference = _compare(source, columns, lambda: _answers(bare, columns), absolute, relative)
            return Checked(add_model(directory, source, **manifest), framework, _count(columns), difference)
        run = _Framework(framework, source.absolute(), folder, python or Path(sys.executable))
        converted = run.convert()
        signature = onnx.read_signature(source, converted.read_bytes(), {})
        columns = rows.of(signature)
        difference = _compare(converted, columns, lambda: run.answers(signature, columns), absolute, relative)
        name = manifest.pop("name", None) or source.stem
        return Checked(add_model(directory, converted, name=name, **manifest), framework, _count(columns), difference)


def from_sklearn(
    estimator: Any,
    samples: np.ndarray[Any, Any],
    directory: Path,
    *,
    name: str,
    absolute: float = 1e-4,
    relative: float = 1e-3,
    **manifest: Any,
) -> Checked:
    """As `import_model`, a fitted scikit-learn estimator: from Python, for its files are pickles.

    ``samples`` are real rows, float32 ``(N, features)``; the model takes ``X`` and gives what skl2onnx names.
    """
    try:
        from skl2onnx import to_onnx
        from sklearn.base import is_classifier
    except ImportError as error:
        raise BackendError(f"{error}: pip install 'sluice[import-sklearn]'") from error
    rows = np.ascontiguousarray(samples, np.float32)
    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    with tempfile.TemporaryDirectory(prefix="sluice-") as scratch:
        path = Path(scratch) / f"{name}.onnx"
        path.write_bytes(to_onnx(estimator, rows[:1], options=options, target_opset=17).SerializeToString())
        signature = onnx.read_signature(path, path.read_bytes(), {})

        def answers() -> Columns:
            methods = ("predict", "predict_proba") if is_classifier(estimator) else ("predict",)
            if not hasattr(estimator, "predict"):
                methods = ("transform",)
            found = [getattr(estimator, method)(rows) for method in methods[: len(signature.outputs)]]
            return {
                tensor.name: np.reshape(values, (len(rows), *tensor.shape))
                for tensor, values in zip(signature.outputs, found, strict=True)
            }

        columns = {signature.inputs[0].name: rows}
        difference = _compare(path, columns, answers, absolute, relative)
        return Checked(add_model(directory, path, name=name, **manifest), "scikit-learn", len(rows), difference)


def _framework(source: Path) -> str:
    if source.is_dir():
        if not (source / "saved_model.pb").is_file():
            raise ModelError(f"{source}: not the folder of a SavedModel, which has a saved_model.pb")
        for path in source.rglob("*"):
            if path.is_file():
                check_kind(path)
        return "tensorflow"
    try:
        check_kind(source)
    except OSError as error:
        raise ModelError(f"{source}: {error.strerror}") from error
    frameworks = {".onnx": "onnx", ".pt2": "torch", ".tflite": "tensorflow"}
    if (found := frameworks.get(source.suffix.lower())) is None:
        raise ModelError(f"{source}: not a format that is imported ({', '.join(frameworks)}, folders of SavedModels)")
    return found


class _Framework:
    """The source framework in a process of its own: what it converts to, and what it answers itself."""

    def __init__(self, framework: str, source: Path, folder: Path, python: Path) -> None:
        self._framework = framework
        self._folder = folder
        self._python = python
        self._source = source
        if framework == "torch":  # which unpickles and runs what lies in the archive, unless that is taken out
            cleaned = program.clean(source, source.read_bytes())
            self._source = folder / source.name
            self._source.write_bytes(cleaned)
            self._signature = program.read_signature(source, cleaned, {})

    def convert(self) -> Path:
        """The model as ONNX."""
        path = self._folder / f"{self._source.stem}.onnx"
        self._run("convert", path, *([_names(self._signature)] if self._framework == "torch" else []))
        if not path.is_file():
            raise ModelError(f"{self._source}: {self._framework} converted it to nothing")
        return path

    def answers(self, signature: Signature, columns: Columns) -> Columns:
        """What the source answers to the columns, by the names of the outputs in ONNX."""
        inputs, answers = self._folder / "inputs.npz", self._folder / "answers.npz"
        np.savez(inputs, **dict[str, Any](columns))
        self._run("answer", inputs, answers, _names(signature))
        with np.load(answers, allow_pickle=False) as found:
            return {tensor.name: found[tensor.name] for tensor in signature.outputs}

    def _run(self, command: str, *arguments: object) -> None:
        script = Path(converters.__file__).with_name(f"from_{self._framework}.py")
        line = [str(part) for part in (self._python, "-I", script, command, self._source, *arguments)]
        try:
            done = subprocess.run(
                line, capture_output=True, text=True, errors="replace", timeout=CONVERT_S_MAX, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(f"{self._python}: {error}") from error
        if done.returncode == 0:
            return
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:500]
        if last.startswith(("ImportError: ", "ModuleNotFoundError: ")):
            extra = {"torch": "import-torch", "tensorflow": "import-tf"}[self._framework]
            raise BackendError(
                f"{self._python} cannot convert it ({last.partition(': ')[2]}): pip install 'sluice[{extra}]', or name "
                f"an interpreter that has it (--python)"
            )
        raise ModelError(f"{self._source}: {self._framework} could not {command} it: {last}")


def _names(signature: Signature) -> str:
    return json.dumps([[tensor.name for tensor in side] for side in (signature.inputs, signature.outputs)])


def _compare(path: Path, columns: Columns, expected: Callable[[], Columns], absolute: float, relative: float) -> float:
    """The largest difference between what is served and what is expected, in batches of 1 and of the rest.

    Raises `ModelError` where it is larger than allowed.
    """
    import onnxruntime

    data = path.read_bytes()
    external = read_external(path, data)
    session = onnx.open_session(path, data, external, onnxruntime.SessionOptions())
    parts = (slice(1), slice(1, None))[: _count(columns)]
    pieces = [_answers(session, {n: v[part] for n, v in columns.items()}) for part in parts]
    worst = 0.0
    for name, wanted in expected().items():
        found = np.concatenate([piece[name] for piece in pieces])
        if found.shape != wanted.shape:
            raise ModelError(f"{path.name}: {name!r} was {wanted.shape} in its framework, and is {found.shape}")
        if wanted.dtype.kind != "f":
            if (wrong := int((found != wanted).any(axis=tuple(range(1, wanted.ndim))).sum())) > 0:
                raise ModelError(f"{path.name}: {name!r} differs in {wrong} of {len(wanted)} rows")
            continue
        difference = np.abs(found.astype(np.float64) - wanted)
        if not (difference <= absolute + relative * np.abs(wanted)).all():  # also where it is not a number
            raise ModelError(
                f"{path.name}: {name!r} differs by {difference.max():.3g}, more than {absolute:g} + {relative:g} of it"
            )
        worst = max(worst, float(difference.max()))
    return worst


def _answers(session: Any, columns: Columns) -> Columns:
    try:
        names: Sequence[str] = [node.name for node in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(columns)), strict=True))
    except onnx.runtime_errors() as error:
        raise ModelError(f"it fails on the rows it is compared with: {' '.join(str(error).split())[:500]}") from error


def _count(columns: Columns) -> int:
    return len(next(iter(columns.values())))
