"""What the demonstration tells people to try."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.cli.demo import _how_to_talk
from pipeline.cli.sources import Form, read_requests
from pipeline.models import BUNDLED, load_repository


def test_the_line_to_send_is_a_request_of_the_model(tmp_path: Path) -> None:
    (model,) = load_repository(BUNDLED)
    found = re.search(r"echo '(.*)' \| sluice produce digits", _how_to_talk("kafka:1"))
    assert found
    (tmp_path / "line").write_text(found[1])
    (request,) = read_requests(str(tmp_path / "line"), Form(model.signature.inputs))
    assert request.value
