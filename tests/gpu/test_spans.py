"""What is computed of the device's events, on times made up by hand and on a fake device."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest

from pipeline.infer.backends.tensorrt import TensorRt
from pipeline.infer.backends.tensorrt.slots import Patience
from tests.gpu.spans import Batch, Loop, bare_loop, beside, joined, length
from tests.unit.infer.makers import model_of
from tests.unit.infer.tensorrt.fake_cuda import FakeCuda
from tests.unit.infer.tensorrt.fake_engine import of_function


def test_spans_are_joined_and_measured() -> None:
    assert joined([(4, 5), (0, 2), (1, 3), (3, 3.5)]) == [(0, 3.5), (4, 5)]
    assert length([(0, 3.5), (4, 5)]) == 4.5
    assert beside((3, 4.5), [(0, 3.5), (4, 5)]) == 1


def test_copies_beside_another_run_count_as_overlapped() -> None:
    alone, second = Batch(0, 1, 1, 3, 4), Batch(1, 2, 3, 5, 6)
    loop = Loop([alone, second], rows=8, seconds=2.0)
    assert loop.rows_per_s == 8
    assert loop.busy == pytest.approx(4 / 6)
    assert loop.overlap == pytest.approx((0 + 1 + 1 + 0) / 4)
    assert Loop([alone], 8, 1.0).overlap == 0


def test_the_loop_keeps_every_slot_in_flight_and_reads_its_events() -> None:
    cuda, seconds = FakeCuda(Random(1), steps_max=1), count()
    backend = TensorRt(
        cuda=cuda,
        opened=of_function(cuda),
        patience=Patience(1e9, pause=lambda s: cuda.advance(), now_s=lambda: 0.0),
        timed=True,
    )
    backend.load(model_of())
    slots = backend.slots(3)
    backend.warm()
    loop = bare_loop(backend, cuda, slots, 8, 200, lambda: float(next(seconds)))
    assert len(loop.batches) > 30
    for batch in loop.batches:
        assert batch.begun <= batch.copied_in <= batch.started <= batch.computed <= batch.copied_out
    assert 0 < loop.busy <= 1 and 0 < loop.overlap < 1
    backend.close()
    assert cuda.left() == []
