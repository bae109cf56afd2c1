"""Counters that balance, stages that sum up to end-to-end, waiting that is bounded."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.observe import Observer, Stage, timings
from pipeline.observe.counters import Outcome
from pipeline.observe.observer import SWAPS_KEPT
from tests.unit.observe.batch_maker import StoppedClock, run_batch

PARTITION = ("digits.requests", 0)
durations_ms = st.floats(0.01, 500.0)


@given(
    stages_ms=st.lists(durations_ms, min_size=7, max_size=7),
    sent_ms_ago=st.lists(st.floats(0.0, 5_000.0), min_size=1, max_size=40),
    until_commit_ms=durations_ms,
)
def test_i5_stages_sum_to_end_to_end(stages_ms: list[float], sent_ms_ago: list[float], until_commit_ms: float) -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock)
    observer.batch_acked(run_batch(clock, stages_ms=stages_ms, sent_ms_ago=sent_ms_ago))
    clock.advance(until_commit_ms)
    observer.committed({PARTITION: 1})
    total = observer.snapshot().total
    assert total.end_to_end.count == len(sent_ms_ago)
    assert {stage: latency.count for stage, latency in total.stages.items()} == dict.fromkeys(Stage, len(sent_ms_ago))
    assert total.stages_over_end_to_end == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("stage", Stage)
def test_i5_does_not_hold_when_a_stage_is_left_out(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_stage(finished: list[timings.Finished]) -> timings.Measured:
        measured = measure(finished)
        if stage is Stage.KAFKA_DWELL:
            measured.kafka_dwell_s[:] = 0.0
        else:
            measured.shared_s[:, list(Stage).index(stage) - 1] = 0.0
        return measured

    measure = timings.measure
    monkeypatch.setattr("pipeline.observe.observer.measure", without_stage)
    clock = StoppedClock()
    observer = Observer(clock=clock)
    observer.batch_acked(run_batch(clock))
    clock.advance(8)
    observer.committed({PARTITION: 1})
    assert abs(observer.snapshot().total.stages_over_end_to_end - 1) > 0.01


def test_every_stage_is_what_passed_between_its_moments() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock)
    observer.batch_acked(run_batch(clock, sent_ms_ago=[10, 30]))
    clock.advance(8)
    observer.committed({PARTITION: 1})
    total = observer.snapshot().total
    means_ms = [latency.mean_us / 1e3 for latency in total.stages.values()]
    assert means_ms == pytest.approx([20, 1, 2, 3, 4, 5, 6, 7, 8])
    assert total.answered.mean_us == pytest.approx(48_000)
    assert total.end_to_end.mean_us == pytest.approx(56_000)


def test_a_commit_told_later_counts_at_its_own_moment() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock)
    observer.batch_acked(run_batch(clock))
    clock.advance(8)
    committed_ns = clock.now_ns()
    clock.advance(100)
    observer.committed({PARTITION: 1}, committed_ns)
    total = observer.snapshot().total
    assert total.stages[Stage.COMMIT].mean_us == pytest.approx(8_000)
    assert total.stages_over_end_to_end == pytest.approx(1.0)


def test_a_part_waits_until_its_last_offset_is_committed() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock)
    observer.batch_acked(run_batch(clock, [19, 9], requests=3))
    observer.batch_acked(run_batch(clock, [4], requests=2))
    observer.committed({PARTITION: 9, ("digits.requests", 1): 100})
    assert observer.snapshot().total.end_to_end.count == 2
    observer.committed({PARTITION: 10})
    assert observer.snapshot().total.end_to_end.count == 5
    observer.committed({PARTITION: 20})
    assert observer.snapshot().total.end_to_end.count == 8


def test_a_commit_may_be_told_before_the_batch_it_covers() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock)
    times = run_batch(clock, [7])
    clock.advance(8)
    observer.committed({PARTITION: 8})
    clock.advance(100)
    observer.batch_acked(times)
    total = observer.snapshot().total
    assert total.stages[Stage.COMMIT].mean_us == pytest.approx(8_000)
    assert total.stages_over_end_to_end == pytest.approx(1.0)


def test_a_clock_ahead_of_ours_counts_as_no_dwell_in_stage_and_in_end_to_end() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock)
    observer.batch_acked(run_batch(clock, sent_ms_ago=[-3_600_000, 10, clock.unix_ms() + 1]))  # the last has none
    observer.committed({PARTITION: 1})
    snapshot = observer.snapshot()
    assert snapshot.losses.clock_skew == 2
    assert snapshot.total.stages[Stage.KAFKA_DWELL].sum_us == pytest.approx(10_000)
    assert snapshot.total.stages_over_end_to_end == pytest.approx(1.0)


def test_parts_that_are_never_committed_stay_within_their_limit() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock, parts_max=10)
    for offset in range(50):
        observer.batch_acked(run_batch(clock, [offset], requests=1))
    assert observer.snapshot().losses.parts_dropped == 40
    observer.committed({PARTITION: 50})
    assert observer.snapshot().total.end_to_end.count == 10


def test_a_partition_that_stands_still_does_not_push_out_the_others() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock, parts_max=10)
    for offset in range(20):
        observer.batch_acked(run_batch(clock, [offset], requests=1, partition=1))
    observer.batch_acked(run_batch(clock, [0], requests=1, partition=0))
    observer.committed({PARTITION: 1})
    assert observer.snapshot().total.end_to_end.count == 1


def test_forgotten_partitions_leave_nothing_behind() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock, parts_max=10)
    observer.batch_acked(run_batch(clock, range(8)))
    observer.committed({("digits.requests", 0): 0})
    observer.forget(*PARTITION)
    observer.batch_acked(run_batch(clock, range(10)))
    assert observer.snapshot().losses.parts_dropped == 0
    observer.committed({PARTITION: 10})
    assert observer.snapshot().total.end_to_end.count == 40


def test_versions_of_a_model_share_their_timings() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock)
    observer.batch_acked(run_batch(clock, [0], model="digits/1"))
    observer.batch_acked(run_batch(clock, [1], model="digits/2"))
    observer.batch_acked(run_batch(clock, [0], model="other/1"))
    observer.committed({PARTITION: 2, ("other.requests", 0): 1})
    snapshot = observer.snapshot()
    assert {name: model.end_to_end.count for name, model in snapshot.models.items()} == {"digits": 8, "other": 4}
    assert snapshot.total.end_to_end.count == 12


def test_i6_every_reading_balances_while_threads_count() -> None:
    observer = Observer()
    done = threading.Event()
    taken: list[int] = []

    def flow(seed: int) -> None:
        rng = random.Random(seed)
        outcomes = [getattr(observer, outcome) for outcome in Outcome]
        for _ in range(400):
            count = rng.randint(1, 64)
            taken.append(count)
            observer.received("digits", count)
            left = count
            while left:
                some = rng.randint(1, left)
                rng.choice(outcomes)("digits", some)
                left -= some

    readings: list[int] = []

    def read() -> None:
        while not done.is_set():
            counts = observer.counts().get("digits")
            if counts is not None:
                ended = sum(getattr(counts, outcome) for outcome in Outcome)
                assert counts.received == ended + counts.in_flight
                readings.append(counts.in_flight)

    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        flows = [threading.Thread(target=flow, args=(seed,)) for seed in range(4)]
        reader = threading.Thread(target=read)
        for thread in (reader, *flows):
            thread.start()
        for thread in flows:
            thread.join()
    finally:
        done.set()
        reader.join()
        sys.setswitchinterval(switch_s)
    assert readings and all(0 <= in_flight <= 4 * 64 for in_flight in readings)
    assert observer.in_flight("digits") == 0
    assert observer.counts()["digits"].received == sum(taken)


def test_a_snapshot_is_plain_json_and_a_table_of_nine_stages() -> None:
    clock = StoppedClock()
    observer = Observer(clock=clock)
    observer.received("digits", 5)
    observer.answered("digits", 4)
    observer.batch_acked(run_batch(clock))
    observer.committed({PARTITION: 1})
    snapshot = observer.snapshot()
    data = json.loads(json.dumps(snapshot.to_dict()))
    assert data["models"]["digits"]["requests"] == {
        "received": 5, "answered": 4, "expired": 0, "dead_lettered": 0, "duplicate": 0, "released": 0, "vanished": 0,
        "in_flight": 1,
    }  # fmt: skip
    assert list(data["total"]["stages"]) == [str(stage) for stage in Stage]
    assert sum(stage["sum_share"] for stage in data["total"]["stages"].values()) == pytest.approx(1.0, abs=0.01)
    assert data["total"]["end_to_end"]["count"] == 4
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(snapshot.table())
    for text in (console.export_text(), snapshot.text("digits")):
        assert all(str(stage).replace("_", " ") in text for stage in Stage)
        assert "stages sum to 100.00% of end to end" in text


def test_an_observer_that_saw_nothing_has_a_table_too() -> None:
    snapshot = Observer().snapshot()
    assert snapshot.total.stages_over_end_to_end == 0.0
    assert "0 requests" in snapshot.text()


def test_without_an_endpoint_no_telemetry_is_imported_and_no_thread_started() -> None:
    program = """
