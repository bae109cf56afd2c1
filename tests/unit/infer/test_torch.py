"""The torch backend: the contract of every backend, where torch is installed (make test-torch)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import BackendError
from pipeline.infer.backend import Backend
from pipeline.infer.backends import backend_for
from pipeline.models import BUNDLED, Model, add_model, load_repository
from tests.contract.backend_suite import ROWS_MAX, BackendSuite
from tests.unit.models.archives import GRAPH, changed
from tests.unit.models.bad_models import listed_as_they_are


class TestTorch(BackendSuite):
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        try:
            self.make()
        except BackendError as error:
            pytest.skip(str(error))

    def make(self) -> Backend:
        return backend_for("torch")

    @pytest.fixture
    def model(self, tmp_path: Path) -> Model:
        from tests.unit.models import programs

        return add_model(tmp_path / "models", programs.pick(tmp_path / "pick.pt2"), rows_max=ROWS_MAX)

    @pytest.fixture
    def digits(self, tmp_path: Path) -> Model:
        from tests.unit.models import programs

        (bundled,) = load_repository(BUNDLED)
        source = programs.digits(tmp_path / "digits.pt2", bundled.file)
        return add_model(tmp_path / "models", source, rows_max=bundled.manifest.rows_max)

    def lacking(self, model: Model) -> Model:
        operator = {"torch.ops.aten.index.Tensor": "torch.ops.aten.Conjure.default"}
        model.file.write_bytes(changed(model.file.read_bytes(), GRAPH, operator))
        return listed_as_they_are(model)
