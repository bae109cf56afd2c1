"""Sequences of every length through a real broker: each answered as the model alone answers it, whatever it met."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pipeline.load
from pipeline.core.settings import Guarantee
from pipeline.load.requests import random_columns
from pipeline.local import EmbeddedKafka
from pipeline.models import load_repository, read_content
from pipeline.models.onnx import open_bare
from tests.contract.test_flow import renamed
from tests.contract.worker import Worker, committed, read_all, send
from topics.codecs import CONTENT_TYPES, codec_for
from topics.names import topics_of
from topics.records import Status

ENCODER = Path(pipeline.load.__file__).parent / "models" / "encoder" / "1"
SIZES = (1, 3, 1, 200)  # rows of a request; the last is more than a batch


@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_requests_of_every_length_and_type_are_answered_as_the_model_alone_does(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str], guarantee: Guarantee
) -> None:
    models, name = renamed(ENCODER, tmp_path, topic("encoder"))
    (model,) = load_repository(models)
    topics, group, signature = topics_of(name), topic("group"), model.signature
    ends = np.cumsum([SIZES[number % len(SIZES)] for number in range(400)]).tolist()
    tokens = random_columns(signature.inputs, ends[-1], sequences=["tokens"])["tokens"]
    requests = []
    for number, end in enumerate(ends):
        kind = CONTENT_TYPES[number % 3]
        rows = tokens[end - SIZES[number % len(SIZES)] : end]
        value = codec_for(kind).encode_request({"tokens": rows}, signature.inputs)
        requests.append((b"key", value, [("content-type", kind.encode()), ("request-id", str(number).encode())]))
    with Worker(broker.bootstrap, models, group, "--guarantee", guarantee, log=tmp_path / "log") as worker:
        send(broker.bootstrap, topics.requests, requests)
        outcomes = read_all(broker.bootstrap, topics, len(requests))
        assert worker.stop() == 0
    alone = open_bare(model.file, *read_content(model)).run(None, {"tokens": tokens})[0]
    assert set(outcomes.answered.values()) == {1} and len(outcomes.answers) == len(requests)
    for _, answer in outcomes.answers:
        number = int(answer.request_id)
        assert answer.status is Status.OK
        kind, end = CONTENT_TYPES[number % 3], ends[number]
        found = codec_for(kind).decode_response(answer.value or b"", signature.outputs)["probabilities"]
        assert np.allclose(found, alone[end - SIZES[number % len(SIZES)] : end], atol=1e-5)
    assert committed(broker.bootstrap, group, topics.requests) == len(requests)