import os, sys, threading
for name in [name for name in os.environ if name.startswith("OTEL_")]:
    del os.environ[name]
from pipeline.observe import Observer
observer = Observer()
observer.start()
observer.shutdown()
assert not observer.begin_trace()
assert threading.active_count() == 1
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_recording_is_bulk_whatever_the_number_of_requests() -> None:
    clock = StoppedClock()
    times = run_batch(clock, range(3), sent_ms_ago=np.linspace(0, 100, 5_000).tolist())
    observer = Observer(clock=clock)
    observer.batch_acked(times)
    observer.committed({PARTITION: 3})
    total = observer.snapshot().total
    assert total.end_to_end.count == 15_000
    assert total.stages[Stage.KAFKA_DWELL].p99_us == pytest.approx(99_000, rel=0.02)


def test_swaps_are_told_with_the_first_offset_of_each_partition_and_only_the_latest_are_kept() -> None:
    observer = Observer()
    observer.swapped("m/1", "m/2")
    for partition, offset in ((0, 7), (1, 5), (0, 9)):
        observer.begins("m/2", "m.requests", partition, offset)
    told = {"before": "m/1", "after": "m/2", "first_offsets": {"m.requests/0": 7, "m.requests/1": 5}}
    assert observer.snapshot().to_dict()["swaps"] == [told]
    for version in range(2, 2 + SWAPS_KEPT):
        observer.swapped(f"m/{version}", f"m/{version + 1}")
    observer.begins("m/2", "m.requests", 3, 1)
    swaps = observer.snapshot().swaps
    assert [swap.before for swap in swaps] == [f"m/{version}" for version in range(2, 2 + SWAPS_KEPT)]
    assert not any(swap.first_offsets for swap in swaps)
