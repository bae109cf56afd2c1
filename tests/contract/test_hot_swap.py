"""F24 on a real broker: a version takes another's place under load, and bad ones never do."""

from __future__ import annotations

import json
import re
import shutil
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from confluent_kafka import Message, Producer
from onnx import numpy_helper

from pipeline.local import EmbeddedKafka
from pipeline.models import Model, add_model
from pipeline.models.manifest import read_manifest
from tests.contract.test_flow import LINEAR
from tests.contract.worker import Outcomes, Worker, committed, end_offset, read_all, send
from tests.unit.models import graphs
from tests.unit.models.bad_models import BAD_MODELS, WEIGHTS_REVERSED, good_model, write_manifest
from topics.codecs import codec_for
from topics.names import topics_of
from topics.records import ARROW, RAW, Headers, Status, Terminal

ROWS_MAX = 64
ROWS = np.random.default_rng(1).random((1000, 50), np.float32)
LARGE = 150  # rows: three batches
MODEL = onnx.load(LINEAR / "linear.onnx")
WEIGHTS = numpy_helper.to_array(MODEL.graph.initializer[0]).reshape(-1)
SIGNATURE = read_manifest(LINEAR).signature
HEARD_S = 60.0
KINDS = {
    "a wrong hash",
    "a signature that is not the model's: name",
    "an operator the runtime lacks",
    "a pickle as the model",
    "a half-copied directory: a file is missing",
}


def scores(version: int) -> np.ndarray:
    """What a version answers to `ROWS`: twice the weights are twice the score."""
    answers: np.ndarray = ROWS @ (WEIGHTS * version)
    return answers


def add_version(models: Path, name: str, version: int) -> Model:
    """The linear model with its weights times the version, so that each answer tells whose it is."""
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    weights = numpy_helper.from_array(WEIGHTS[np.newaxis] * np.float32(version), "weights")
    model.graph.initializer[0].CopyFrom(weights)
    path = models.parent / f"{name}.onnx"
    onnx.save(model, path)
    return add_model(models, path, version=str(version), rows_max=ROWS_MAX)


@pytest.fixture
def linear(tmp_path: Path, topic: Callable[..., str]) -> tuple[Path, str]:
    models, name = tmp_path / "models", topic("linear")
    add_version(models, name, 1)
    return models, name


def requests_of_each_row() -> list[tuple[bytes, bytes, Headers]]:
    """`ROWS`, the key of each its number; every 500th request is `LARGE` rows from there on, split over batches."""
    raw, arrow = ([("content-type", kind.encode())] for kind in (RAW, ARROW))
    requests: list[tuple[bytes, bytes, Headers]] = [
        (str(first).encode(), row.tobytes(), raw) for first, row in enumerate(ROWS)
    ]
    for first in (0, 500):
        rows = {"features": np.roll(ROWS, -first, axis=0)[:LARGE]}
        requests[first] = (str(first).encode(), codec_for(ARROW).encode_request(rows, SIGNATURE.inputs), arrow)
    return requests


class Load:
    """Requests with hardly a pause, from a thread of its own, until it is told that it was enough."""

    def __init__(self, broker: str, topic: str) -> None:
        self.sent = 0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(broker, topic))

    def _run(self, broker: str, topic: str) -> None:
        producer = Producer({"bootstrap.servers": broker, "enable.idempotence": True, "linger.ms": 5})
        requests = requests_of_each_row()
        while not self._enough.is_set():
            for key, value, headers in requests:
                producer.produce(topic, value, key, headers=list(headers))
            self.sent += len(requests)
            time.sleep(0.03)  # fewer than 30,000 a second
            producer.poll(0)
        assert producer.flush(60) == 0

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._enough.set()
            self._thread.join(60)


def hear(worker: Worker, words: str) -> None:
    """Wait until the worker's log says it."""
    end = time.monotonic() + HEARD_S
    while words not in worker.log.read_text():
        assert worker.process.poll() is None, worker.log.read_text()
        assert time.monotonic() < end, f"never heard {words!r}:\n{worker.log.read_text()[-3000:]}"
        time.sleep(0.02)


def versions_of(outcomes: Outcomes) -> dict[str, int]:
    """Which version answered each request, by source; the value must be that version's, of all rows of a request."""
    answered: dict[str, int] = {}
    by_kind: dict[tuple[int, str], list[tuple[int, bytes]]] = defaultdict(list)
    for message, answer in outcomes.answers:
        assert answer.status is Status.OK
        answered[answer.source] = version = int(answer.model.rpartition("/")[2])
        by_kind[version, answer.content_type].append((int(message.key() or b""), answer.value or b""))
    for (version, content_type), answers in by_kind.items():
        wanted = scores(version)
        if content_type == RAW:
            firsts, got = [first for first, _ in answers], np.frombuffer(b"".join(value for _, value in answers), "f4")
            assert np.allclose(got, wanted[firsts], 1e-4, 1e-5), version
            continue
        for first, value in answers:
            got = codec_for(content_type).decode_response(value, SIGNATURE.outputs)["score"]
            assert np.allclose(got, np.roll(wanted, -first)[:LARGE], 1e-4, 1e-5), (version, first)
    return answered


