"""The requests of a bench: seeded columns for any signature, the same in whatever process asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from topics.codecs import codec_for
from topics.signature import Signature, Tensor

__all__ = ["SEED", "key_of", "random_columns", "request_values"]

SEED = 20  # of every bench: producer, bare loop and verifier draw the same rows
KEYS = 1000
IDS = 100  # of tokens, 0 aside
MEDIAN, SKEW = 0.15, 0.8  # of a sequence, as a share of the longest: half are below 0.15, one in a hundred is cut off


def random_columns(
    inputs: tuple[Tensor, ...], rows: int, seed: int = SEED, *, sequences: Sequence[str] = ()
) -> dict[str, np.ndarray[Any, Any]]:
    """``rows`` rows of every input: uniform in [0, 1) for floats, 0 or 1 for the rest.

    Those named in ``sequences`` are of a skewed length, as texts are, and of small whole numbers.
    """
    random = np.random.default_rng(seed)
    columns = {}
    for tensor in inputs:
        shape = (rows, *tensor.shape)
        floats = tensor.dtype.kind == "f"
        values = random.random(shape) if floats else random.integers(0, 2, shape)
        columns[tensor.name] = values.astype(tensor.dtype)
    if sequences:
        most = columns[sequences[0]].shape[1]
        used = (most * MEDIAN * random.lognormal(0, SKEW, rows)).clip(1, most).astype(np.int64)
        for name in sequences:
            ids = random.integers(1, IDS, columns[name].shape).astype(columns[name].dtype)
            within = (np.arange(most) < used[:, np.newaxis]).reshape(rows, most, *[1] * (ids.ndim - 2))
            columns[name] = ids * within
    return columns


def request_values(
    signature: Signature, content_type: str, rows: int, distinct: int, *, sequences: Sequence[str] = ()
) -> list[bytes]:
    """``distinct`` request values of ``rows`` rows each: request i has rows ``i * rows`` and on of the columns."""
    codec = codec_for(content_type)
    columns = random_columns(signature.inputs, rows * distinct, sequences=sequences)
    return [
        codec.encode_request({name: a[i * rows : (i + 1) * rows] for name, a in columns.items()}, signature.inputs)
        for i in range(distinct)
    ]


def key_of(index: int) -> bytes:
    """The key of request ``index``: one of `KEYS`, so that every partition has many."""
    return b"key-%d" % (index % KEYS)
