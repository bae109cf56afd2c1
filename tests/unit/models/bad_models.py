"""Every kind of bad model of FAULTS.md: what it is, how a good one is spoilt so, and what its refusal says."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.models import Model, add_model
from pipeline.models.manifest import MANIFEST
from tests.unit.models import graphs
from topics.signature import Signature

__all__ = ["BAD_MODELS", "WEIGHTS", "WEIGHTS_REVERSED", "BadModel", "good_model", "write_manifest"]

WEIGHTS = np.array([1, 2, 3], np.float32).tobytes()
WEIGHTS_REVERSED = np.array([3, 2, 1], np.float32).tobytes()


@dataclass(frozen=True)
class BadModel:
    """One kind; ``spoil`` changes the directory and returns the model with the manifest that goes with it."""

    kind: str
    spoil: Callable[[Model], Model]
    reason: str  # a regular expression


def good_model(models: Path, sources: Path, **options: Any) -> Model:
    """A model whose weights lie in a file of their own, added to the repository ``models``."""
    (sources / "data").mkdir(parents=True, exist_ok=True)
    (sources / "data" / "w.bin").write_bytes(WEIGHTS)
    return add_model(models, graphs.add(sources / "plus.onnx", location="data/w.bin"), **options)


def write_manifest(model: Model) -> None:
    (model.path / MANIFEST).write_text(model.manifest.to_toml(), encoding="utf-8")


def relist(model: Model, **hashes: str | None) -> Model:
    """The model with other entries in its list of files; None takes one out."""
    files = {name: value for name, value in (dict(model.manifest.files) | hashes).items() if value is not None}
    return Model(replace(model.manifest, files=files), model.path)


def listed_as_they_are(model: Model) -> Model:
    """The model with the hashes of all files that lie in its directory now."""
    paths = [path for path in model.path.rglob("*") if path.is_file() and path.name != MANIFEST]
    files = {path.relative_to(model.path).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}
    return Model(replace(model.manifest, files=files), model.path)


def copied_in_part(model: Model) -> Model:
    (model.path / "data" / "w.bin").unlink()
    return model


def half_a_file(model: Model) -> Model:
    (model.path / "data" / "w.bin").write_bytes(WEIGHTS[:6])
    return model


def changed(model: Model) -> Model:
    (model.path / "data" / "w.bin").write_bytes(WEIGHTS[::-1])
    return model


def unlisted(model: Model) -> Model:
    (model.path / "data" / "notes.txt").write_text("hello")
    return model


def weights_not_listed(model: Model) -> Model:
    (model.path / "data" / "w.bin").unlink()
    return relist(model, **{"data/w.bin": None})


def symbolic_link(model: Model) -> Model:
    outside = model.path.parents[2] / "outside.bin"
    outside.write_bytes(WEIGHTS)
    (model.path / "data" / "w.bin").unlink()
    (model.path / "data" / "w.bin").symlink_to(outside)
    return model


def linked_folder(model: Model) -> Model:
    outside = model.path.parents[2] / "outside"
    (model.path / "data").rename(outside)
    (model.path / "data").symlink_to(outside)
    return model


def hard_link(model: Model) -> Model:
    outside = model.path.parents[2] / "outside.bin"
    outside.write_bytes(WEIGHTS)
    (model.path / "data" / "w.bin").unlink()
    os.link(outside, model.path / "data" / "w.bin")
    return model


def pipe(model: Model) -> Model:
    (model.path / "data" / "w.bin").unlink()
    os.mkfifo(model.path / "data" / "w.bin")
    return model


def refers_outside(location: str) -> Callable[[Model], Model]:
    def make(model: Model) -> Model:
        (model.path.parent / "outside.bin").write_bytes(WEIGHTS)
        graphs.add(model.file, location=location.replace("HERE", str(model.path)))
        return listed_as_they_are(model)

    return make


def torch_archive(model: Model) -> Model:
    with zipfile.ZipFile(model.path / "weights.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return listed_as_they_are(model)


def other_dtype(model: Model) -> Model:
    tensors = (replace(model.signature.inputs[0], dtype=np.dtype("float64")),)
    return Model(replace(model.manifest, signature=Signature(tensors, model.signature.outputs)), model.path)


def other_name(model: Model) -> Model:
    tensors = (replace(model.signature.outputs[0], name="z"),)
    return Model(replace(model.manifest, signature=Signature(model.signature.inputs, tensors)), model.path)


def missing_operator(model: Model) -> Model:
    graphs.unknown_operator(model.file)
    return listed_as_they_are(model)


def cut_off(model: Model) -> Model:
    model.file.write_bytes(model.file.read_bytes()[:-5])
    return listed_as_they_are(model)


def too_deep(model: Model) -> Model:
    (model.path / "/".join("abcdefgh")).mkdir(parents=True)
    return model


def as_the_model(name: str, content: bytes = b"ftrt") -> Callable[[Model], Model]:
    def make(model: Model) -> Model:
        (model.path / name).write_bytes(content)
        return Model(replace(listed_as_they_are(model).manifest, file=name), model.path)

    return make


def extra(name: str, content: bytes) -> Callable[[Model], Model]:
    """A listed file beside the model's."""

    def make(model: Model) -> Model:
        (model.path / name).write_bytes(content)
        return listed_as_they_are(model)

    return make


def damaged_archive(model: Model) -> Model:
    content = bytearray(torch_archive(model).path.joinpath("weights.bin").read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at : at + 4] = b"none"
    return extra("weights.bin", bytes(content))(model)