def assert_in_order(answers: list[tuple[Message, Terminal]]) -> None:
    last: dict[tuple[bytes | None, str], int] = {}
    for message, answer in answers:
        source, offset = answer.source.rsplit("/", 1)
        at = message.key(), source
        assert int(offset) > last.get(at, -1), "a key's answers in the order of its requests"
        last[at] = int(offset)


@pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
def test_a_newer_version_takes_over_at_an_offset_and_no_request_is_lost(
    broker: EmbeddedKafka, linear: tuple[Path, str], tmp_path: Path, topic: Callable[..., str], guarantee: str
) -> None:
    models, name = linear
    topics, group = topics_of(name), topic("group")
    options = ("--guarantee", guarantee, "--report", str(tmp_path / "report.json"))
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
        load = Load(broker.bootstrap, topics.requests)

        def wait_for_answers(more: int) -> None:
            enough = end_offset(broker.bootstrap, topics.predictions) + more
            while end_offset(broker.bootstrap, topics.predictions) < enough:
                time.sleep(0.02)

        with load.running():
            wait_for_answers(6_000)
            for version in (2, 3):
                added = add_version(models, name, version)
                if version == 3:
                    shutil.rmtree(added.path.with_name("2"))  # what serves needs its directory no more
                worker.process.send_signal(signal.SIGHUP)
                hear(worker, f"{name}/{version} answers {topics.requests}/")
                hear(worker, f"{name}/{version - 1} is freed")
                wait_for_answers(6_000)
        outcomes = read_all(broker.bootstrap, topics, load.sent)
        assert worker.stop() == 0
    assert set(outcomes.answered.values()) == {1}
    assert len(outcomes.answered) == load.sent
    assert not outcomes.dead
    assert committed(broker.bootstrap, group, topics.requests) == load.sent
    assert_in_order(outcomes.answers)
    answered = versions_of(outcomes)
    assert set(answered.values()) == {1, 2, 3}
    swaps = json.loads((tmp_path / "report.json").read_text())["swaps"]
    assert [(swap["before"], swap["after"]) for swap in swaps] == [(f"{name}/{v}", f"{name}/{v + 1}") for v in (1, 2)]
    begins = {version: swap["first_offsets"] for version, swap in zip((2, 3), swaps, strict=True)}
    offsets: dict[str, dict[int, int]] = defaultdict(dict)
    for source, version in answered.items():
        partition, offset = source.rsplit("/", 1)
        offsets[partition][int(offset)] = version
    for partition, by_offset in offsets.items():
        for at, by in by_offset.items():
            due = max((later for later in (2, 3) if at >= begins[later].get(partition, 1 << 62)), default=1)
            assert by == due, f"{partition}/{at}: {begins}"


def test_no_bad_model_takes_over_and_each_is_told_once(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """Five kinds as newer versions at once (test_bad_models.py has all), half of one, and one of another signature."""
    models, name = tmp_path / "models", topic("plus")
    topics, group = topics_of(name), topic("group")
    good_model(models, tmp_path / "source", name=name)
    bad = dict(enumerate((bad for bad in BAD_MODELS if bad.kind in KINDS), 2))
    assert len(bad) == len(KINDS)
    staged = {
        version: good_model(tmp_path / str(version), tmp_path / "source", name=name, version=str(version))
        for version in bad
    }
    for version, each in bad.items():
        write_manifest(each.spoil(staged[version]))
    with Worker(broker.bootstrap, models, group, log=tmp_path / "log") as worker:
        requests = 0

        def more() -> None:
            nonlocal requests
            values = [np.full(3, number, np.float32).tobytes() for number in range(requests, requests + 1_000)]
            header: Headers = [("content-type", RAW.encode())]
            requests += send(broker.bootstrap, topics.requests, [(b"key", value, header) for value in values])

        more()
        for version, model in staged.items():
            model.path.rename(models / name / str(version))
        add_model(models, graphs.pick(tmp_path / "pick.onnx"), name=name, version="8")
        (models / name / "9").mkdir()  # copied only in part
        for version in (*bad, 8, 9):
            hear(worker, f"refused, {name}/1 serves on: {models / name / str(version)}")
            more()
        (tmp_path / "source" / "data" / "w.bin").write_bytes(WEIGHTS_REVERSED)
        add_model(models, tmp_path / "source" / "plus.onnx", name=name, version="10")
        hear(worker, f"{name}/1 is freed")
        more()
        outcomes = read_all(broker.bootstrap, topics, requests)
        assert worker.stop() == 0
    log = worker.log.read_text()
    for version, each in bad.items():
        (told,) = [line for line in log.splitlines() if re.search(rf"{models / name / str(version)}\b", line)]
        assert re.search(each.reason, told), each.kind
    assert log.count("refused") == len(bad) + 2
    assert "Traceback" not in log
    assert len(outcomes.answered) == requests == len(outcomes.answers)
    plus = {f"{name}/1": [1, 2, 3], f"{name}/10": [3, 2, 1]}
    models_seen = [answer.model for _, answer in outcomes.answers]
    assert models_seen == sorted(models_seen, key=list(plus).index), "one key: the first version, then the last"
    assert set(models_seen) == set(plus)
    for number, (_, answer) in enumerate(outcomes.answers):
        got = np.frombuffer(answer.value or b"", np.float32)
        assert got.tolist() == [number + each for each in plus[answer.model]]
