"""A torch.export program that torch 2.15 wrote, and how one is spoilt; torch is not needed."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

__all__ = ["CONSTANTS", "EXAMPLES", "GRAPH", "PICK", "WEIGHTS", "changed", "contents", "rewritten"]

PICK = Path(__file__).with_name("pick.pt2")
"""`programs.pick`, as `torch.export.save` wrote it, but for the places of its source code."""

GRAPH, EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


def contents(data: bytes) -> dict[str, bytes]:
    """Contents by name, without the archive's own folder."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def rewritten(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of these contents."""
    written = BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(f"pick/{name}", content)
    return written.getvalue()


def changed(data: bytes, name: str, texts: Mapping[str, str]) -> bytes:
    """The archive with each of these texts, which must be in it, replaced in one of its files."""
    files = contents(data)
    for old, new in texts.items():
        assert old.encode() in files[name], old
        files[name] = files[name].replace(old.encode(), new.encode())
    return rewritten(files)
