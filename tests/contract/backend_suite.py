"""What every backend must do; a test class per backend inherits it and says how to make one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.errors import BackendError, ModelError, SluiceError
from pipeline.infer.backend import Backend, Slot
from pipeline.models import BUNDLED, Manifest, Model, add_model, held_out, load_repository
from tests.unit.models import graphs
from tests.unit.models.bad_models import missing_operator
from topics.signature import Signature

ROWS_MAX = 24


class BackendSuite:
    """Inherit as ``class TestX(BackendSuite)`` and override `make`."""

    tolerance = 1e-5  # of probabilities, between two batch sizes

    def make(self) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    def model(self, tmp_path: Path) -> Model:
        """Two inputs and two outputs, one of them a scalar per row; ``at`` outside 0..9 fails while running."""
        return add_model(tmp_path / "models", graphs.pick(tmp_path / "pick.onnx"), rows_max=ROWS_MAX)

    @pytest.fixture
    def digits(self) -> Model:
        """The bundled digit classifier, in a format the backend reads."""
        (model,) = load_repository(BUNDLED)
        return model

    @pytest.fixture
    def backend(self, model: Model) -> Iterator[Backend]:
        backend = self.make()
        backend.load(model)
        yield backend
        backend.close()

    def lacking(self, model: Model) -> Model:
        """The model with an operator Conjure, which no runtime has."""
        return missing_operator(model)

    @staticmethod
    def fill(slot: Slot, rows: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        rng = np.random.default_rng(seed)
        at, image = rng.integers(0, 10, rows), rng.random((rows, 2, 2), dtype=np.float32)
        slot.inputs["at"][:rows], slot.inputs["image"][:rows] = at, image
        return at, image

    def test_slots_have_the_declared_shapes_and_lie_in_one_piece(self, backend: Backend, model: Model) -> None:
        slots = backend.slots(2)
        assert [slot.index for slot in slots] == [0, 1]
        for slot in slots:
            for buffers, tensors in ((slot.inputs, model.signature.inputs), (slot.outputs, model.signature.outputs)):
                assert [(n, b.shape, b.dtype) for n, b in buffers.items()] == [
                    (t.name, (ROWS_MAX, *t.shape), t.dtype) for t in tensors
                ]
                assert all(buffer.flags.c_contiguous and buffer.flags.writeable for buffer in buffers.values())

    def test_every_number_of_rows_is_answered_row_by_row(self, backend: Backend) -> None:
        (slot,) = backend.slots(1)
        backend.warm()
        for rows in range(1, ROWS_MAX + 1):
            at, image = self.fill(slot, rows, seed=rows)
            backend.run(slot, rows)
            backend.wait(slot)
            assert np.array_equal(slot.outputs["picked"][:rows], 10 * at)
            assert np.array_equal(slot.outputs["copied"][:rows], image)

    def test_what_an_older_batch_left_behind_is_never_run_again(self, backend: Backend) -> None:
        """A poison row beyond the rows of this batch must not fail it (I7)."""
        (slot,) = backend.slots(1)
        slot.inputs["at"][:] = 99
        at, _ = self.fill(slot, 9)
        backend.run(slot, 9)
        backend.wait(slot)
        assert np.array_equal(slot.outputs["picked"][:9], 10 * at)

    def test_outputs_stay_until_their_own_slot_is_run_again(self, backend: Backend) -> None:
        first, second = backend.slots(2)
        backend.warm()
        at, image = self.fill(first, 5)
        backend.run(first, 5)
        self.fill(second, ROWS_MAX, seed=1)
        backend.run(second, ROWS_MAX)
        backend.wait(first)
        backend.wait(second)
        assert np.array_equal(first.outputs["picked"][:5], 10 * at)
        assert np.array_equal(first.outputs["copied"][:5], image)

    def test_a_batch_that_fails_says_so_and_the_slot_works_again(self, backend: Backend, model: Model) -> None:
        (slot,) = backend.slots(1)
        backend.warm()
        self.fill(slot, 4)
        slot.inputs["at"][2] = 99
        with pytest.raises(BackendError, match=model.label):  # noqa: PT012 - run or wait tells it, as the backend works
            backend.run(slot, 4)
            backend.wait(slot)
        at, _ = self.fill(slot, 4)
        backend.run(slot, 4)
        backend.wait(slot)
        assert np.array_equal(slot.outputs["picked"][:4], 10 * at)

    def test_a_model_that_is_not_as_declared_is_refused(self, model: Model) -> None:
        manifest: Manifest = model.manifest
        outputs = tuple(reversed(model.signature.outputs))
        for signature in (
            Signature(model.signature.inputs[:1], model.signature.outputs),
            Signature(model.signature.inputs, (replace(outputs[0], shape=(4,)), outputs[1])),
        ):
            with pytest.raises(ModelError, match="declares"):
                self.make().load(Model(replace(manifest, signature=signature), model.path))

    def test_an_operator_the_runtime_lacks_is_refused(self, model: Model) -> None:
        with pytest.raises(SluiceError, match="Conjure"):
            self.make().load(self.lacking(model))

    def test_closing_twice_does_nothing(self, model: Model) -> None:
        backend = self.make()
        backend.load(model)
        backend.slots(1)
        backend.close()
        backend.close()

    def test_the_bundled_digits_are_told_apart(self, digits: Model) -> None:
        model = digits
        images, labels = held_out()
        backend = self.make()
        backend.load(model)
        (slot,) = backend.slots(1)
        right, size = 0, model.manifest.rows_max
        for at in range(0, len(labels), size):
            truth = labels[at : at + size]
            slot.inputs["image"][: len(truth)] = images[at : at + size]
            backend.run(slot, len(truth))
            backend.wait(slot)
            right += int((slot.outputs["label"][: len(truth)] == truth).sum())
        backend.close()
        assert len(labels) >= 450
        assert right / len(labels) >= 0.98

    def test_a_row_is_answered_alike_in_every_batch_size(self, digits: Model) -> None:
        model = digits
        images, _ = held_out()
        backend = self.make()
        backend.load(model)
        (slot,) = backend.slots(1)
        answers = []
        for rows in (1, 7, 100, model.manifest.rows_max):
            slot.inputs["image"][:rows] = images[:rows]
            backend.run(slot, rows)
            backend.wait(slot)
            answers.append(slot.outputs["probabilities"][0].copy())
        backend.close()
        assert np.isclose(answers[0].sum(), 1)
        assert all(np.allclose(answers[0], answer, atol=self.tolerance) for answer in answers)
