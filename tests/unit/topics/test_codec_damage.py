"""Damaged requests: whatever was flipped, cut, spliced or forged, the codec answers, and alone as among others (I7)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.cases import hostile_cases
from tests.hostile.oracle import LIMITS, SIGNATURES, assert_alike, assert_as_pyarrow, assert_sound, ones
from topics.codecs import CONTENT_TYPES, codec_for
from topics.records import ARROW
from topics.signature import Tensor

Tensors = tuple[Tensor, ...]
SIDES = st.sampled_from(SIGNATURES)
# What lengths, offsets and counts are forged to: none, small, of the message, over it, over 32 and 64 bits, negative.
NUMBERS = st.sampled_from([0, 1, 4, 8, 64, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1]) | st.integers(0, 2000)
BAD = {kind: [c.value for c in hostile_cases() if c.content_type == kind and c.value] for kind in CONTENT_TYPES}


def valid(content_type: str, tensors: Tensors, rows: int) -> bytes:
    return codec_for(content_type).encode_request(ones(tensors, rows), tensors)


@st.composite
def damaged(draw: st.DrawFn, content_type: str, tensors: Tensors) -> bytes:
    """A good or bad request with a few places flipped, cut, doubled, forged or taken from another."""
    rows = st.integers(1, 5)
    whole = draw(rows.map(lambda count: valid(content_type, tensors, count)) | st.sampled_from(BAD[content_type]))
    value = bytearray(whole[:4096])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(value)))
        end = min(len(value), at + draw(st.integers(0, 64)))
        match draw(st.sampled_from(["flip", "cut", "drop", "double", "forge", "splice"])):
            case "flip" if at < len(value):
                value[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del value[at:]
            case "drop":
                del value[at:end]
            case "double":
                value[at:at] = value[at:end]
            case "forge":
                number = draw(NUMBERS)
                at -= at % 4
                kind = draw(st.sampled_from(["<i", "<q"] if number < 2**31 else ["<q"]))
                value[at : at + struct.calcsize(kind)] = struct.pack(kind, draw(st.sampled_from([number, -number])))
            case "splice":
                other = valid(content_type, draw(SIDES), draw(rows))
                value[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(value)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_a_damaged_request_is_the_same_alone_as_among_others(content_type: str, data: st.DataObject) -> None:
    tensors = data.draw(SIDES)
    value = data.draw(damaged(content_type, tensors))
    columns = assert_alike(content_type, value, tensors)
    if content_type == ARROW:
        assert_as_pyarrow(value, tensors, columns)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_chunk_of_anything_is_its_requests_one_by_one(content_type: str, data: st.DataObject) -> None:
    tensors = data.draw(SIDES)
    one = damaged(content_type, tensors) | st.integers(1, 3).map(lambda rows: valid(content_type, tensors, rows))
    values = data.draw(st.lists(st.none() | one, max_size=8))
    codec = codec_for(content_type)
    together = codec.decode_requests(values, tensors, LIMITS)
    assert_sound(together, len(values), tensors)
    alone = [codec.decode_requests([value], tensors, LIMITS) for value in values]
    assert [(index, why.code, why.reason) for index, why in together.rejected] == [
        (index, why.code, why.reason) for index, each in enumerate(alone) for _, why in each.rejected
    ]
    assert together.rows.tolist() == [rows for each in alone for rows in each.rows.tolist()]
    for tensor in tensors:
        assert together.columns[tensor.name].tobytes() == b"".join(
            each.columns[tensor.name].tobytes() for each in alone
        )


@pytest.mark.parametrize("tensors", SIGNATURES, ids=["one", "several"])
def test_any_number_in_arrow_metadata_may_be_forged(tensors: Tensors) -> None:
    good = valid(ARROW, tensors, 2)
    forged = [struct.pack("<q", number) for number in (0, -1, 1, 8, -8, 64, 1 << 20, 1 << 40, (1 << 63) - 1)]
    for at in range(0, len(good), 4):
        for number in forged:
            for width in (4, 8):
                value = good[:at] + number[:width] + good[at + width :]
                columns = assert_alike(ARROW, value, tensors)
                assert_as_pyarrow(value, tensors, columns)
