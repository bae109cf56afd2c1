"""What a file in a model's directory may be: data that can be read without trusting it."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.core.errors import ModelError

__all__ = ["check_kind"]

_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".mar", ".torchscript")
_PLANS = (".plan", ".engine", ".trt")

# A tensor takes about 150 bytes of a safetensors header: this is 100,000 tensors. The format itself allows 100 MB,
# which as Python's objects is a gigabyte.
HEADER_BYTES_MAX = 16 * 1024 * 1024
DIMENSIONS_MAX = 64
_ELEMENT_BITS: Mapping[str, int] = MappingProxyType(
    {
        "F4": 4,
        **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
        **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
        **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
        **dict.fromkeys(("U32", "I32", "F32"), 32),
        **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    }
)


def check_kind(path: Path) -> None:
    """Refuse a file that has no place in a model, whether something loads it or not. Raises `ModelError`."""
    _check_not_pickle(path)
    suffix = path.suffix.lower()
    if suffix in _PLANS:
        raise ModelError(
            f"{path}: is a TensorRT plan, machine code for one GPU and version that this machine did not build; "
            f"export the model to ONNX"
        )
    if suffix == ".safetensors":
        try:
            _check_safetensors(path)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(f"{path}: not a sound safetensors file: {error}") from error


def _check_not_pickle(path: Path) -> None:
    """Refuse what torch, pickle or joblib wrote: loading it would run code. By name, and by content."""
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, path.stat().st_size - 1))
        # Protocol 2 and later begin with 0x80 and their number and end with a full stop; old torch files begin with
        # a pickled magic number. Weights that look like the former by chance: one file in four million.
        pickled = head[:1] == b"\x80" and head[1:2] in _PROTOCOLS and (file.read(1) == b"." or head[2:] == b"\x8a\n")
    if path.suffix.lower() in _PICKLES or pickled:
        raise ModelError(f"{path}: is a pickle, which can run code when it is loaded; export the model to ONNX")
    if head == b"PK\x03\x04" and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # a later version's; a name's bytes
            raise ModelError(f"{path}: is a damaged archive: {error}") from error
        if any(name.endswith(".pkl") for name in names):
            raise ModelError(f"{path}: is a torch archive, which holds a pickle; export the model to ONNX")


def _check_safetensors(path: Path) -> None:
    """The header alone: a little-endian u64 of its length, then a JSON object of the tensors' places behind it.

    Its tensors must fill what follows it, one behind the other: whoever maps them by these offsets reads no byte twice
    and none beyond the end.
    """
    whole = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= HEADER_BYTES_MAX:
            raise ValueError(f"a header of {size} bytes is not within 2..{HEADER_BYTES_MAX}")
        if 8 + size > whole:
            raise ValueError(f"a header of {size} bytes in a file of {whole}")
        header = json.loads(file.read(size), object_pairs_hook=_no_name_twice)
    if not isinstance(header, dict):
        raise TypeError("its header is no object")
    header.pop("__metadata__", None)
    at = 0
    for begin, end, name in sorted(_place(name, entry) for name, entry in header.items()):
        if begin != at:
            raise ValueError(
                f"tensor {name!r} begins at byte {begin}, " + ("in another" if begin < at else "past a gap")
            )
        at = end
    if at != whole - 8 - size:
        raise ValueError(f"its tensors end at byte {at} of {whole - 8 - size}")


def _place(name: str, entry: Mapping[str, Any]) -> tuple[int, int, str]:
    begin, end = entry["data_offsets"]
    shape, bits = entry["shape"], _ELEMENT_BITS[entry["dtype"]]
    if len(shape) > DIMENSIONS_MAX or any(type(number) is not int or number < 0 for number in (begin, end, *shape)):
        raise ValueError(f"tensor {name!r}: {shape} at {begin}..{end} cannot be")
    if (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(f"tensor {name!r}: {shape} of {bits} bits does not take {end - begin} bytes")
    return begin, end, name


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name twice in its header")
    return table
