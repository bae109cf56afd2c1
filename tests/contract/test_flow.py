"""The flow end to end: `sluice serve` on a real broker."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

import pipeline.load
from pipeline.local import EmbeddedKafka
from pipeline.models import BUNDLED, held_out
from tests.contract.poison import POISON, poison_model
from tests.contract.worker import Worker, committed, end_offset, read_all, send
from tests.hostile.cases import good_request
from topics.codecs import CONTENT_TYPES, codec_for
from topics.names import topics_of
from topics.records import ARROW, RAW, Request, Status
from topics.signature import Signature

ACCURACY_MIN = 0.98
LINEAR = Path(pipeline.load.__file__).parent / "models" / "linear" / "1"


@pytest.fixture
def digits(tmp_path: Path, topic: Callable[..., str]) -> tuple[Path, str]:
    """The digit model under a name, and so with topics, of the test's own."""
    return renamed(BUNDLED / "digits" / "1", tmp_path, topic("digits"))


def renamed(source: Path, into: Path, name: str) -> tuple[Path, str]:
    folder = into / "models" / name / "1"
    shutil.copytree(source, folder)
    manifest = folder / "manifest.toml"
    old = f'name = "{source.parent.name}"'
    assert old in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(old, f'name = "{name}"'))
    return into / "models", name


def in_small_batches(models: Path, name: str, buckets: Sequence[int] = (1, 8, 32)) -> None:
    """So that a backlog lasts long enough to be interrupted."""
    manifest = models / name / "1" / "manifest.toml"
    limits = f"rows_max = {buckets[-1]}\nbuckets = {[*buckets]}"
    small = re.sub(r"rows_max = \d+\nbuckets = .*", limits, manifest.read_text())
    assert small != manifest.read_text()
    manifest.write_text(small)


def _signature(models: Path) -> Signature:
    from pipeline.models import load_repository

    return load_repository(models)[0].signature


