"""Files of arrays that users give."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_arrays"]


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an .npz file by name. Raises ``OSError``, and ``ValueError`` for what is none, or damaged."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file):  # of another kind of file np.load makes something else
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"no whole archive of arrays: {error}") from error