def odd_archive(at: int, content: bytes) -> Callable[[Model], Model]:
    """Bytes of an archive's directory are others; its entry's name, said to be UTF-8, begins at 46."""

    def make(model: Model) -> Model:
        path = model.path / "weights.bin"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("é", b"")
        data = bytearray(path.read_bytes())
        begin = data.rindex(b"PK\x01\x02") + at
        data[begin : begin + len(content)] = content
        return extra("weights.bin", bytes(data))(model)

    return make


def tensors(**places: tuple[int, int]) -> dict[str, Any]:
    """Float32 tensors by name, at these places."""
    return {
        name: {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}
        for name, (begin, end) in places.items()
    }


def safetensors(header: Mapping[str, Any] | bytes, *, size: int | None = None, behind: int = 12) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + bytes(behind)


BAD_SAFETENSORS = {
    "over its limit": safetensors(tensors(a=(0, 12)), size=16 * 1024 * 1024 + 1),
    "beyond the end of the file": safetensors(tensors(a=(0, 12)), size=10_000),
    "of no bytes": safetensors(b""),
    "cut off in its length": b"\x40\x00",
    "not JSON": safetensors(b"{nothing"),
    "not an object": safetensors(b"[]"),
    "a depth bomb": safetensors(b"[" * 200_000),
    "overlapping tensors": safetensors(tensors(a=(0, 8), b=(4, 12))),
    "a tensor inside another": safetensors(tensors(a=(0, 12), b=(4, 8))),
    "a gap between tensors": safetensors(tensors(a=(0, 4), b=(8, 12))),
    "a tensor past the end": safetensors(tensors(a=(0, 16))),
    "data that no tensor holds": safetensors(tensors(a=(0, 8))),
    "a shape of another size": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}}),
    "a shape that overflows": safetensors({"a": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 12]}}),
    "a negative dimension": safetensors({"a": {"dtype": "F32", "shape": [-3, -1], "data_offsets": [0, 12]}}),
    "offsets backwards": safetensors({"a": {"dtype": "F32", "shape": [3], "data_offsets": [12, 0]}}),
    "an unknown dtype": safetensors({"a": {"dtype": "PY", "shape": [12], "data_offsets": [0, 12]}}),
    "a name twice": safetensors(b'{"a": {}, "a": {"dtype": "U8", "shape": [12], "data_offsets": [0, 12]}}'),
    "a tensor without its place": safetensors({"a": {"dtype": "F32", "shape": [3]}}),
}

BAD_MODELS = [
    BadModel("a half-copied directory: a file is missing", copied_in_part, "copied only in part"),
    BadModel("a half-copied directory: a file is cut off", half_a_file, "its sha256 is"),
    BadModel("a wrong hash", changed, "its sha256 is"),
    BadModel("an unlisted extra file", unlisted, "is not listed"),
    BadModel("external data that is not listed", weights_not_listed, "not a listed file"),
    BadModel("external data by a symbolic link", symbolic_link, "symbolic link"),
    BadModel("external data by a linked folder", linked_folder, "symbolic link"),
    BadModel("external data by a hard link", hard_link, "hard link"),
    BadModel("external data from a pipe", pipe, "special file"),
    BadModel("external data outside: beside", refers_outside("../outside.bin"), "external data '../outside.bin'"),
    BadModel("external data outside: by way of a folder", refers_outside("data/../../outside.bin"), "external data"),
    BadModel("external data outside: absolute", refers_outside("HERE/data/w.bin"), "external data"),
    BadModel("external data in memory", refers_outside("*/_ORT_MEM_ADDR_/*"), "external data"),
    BadModel("external data nowhere", refers_outside(""), "external data"),
    BadModel(".pt", extra("weights.pt", b"anything"), "is a pickle"),
    BadModel(".PKL", extra("weights.PKL", b"anything"), "is a pickle"),
    BadModel("a pickle of protocol 2", extra("w.bin", pickle.dumps({"a": 1}, protocol=2)), "is a pickle"),
    BadModel("a pickle under another name", extra("w.bin", pickle.dumps({"a": 1})), "is a pickle"),
    BadModel("an old torch file", extra("w.bin", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.rest"), "is a pickle"),
    BadModel("a pickle as the model", extra("plus.onnx", pickle.dumps({"a": 1})), "is a pickle"),
    BadModel("a torch archive", torch_archive, "torch archive"),
    BadModel("a damaged archive", damaged_archive, "damaged archive"),
    BadModel("an archive of a version to come", odd_archive(6, b"\x63\0"), "damaged archive"),
    BadModel("an archive whose names are no text", odd_archive(46, b"\xff\xff"), "damaged archive"),
    BadModel("a signature that is not the model's: dtype", other_dtype, r"declares inputs x float64\[3\], but the"),
    BadModel("a signature that is not the model's: name", other_name, r"declares outputs z float32\[3\], but the"),
    BadModel("an operator the runtime lacks", missing_operator, "Conjure"),
    BadModel("an ONNX file cut off", cut_off, "not an ONNX file"),
    BadModel("folders without end", too_deep, "nested too deep"),
    BadModel("a TensorRT plan as the model", as_the_model("plus.plan"), "is a TensorRT plan"),
    BadModel("a TensorRT plan of another name", as_the_model("plus.engine"), "is a TensorRT plan"),
    BadModel("a TensorRT plan beside the model", extra("plus.engine", b"ftrt"), "is a TensorRT plan"),
    BadModel("a TensorRT plan called ONNX", extra("plus.onnx", b"ftrt" + bytes(60)), "not an ONNX file"),
    BadModel("a format no backend takes", as_the_model("plus.tflite"), "not a model format"),
    BadModel("safetensors as the model", as_the_model("plus.safetensors", safetensors(tensors(a=(0, 12)))), "format"),
    *(
        BadModel(f"a safetensors header {what}", extra("w.safetensors", content), "sound safetensors file")
        for what, content in BAD_SAFETENSORS.items()
    ),
]
