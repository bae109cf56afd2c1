"""Which traceparent headers count as sampled, and how they go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.observe import continue_trace, is_sampled

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("flags", ["01", "03", "ff", "0b"])
def test_the_sampled_flag_is_read(flags: str) -> None:
    assert is_sampled(f"00-{TRACE}-{SPAN}-{flags}".encode())


@pytest.mark.parametrize("flags", ["00", "02", "fe", "0a"])
def test_other_flags_are_not_sampling(flags: str) -> None:
    assert not is_sampled(f"00-{TRACE}-{SPAN}-{flags}".encode())


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"00",
        f"00-{TRACE}-{SPAN}-01-more".encode(),
        f"ff-{TRACE}-{SPAN}-01".encode(),
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE.upper()}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-01\n".encode(),
        f"00_{TRACE}_{SPAN}_01".encode(),
        b"\xff" * 54 + b"1",
        f"01-{TRACE}-{SPAN}-01-{'x' * 1000}".encode(),
    ],
)
def test_malformed_headers_are_ignored(raw: bytes | None) -> None:
    assert not is_sampled(raw)


def test_a_later_version_may_say_more() -> None:
    assert is_sampled(f"01-{TRACE}-{SPAN}-01-more".encode())


@given(
    st.binary(max_size=80) | st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.?.?", fullmatch=True)
)
def test_any_bytes_are_either_ignored_or_can_be_continued(raw: bytes) -> None:
    if is_sampled(raw):
        assert is_sampled(continue_trace(raw))


def test_a_trace_goes_on_under_a_span_of_our_own() -> None:
    continued = continue_trace(f"00-{TRACE}-{SPAN}-01".encode(), new_id=lambda bits: 0xABC)
    assert continued == f"00-{TRACE}-0000000000000abc-01".encode()
    assert is_sampled(continued)
    assert len({continue_trace(f"00-{TRACE}-{SPAN}-01".encode()) for _ in range(2)}) == 2


def test_a_later_version_goes_on_as_the_one_we_know() -> None:
    assert continue_trace(f"01-{TRACE}-{SPAN}-ff-x".encode(), new_id=lambda bits: 1).endswith(b"-03")


@pytest.mark.parametrize("traceparent", ["00-xyz-01-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-00"])
def test_a_malformed_traceparent_cannot_be_continued(traceparent: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        continue_trace(traceparent.encode())
