"""The bulk histogram against numpy, and its exponential buckets against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.observe.histogram import BUCKETS, LOWEST, SCALE, Histogram

HALF_BUCKET = 2 ** (0.5 / 2**SCALE) - 1 + 1e-9  # 1.1%
durations = st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=200)


def histogram_of(values: list[float]) -> Histogram:
    histogram = Histogram()
    histogram.record_many(np.array(values))
    return histogram


@given(durations, st.floats(0.0, 1.0))
def test_quantiles_are_within_half_a_bucket_of_numpy(values: list[float], q: float) -> None:
    expected = np.percentile(values, q * 100, method="inverted_cdf")
    # numpy takes q * 100 / 100: a rank just at a border may fall on either neighbour.
    ranks = sorted(values)
    position = ranks.index(expected)
    near = (
        ranks[max(0, position - 1) : position + 2]
        if abs(q * len(values) - round(q * len(values))) < 1e-6
        else [expected]
    )
    found = histogram_of(values).quantile_s(q)
    assert min(abs(found / value - 1) for value in near) <= HALF_BUCKET


@given(durations)
def test_count_sum_min_and_max_are_exact(values: list[float]) -> None:
    histogram = histogram_of(values)
    assert histogram.count == len(values) == histogram.counts.sum()
    assert histogram.sum_s == pytest.approx(sum(values), rel=1e-12)
    assert (histogram.min_s, histogram.max_s) == (min(values), max(values))


@given(durations, durations)
def test_merging_is_recording_both(first: list[float], second: list[float]) -> None:
    merged, both = histogram_of(first), histogram_of(first + second)
    merged.merge(histogram_of(second))
    assert np.array_equal(merged.counts, both.counts)
    assert (merged.count, merged.min_s, merged.max_s) == (both.count, both.min_s, both.max_s)
    assert merged.sum_s == pytest.approx(both.sum_s, rel=1e-12)


@given(st.lists(st.tuples(st.floats(1e-6, 1e5), st.integers(1, 50)), min_size=1, max_size=30))
def test_a_value_with_a_count_is_the_value_so_many_times(pairs: list[tuple[float, int]]) -> None:
    weighted, repeated = Histogram(), Histogram()
    for value, count in pairs:
        weighted.record(value, count)
    repeated.record_many(np.repeat([v for v, _ in pairs], [c for _, c in pairs]))
    assert np.array_equal(weighted.counts, repeated.counts)
    assert weighted.count == repeated.count
    assert weighted.sum_s == pytest.approx(repeated.sum_s, rel=1e-9)


@given(st.floats(1e-7, 1e9))
def test_a_value_lies_in_its_exponential_bucket(value: float) -> None:
    scale, offset, counts = histogram_of([value]).buckets(160)
    base = 2 ** (2**-scale)
    assert counts == [1]
    assert base**offset * (1 - 1e-9) < value <= base ** (offset + 1) * (1 + 1e-9)


def test_a_power_of_two_is_the_upper_border_of_its_bucket() -> None:
    assert histogram_of([1.0]).buckets(160) == (SCALE, -1, [1])
    assert histogram_of([2.0]).buckets(160) == (SCALE, 2**SCALE - 1, [1])


@given(durations, st.integers(2, 160))
def test_a_lower_scale_joins_buckets_without_losing_any(values: list[float], buckets_max: int) -> None:
    scale, offset, counts = histogram_of(values).buckets(buckets_max)
    assert len(counts) <= buckets_max and sum(counts) == len(values)
    base = 2.0 ** (2.0**-scale)
    assert base**offset <= min(values) * (1 + 1e-9) and max(values) <= base ** (offset + len(counts)) * (1 + 1e-9)


def test_any_duration_has_a_place_and_memory_stays_as_it_is() -> None:
    histogram = histogram_of([0.0, -1.0, 1e-12, 1e30])
    assert histogram.counts.size == 1 + BUCKETS and histogram.count == 4
    assert histogram.counts[0] == 3 and histogram.counts[-1] == 1
    assert histogram.buckets(160) == (SCALE, LOWEST + BUCKETS - 1, [1])


@given(durations, durations)
def test_what_came_since_a_copy_is_exact_up_to_bucket_borders(first: list[float], second: list[float]) -> None:
    histogram = histogram_of(first)
    earlier = histogram.copy()
    histogram.record_many(np.array(second))
    recent, expected = histogram.since(earlier), histogram_of(second)
    assert np.array_equal(recent.counts, expected.counts) and recent.count == expected.count
    assert recent.min_s <= expected.min_s * (1 + 1e-9) and recent.max_s >= expected.max_s * (1 - 1e-9)


def test_an_empty_histogram_says_zero() -> None:
    empty = Histogram()
    empty.record_many(np.array([]))
    assert (empty.count, empty.mean_s, empty.quantile_s(0.99), empty.buckets(160)) == (0, 0.0, 0.0, (SCALE, 0, []))
