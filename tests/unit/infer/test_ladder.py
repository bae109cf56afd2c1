"""A model and its rungs behind one backend: each batch is computed by its rung, in order, in shared slots."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.clock import SYSTEM_CLOCK
from pipeline.core.errors import BackendError
from pipeline.infer import Batch, Device, Lane, Run
from pipeline.infer.ladder import Answer, Ladder
from pipeline.infer.placement import placed
from pipeline.models import Model, Rung, add_model
from tests.unit.infer.makers import SIGNATURE, FakeBackend, admitted_of, model_of
from tests.unit.models import graphs

FULL, FAST, DEFAULT = range(3)
ROW = Rung("default", answer={"y": [7, 8], "half": 9}).row(SIGNATURE.outputs)


def laddered() -> Model:
    plain = model_of("m")
    ladder = (Rung("fast", model="fast/1"), Rung("default", answer={"y": [7, 8], "half": 9}))
    return Model(replace(plain.manifest, slo_ms=20.0, ladder=ladder), plain.path)


def batch_of(first: int, rows: int, rung: int) -> Batch:
    batch = Batch([], [], 0, 0, rung=rung)
    batch.add(Run(admitted_of([1] * rows, first=first), 0, rows, 0))
    return batch


def test_each_batch_is_computed_by_its_rung_in_the_order_of_all() -> None:
    full, fast, done = FakeBackend(), FakeBackend(), list[Batch]()

    async def scenario() -> Lane:
        device = Device(fail=lambda error: None)
        backend = Ladder(full, [(model_of("fast"), fast)], [Answer(ROW)])
        backend.load(laddered())
        lane = device.add(laddered(), backend, 3, lambda lane, batch: done.append(batch))
        device.start(asyncio.get_running_loop())
        for first, rung in enumerate((FAST, FULL, DEFAULT)):
            device.submit(lane, batch_of(10 * first, 2, rung))
        while len(done) < 3 or not device.state(lane, SYSTEM_CLOCK.now_ns()).idle:
            await asyncio.sleep(0.001)
        halves = []
        for batch in done:
            assert batch.slot is not None
            backend.wait(batch.slot)
            halves.append(batch.slot.outputs["half"][:2].tolist())
            device.give_back(lane, batch)
        assert halves == [[0, 0.5], [5, 5.5], [9, 9]]
        assert [batch.rung for batch in done] == [FAST, FULL, DEFAULT]
        while len(lane.free) < 3:
            await asyncio.sleep(0.001)
        device.stop()
        return lane

    lane = asyncio.run(asyncio.wait_for(scenario(), 20))
    # Each bucket is timed once, on each model, so that what a rung costs is known before it is needed.
    assert [rows for rows, _ in lane.samples] == [8] and [[rows for rows, _ in each] for each in lane.below] == [[8]]
    assert (full.ran[-1], fast.ran[-1]) == ([10, 11], [0, 1])
    assert (full.warmed, fast.warmed, full.closed, fast.closed) == (1, 1, 1, 1)


def test_what_runs_again_stays_on_its_rung() -> None:
    batch = batch_of(0, 4, FAST)
    batch.error = BackendError("failed")
    assert [half.rung for half in batch.again(1)] == [FAST, FAST]


def test_a_rung_that_cannot_be_loaded_leaves_nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    full, fast = FakeBackend(), FakeBackend()

    def broken(model: Model, *, threads: int | None = None) -> None:
        raise BackendError("no such operator")

    monkeypatch.setattr(fast, "load", broken)
    with pytest.raises(BackendError, match="no such operator"):
        Ladder(full, [(model_of("fast"), fast)], []).load(laddered())
    assert full.closed == 1


def test_a_ladder_waits_for_outputs_where_one_of_its_rungs_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = FakeBackend()
    ladder = Ladder(FakeBackend(), [(model_of("fast"), fast)], [])
    assert not ladder.asynchronous
    monkeypatch.setattr(FakeBackend, "asynchronous", True)
    assert ladder.asynchronous


def test_a_constant_answer_copies_nothing_in_and_gives_every_row_the_same() -> None:
    answer = Answer(ROW)
    answer.load(laddered())
    slot, other = answer.slots(2)
    assert (slot.inputs, slot.index, other.index) == ({}, 0, 1)
    assert slot.outputs["y"].shape == (8, 2) and (slot.outputs["y"] == np.array([7, 8])).all()


def test_a_batch_that_brings_its_answers_has_them_in_its_own_slot_and_is_computed_by_nobody() -> None:
    full = FakeBackend()
    ladder = Ladder(full, [], [Answer(ROW), Answer(ROW)])
    ladder.load(laddered())
    slot, other = ladder.slots(2)
    batch, constant = batch_of(0, 3, 1), batch_of(0, 3, 2)
    answers = [(1, [[1, 2]]), (2, [[3, 4], [5, 6]])]
    batch.answers = [{"y": np.array(y, np.float32), "half": np.full(rows, rows, np.float32)} for rows, y in answers]
    batch.fill(slot)
    ladder.run(slot, 3)
    assert (slot.outputs["y"][:3].tolist(), slot.outputs["half"][:3].tolist()) == ([[1, 2], [3, 4], [5, 6]], [1, 2, 2])
    for again in (slot, other):
        constant.fill(again)
        assert again.outputs["half"][:3].tolist() == [9, 9, 9]
    batch.rung = 1
    batch.answers = ()
    batch.fill(other)
    assert other.outputs["half"][:3].tolist() == [9, 9, 9], "slots share no outputs"
    assert full.ran == []


def test_a_ladder_of_models_of_sequences_is_timed_and_answers_at_each_length(tmp_path: Path) -> None:
    source, models = graphs.total(tmp_path / "total.onnx"), tmp_path / "models"
    low, full = (
        add_model(models, source, name=name, rows_max=2, sequences=["x"], lengths=[2, 4]) for name in ("low", "full")
    )
    model = Model(replace(full.manifest, slo_ms=50.0, ladder=(Rung("low", model=low.label),)), full.path)
    backend = placed(model, "cpu")
    backend.load(model)
    lane = Device(fail=lambda error: None).add(model, backend, 1, lambda lane, batch: None)
    assert [[rows for rows, _ in each] for each in (lane.samples, *lane.below)] == [[1, 2], [1, 2]]
    (slot,) = lane.free
    for rung, length in ((1, 2), (0, 4), (1, 4)):
        slot.step_to(rung)
        slot.length = length
        slot.input("x")[:] = 1
        backend.run(slot, 2)
        assert slot.outputs["y"].tolist() == [length, length]
    backend.close()
