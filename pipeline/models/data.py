"""The held-out images of the bundled digit classifier, which it was neither trained nor chosen on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["held_out"]

_FILE = Path(__file__).parent / "bundled" / "held_out.npz"


def held_out() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images, float32 ``(N, 1, 8, 8)`` with values 0..16, and their labels, int64 ``(N,)`` with values 0..9."""
    with np.load(_FILE, allow_pickle=False) as data:
        return data["images"].astype(np.float32), data["labels"].astype(np.int64)
