"""Rows of a column in parts are written as those of a whole one, wherever they begin and end."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.admit.scattered import Scattered


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_rows_are_written_as_of_a_whole_column(sizes: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    first = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(first, len(whole)))
    into = np.full((end - first, 3), -1, np.float32)
    Scattered(np.split(whole, np.cumsum(sizes)[:-1])).write(first, into)
    assert np.array_equal(into, whole[first:end])
