"""What a batch costs is learnt from batches: the line, its noise, its limits, and what it forgets."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from pipeline.window import Cost, Rate

BUCKETS = (1, 2, 4, 8, 16, 32)
MS = 1_000_000


def line(rows: int) -> int:
    return 2 * MS + rows * MS // 4


def learnt(times: int = 20) -> Cost:
    cost = Cost(BUCKETS)
    for _ in range(times):
        for rows in BUCKETS:
            cost.ran(rows, line(rows))
        assert cost.run_ns(1) > 0
    return cost


def test_nothing_is_known_before_the_first_batch() -> None:
    assert not Cost(BUCKETS).known
    assert Cost(BUCKETS, [(1, line(1))]).known


def test_what_was_measured_when_it_was_warmed_is_the_first_line() -> None:
    cost = Cost(BUCKETS, [(rows, line(rows)) for rows in BUCKETS * 11])
    assert [cost.run_ns(rows) for rows in BUCKETS] == pytest.approx([line(rows) for rows in BUCKETS])


def test_the_bucket_is_paid_for() -> None:
    cost = learnt()
    assert cost.run_ns(5) == pytest.approx(line(8)) and cost.run_ns(8) == pytest.approx(line(8))
    assert cost.rows_within(np.array([0.0, line(1) + 1, line(8) + 1, line(16) - 9, 1e18])).tolist() == [0, 1, 8, 8, 32]


def test_no_batch_takes_less_than_the_least_and_so_much_a_row() -> None:
    cost = learnt()
    assert all(cost.least_ns + rows * cost.row_ns <= cost.run_ns(rows) + 1 for rows in range(1, 33))


def test_a_pause_of_the_machine_teaches_little_and_a_slower_machine_is_believed() -> None:
    cost = learnt()
    for run_ns in (5_000 * MS, *[line(8)] * 7):
        cost.ran(8, run_ns)
    assert cost.run_ns(8) < 1.6 * line(8)
    for _ in range(60):
        for rows in BUCKETS:
            cost.ran(rows, 10 * line(rows))
        assert cost.run_ns(1) > 0
    assert cost.run_ns(8) == pytest.approx(10 * line(8), rel=0.1)


def test_one_size_alone_says_nothing_of_a_constant_part() -> None:
    cost = Cost(BUCKETS)
    cost.ran(8, 8 * MS)
    assert abs(cost.tau0_ns) < 1 and cost.run_ns(16) == pytest.approx(16 * MS)


def test_noise_does_not_make_a_line_crooked_but_a_step_does() -> None:
    random, noisy, step = Random(1), Cost(BUCKETS), Cost(BUCKETS)
    for _ in range(40):
        for rows in BUCKETS:
            noisy.ran(rows, int(line(rows) * random.uniform(0.8, 1.2)))
            step.ran(rows, 2 * MS if rows <= 8 else 20 * MS)
        assert noisy.run_ns(1) > 0 and step.run_ns(1) > 0
    assert noisy.affine
    assert (step.run_ns(8), step.run_ns(16), step.affine) == (2 * MS, 20 * MS, False)


def test_by_trying_a_batch_grows_by_one_and_loses_a_tenth_when_it_was_late() -> None:
    cost = learnt()
    for _ in range(9):
        cost.acked(4, line(4), MS, 0, late=False)
    assert cost.rows_limit == 10
    cost.acked(4, line(4), MS, 0, late=True)
    assert cost.rows_limit == 9
    for _ in range(99):
        cost.acked(4, line(4), MS, 0, late=False)
    assert cost.rows_limit == BUCKETS[-1]


def test_the_tail_is_its_median_the_slack_what_one_in_ten_exceeds_and_a_stall_what_one_in_a_hundred_does() -> None:
    cost = learnt()
    for number in range(320):
        tail_ms = 30 if number % 40 == 0 else 5 if number % 5 == 0 else 3
        cost.acked(8, line(8), tail_ms * MS, 0, late=False)
    assert cost.tail_ns == pytest.approx(3 * MS)
    assert cost.slack_ns == pytest.approx(2 * MS)
    assert 20 * MS < cost.stall_ns <= 28 * MS


def test_few_slow_answers_say_nothing_yet_few_fast_ones_do() -> None:
    tails = []
    for tail_ms in (150, 1):
        cost = learnt()
        for start_ns in (0, 10_000 * MS):  # the second is after a rest
            for number in range(16):
                cost.acked(8, line(8), tail_ms * MS, start_ns + number * MS, late=False)
                tails.append(cost.tail_ns / MS)
    slow, fast = tails[:32], tails[32:]
    assert slow[:7] == slow[16:23] == [2] * 7 and slow[15] == slow[31] == 150
    assert fast == [1] * 32


def test_capacity_is_of_the_largest_batch_that_fits_twice_into_the_slo() -> None:
    cost = learnt()
    for number in range(32):
        cost.acked(8, line(8), 0 if number % 8 else 30 * MS, 0, late=False)
    assert cost.slack_ns > 20 * MS
    slo_ns = 2 * line(16) + 10
    assert cost.capacity(slo_ns) == pytest.approx(16 / line(16), rel=0.01), "whatever a stalling machine does at times"


def test_a_rate_rises_with_what_arrives_and_fades() -> None:
    rate = Rate(over_ns=100 * MS)
    for at in range(1000):
        rate.add(3, at * MS)
    assert rate.per_ns(999 * MS) == pytest.approx(3 / MS, rel=0.02)
    assert rate.per_ns(1999 * MS) < 1e-3 / MS
