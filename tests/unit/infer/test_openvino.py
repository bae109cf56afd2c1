"""The OpenVINO backend: the contract of every backend, and its own format."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.infer.backend import Backend
from pipeline.infer.backends import backend_for
from pipeline.models import Model, add_model
from tests.contract.backend_suite import ROWS_MAX, BackendSuite
from tests.unit.models import graphs


class TestOpenVino(BackendSuite):
    def make(self) -> Backend:
        return backend_for("openvino")

    @pytest.fixture
    def model(self, tmp_path: Path) -> Model:
        """OpenVINO takes any index: shapes that do not fit are what fails."""
        return add_model(tmp_path / "models", graphs.pick_or_misfit(tmp_path / "pick.onnx"), rows_max=ROWS_MAX)
