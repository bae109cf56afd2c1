"""Sequences apart by length: nothing lost, nothing that counts cut off, and no request longer than it must be."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.admit import HeaderColumns, RequestHeaders
from pipeline.admit.sequences import by_length
from tests.unit.infer.makers import RAW_CODEC, admitted_of
from topics.signature import Columns

LENGTHS = (2, 4, 16)
REQUESTS = st.lists(st.lists(st.integers(0, 16), min_size=1, max_size=3), min_size=1, max_size=12)


@given(REQUESTS, st.booleans())
def test_each_request_is_once_in_the_shortest_that_holds_its_longest_row(requests: list[list[int]], two: bool) -> None:
    used = np.concatenate([np.array(rows) for rows in requests])
    tokens = np.where(np.arange(16) < used[:, np.newaxis], np.arange(1, len(used) + 1)[:, np.newaxis], 0)
    if two:  # the other input says where a sequence ends as well as the first
        columns = {"tokens": np.where(np.arange(16) == 0, tokens, 0), "mask": np.sign(tokens), "age": used}
    else:
        columns = {"tokens": tokens, "mask": np.zeros_like(tokens), "age": used}
    headers = HeaderColumns.of([RequestHeaders(RAW_CODEC, request_id=str(at)) for at in range(len(requests))])
    admitted = replace(admitted_of([len(rows) for rows in requests]), columns=columns, headers=headers)
    seen: list[int] = []
    for part in by_length(admitted, ("tokens", "mask"), LENGTHS):
        kept = cast(Columns, part.columns)
        assert part.length in LENGTHS and list(part.indices) == sorted(part.indices)
        assert [said.request_id for said in part.headers] == [str(index) for index in part.indices]
        for at, index in enumerate(part.indices):
            longest = max(requests[index])
            assert part.length == min(length for length in LENGTHS if length >= longest)
            rows = slice(int(part.row_start[at]), int(part.row_start[at + 1]))
            before = slice(int(admitted.row_start[index]), int(admitted.row_start[index + 1]))
            assert np.array_equal(kept["age"][rows], columns["age"][before])
            for name in ("tokens", "mask"):
                assert np.array_equal(kept[name][rows], columns[name][before, : part.length])
                assert not columns[name][before, part.length :].any()
        seen += part.indices
    assert sorted(seen) == list(range(len(requests)))
    assert {part.length for part in by_length(admitted, ("tokens", "mask"), (16,))} == {16}
