"""The flow over a backend that answers later: the slots and threads of a GPU, on a device that is a fake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.local import EmbeddedKafka
from pipeline.models import BUNDLED, held_out, load_repository
from tests.contract.gpu_worker import LEFT, MODULE
from tests.contract.test_flow import renamed
from tests.contract.worker import Worker, committed, read_all, send
from topics.codecs import codec_for
from topics.names import topics_of
from topics.records import ARROW, Headers, Request

REQUESTS, ROWS = 300, 20


@pytest.fixture
def digits(tmp_path: Path, topic: Callable[..., str]) -> tuple[Path, str]:
    return renamed(BUNDLED / "digits" / "1", tmp_path, topic("digits"))


def requests() -> list[tuple[bytes | None, bytes | None, Headers]]:
    """Request n asks for the rows from n on."""
    signature, codec = load_repository(BUNDLED)[0].signature, codec_for(ARROW)
    images = np.resize(held_out()[0], (REQUESTS + ROWS, 1, 8, 8))
    values = [codec.encode_request({"image": images[n : n + ROWS]}, signature.inputs) for n in range(REQUESTS)]
    return [
        (b"key", value, Request(value, content_type=ARROW, request_id=str(n)).headers())
        for n, value in enumerate(values)
    ]


def check(broker: str, name: str) -> None:
    """Every request has an answer, and every answer is right for 98% of its rows."""
    signature, labels = load_repository(BUNDLED)[0].signature, np.resize(held_out()[1], REQUESTS + ROWS)
    outcomes = read_all(broker, topics_of(name), REQUESTS)
    assert len(outcomes.answered) == REQUESTS and not outcomes.dead
    right = 0
    for _, answer in outcomes.answers:
        said = codec_for(ARROW).decode_response(answer.value or b"", signature.outputs)["label"]
        right += int((said == labels[int(answer.request_id) :][:ROWS]).sum())
    assert right / (ROWS * len(outcomes.answers)) >= 0.98


def test_batches_overlap_and_all_is_answered_and_freed(
    broker: EmbeddedKafka, digits: tuple[Path, str], topic: Callable[..., str], tmp_path: Path
) -> None:
    models, name = digits
    log, group = tmp_path / "log", topic("group")
    with Worker(broker.bootstrap, models, group, log=log, module=MODULE) as worker:
        send(broker.bootstrap, topics_of(name).requests, requests())
        check(broker.bootstrap, name)
        assert worker.stop() == 0
    assert committed(broker.bootstrap, group, topics_of(name).requests) == REQUESTS
    assert f"{LEFT} []" in log.read_text()


def test_a_worker_whose_device_is_lost_exits_with_1_and_the_next_answers(
    broker: EmbeddedKafka, digits: tuple[Path, str], topic: Callable[..., str], tmp_path: Path
) -> None:
    models, name = digits
    log, group = tmp_path / "log", topic("group")
    env = {"LOSE_AFTER": "55"}  # 48 of them warm its slots: 16 buckets each
    with Worker(broker.bootstrap, models, group, log=log, module=MODULE, env=env) as worker:
        send(broker.bootstrap, topics_of(name).requests, requests())
        assert worker.process.wait(60) == 1
    assert "the device is lost" in log.read_text()
    with Worker(broker.bootstrap, models, group, log=log) as worker:
        check(broker.bootstrap, name)
        assert worker.stop() == 0