def test_real_images_are_answered_in_every_content_type(
    broker: EmbeddedKafka, digits: tuple[Path, str], tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, name = digits
    topics, signature, group = topics_of(name), _signature(models), topic("group")
    images, labels = held_out()
    requests = []
    for number, image in enumerate(images):
        content_type = CONTENT_TYPES[number % 3]
        value = codec_for(content_type).encode_request({"image": image[None]}, signature.inputs)
        request = Request(value, content_type=content_type, request_id=f"r{number}")
        requests.append((f"k{number % 7}".encode(), value, request.headers()))
    with Worker(broker.bootstrap, models, group, log=tmp_path / "log") as worker:
        send(broker.bootstrap, topics.requests, requests)
        outcomes = read_all(broker.bootstrap, topics, len(requests))
        assert worker.stop() == 0
    assert set(outcomes.answered.values()) == {1}
    assert len(outcomes.answers) == len(images)
    assert not outcomes.dead
    right = 0
    for message, answer in outcomes.answers:
        number = int(answer.request_id[1:])
        content_type = CONTENT_TYPES[number % 3]
        assert (answer.status, answer.model, answer.content_type) == (Status.OK, f"{name}/1", content_type)
        assert message.key() == f"k{number % 7}".encode()
        assert answer.source.startswith(f"{topics.requests}/")
        outputs = codec_for(content_type).decode_response(answer.value or b"", signature.outputs)
        right += int(outputs["probabilities"][0].argmax()) == labels[number]
    assert right / len(images) >= ACCURACY_MIN
    assert committed(broker.bootstrap, group, topics.requests) == len(images)


def test_rows_of_many_requests_share_batches_and_a_large_request_is_joined(
    broker: EmbeddedKafka, digits: tuple[Path, str], tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, name = digits
    topics, signature = topics_of(name), _signature(models)
    images, _ = held_out()
    rng = np.random.default_rng(7)
    sizes = [1, 700, 3, 1500, 2, 1]  # larger than the largest batch, between small ones
    rows = {f"r{i}": rng.integers(0, len(images), size) for i, size in enumerate(sizes)}
    with Worker(broker.bootstrap, models, topic("group"), log=tmp_path / "log") as worker:
        send(
            broker.bootstrap,
            topics.requests,
            [
                (
                    b"key",
                    codec_for(ARROW).encode_request({"image": images[pick]}, signature.inputs),
                    Request(b"", content_type=ARROW, request_id=request, stages=True).headers(),
                )
                for request, pick in rows.items()
            ],
        )
        outcomes = read_all(broker.bootstrap, topics, len(sizes))
        assert worker.stop() == 0
    single = _labels(models, images)
    assert len(outcomes.answers) == len(sizes)
    for _, answer in outcomes.answers:
        outputs = codec_for(ARROW).decode_response(answer.value or b"", signature.outputs)
        assert outputs["label"].tolist() == single[rows[answer.request_id]].tolist()
        stages = json.loads(answer.stages or "{}")
        assert list(stages) == ["kafka_dwell", "decode", "window_wait", "copy", "device_wait", "compute", "encode"]
        assert all(value >= 0 for value in stages.values())


def _labels(models: Path, images: np.ndarray) -> np.ndarray:
    """What the model says of each image, asked without Sluice."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(next(models.rglob("*.onnx"))))
    names = [output.name for output in session.get_outputs()]
    labels: np.ndarray = session.run(None, {"image": images})[names.index("label")]
    return labels


def test_a_request_past_its_deadline_is_answered_expired(
    broker: EmbeddedKafka, digits: tuple[Path, str], tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, name = digits
    topics, now_ms = topics_of(name), int(time.time() * 1000)
    requests = [
        (
            None,
            good_request(RAW),
            Request(b"", content_type=RAW, request_id=f"{late}{i}", deadline_ms=deadline).headers(),
        )
        for i in range(20)
        for late, deadline in (("late", now_ms - 1000), ("soon", now_ms + 3_600_000))
    ]
    with Worker(broker.bootstrap, models, topic("group"), log=tmp_path / "log") as worker:
        send(broker.bootstrap, topics.requests, requests)
        outcomes = read_all(broker.bootstrap, topics, len(requests))
        assert worker.stop() == 0
    status = {answer.request_id: answer for _, answer in outcomes.answers}
    assert len(outcomes.answers) == 40
    assert not outcomes.dead
    for i in range(20):
        assert status[f"soon{i}"].status is Status.OK
        assert status[f"late{i}"].status is Status.EXPIRED
        assert json.loads(status[f"late{i}"].value or b"")["code"] == "deadline-passed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_commits_and_exits_0(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str], number: signal.Signals
) -> None:
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    topics, group, count = topics_of(name), topic("group"), 50_000
    with Worker(broker.bootstrap, models, group, log=tmp_path / "log") as worker:
        send(broker.bootstrap, topics.requests, linear_requests(count))
        assert worker.stop(number) == 0
        first = committed(broker.bootstrap, group, topics.requests)
        answered = read_all(broker.bootstrap, topics, first).answered
        assert len(answered) == first, "what is answered is committed, and nothing else"
        assert set(answered.values()) <= {1}
    with Worker(broker.bootstrap, models, group, log=tmp_path / "log") as worker:
        outcomes = read_all(broker.bootstrap, topics, count)
        assert worker.stop() == 0
    assert len(outcomes.answered) == count
    assert set(outcomes.answered.values()) == {1}, "a clean restart repeats nothing"


def linear_requests(count: int) -> list[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
    rows = np.random.default_rng(1).random((1000, 50), np.float32)
    header = [("content-type", RAW.encode())]
    return [(str(i % 500).encode(), rows[i % 1000].tobytes(), header) for i in range(count)]


def test_kill_9_five_times_during_100_000_requests_loses_none(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """F1, I1, I2: every request answered at least once, order per key among first answers."""
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    in_small_batches(models, name)
    topics, group, count = topics_of(name), topic("group"), 100_000
    options = ("--instance-id", "only")  # static membership: the next one need not wait for the last to time out
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log"):
        pass  # the topics are there now; killed while idle
    kills = 0
    send(broker.bootstrap, topics.requests, linear_requests(count))
    for _ in range(5):
        with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
            before = end_offset(broker.bootstrap, topics.predictions)
            while end_offset(broker.bootstrap, topics.predictions) < before + 3_000:
                time.sleep(0.005)
            worker.kill()  # in the middle of batches: some answered, some committed
            kills += 1
            assert committed(broker.bootstrap, group, topics.requests) < count, "killed too late"
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
        outcomes = read_all(broker.bootstrap, topics, count, timeout_s=120)
        assert worker.stop() == 0
    assert kills == 5
    assert len(outcomes.answered) == count, "lost"
    assert not outcomes.dead
    assert committed(broker.bootstrap, group, topics.requests) == count
    last: dict[tuple[bytes | None, str], int] = {}
    seen: set[str] = set()
    for message, answer in outcomes.answers:
        if answer.source in seen:
            continue
        seen.add(answer.source)
        source, offset = answer.source.rsplit("/", 1)
        assert int(offset) > last.get((message.key(), source), -1), "a key's answers in the order of its requests"
        last[message.key(), source] = int(offset)


def test_a_poison_row_in_a_full_batch_is_alone_in_the_dead_letters(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """F25: a model that fails on one row answers all its neighbours."""
    models, name = poison_model(tmp_path / "models", topic("poison"))
    topics = topics_of(name)
    requests = [
        (
            b"key",
            np.int64(POISON if i == 77 else i % 10).tobytes(),
            [("content-type", RAW.encode()), ("request-id", str(i).encode())],
        )
        for i in range(256)
    ]
    with Worker(broker.bootstrap, models, topic("group"), log=tmp_path / "log") as worker:
        worker.stop()
    send(broker.bootstrap, topics.requests, requests)
    with Worker(broker.bootstrap, models, topic("group"), log=tmp_path / "log") as worker:
        outcomes = read_all(broker.bootstrap, topics, 256)
        assert worker.stop() == 0
    assert [letter.request_id for _, letter in outcomes.dead] == ["77"]
    assert outcomes.dead[0][1].error_code == "model-failed"
    status = {answer.request_id: answer.status for _, answer in outcomes.answers}
    assert status.pop("77") is Status.REJECTED
    assert set(status.values()) == {Status.OK}
    assert len(status) == 255


def test_an_unreachable_broker_is_one_clear_line(tmp_path: Path) -> None:
    worker = Worker("127.0.0.1:1", BUNDLED, "g", log=tmp_path / "log")
    output, _ = worker.process.communicate(timeout=60)
    told = [line for line in worker.log.read_text().splitlines() if "error:" in line]
    assert (worker.process.returncode, output, len(told)) == (1, "", 1)
    assert "127.0.0.1:1" in told[0]
    assert "Traceback" not in worker.log.read_text()


def test_topics_are_applied_at_the_start(
    broker: EmbeddedKafka, digits: tuple[Path, str], tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, name = digits
    with Worker(broker.bootstrap, models, topic("group"), log=tmp_path / "log") as worker:
        found = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=30).topics
        topics = topics_of(name)
        assert {topics.requests, topics.predictions, topics.dead_letters} <= set(found)
        assert worker.stop() == 0
