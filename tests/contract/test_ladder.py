"""A ladder on a real broker: under overload a fast rung answers, all are answered, and the model itself afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from confluent_kafka import Producer
from onnx import TensorProto, helper, numpy_helper

from pipeline.local import EmbeddedKafka
from pipeline.models import add_model
from pipeline.models.manifest import MANIFEST
from tests.contract.worker import Worker, committed, read_all
from tests.unit.models import graphs
from topics.names import topics_of
from topics.records import RAW, Status

SLO_MS = 3_000
ROWS_MAX = 16
ROW = np.ones(4, np.float32).tobytes()
FULL_BATCH = ROW * ROWS_MAX  # few requests are much work for the device, and little for the rest of a busy machine
WIDTH, LAYERS = 768, 300  # tenths of a second a batch: some ten batches a second
VALUES = {"full": 1.0, "fast": 2.0, "default": 3.0}
LADDER = """slo_ms = {slo_ms}
[[ladder]]
name = "fast"
model = "{fast}/1"
[[ladder]]
name = "default"
answer.y = 3
"""


CACHED = """slo_ms = {slo_ms}
[[ladder]]
name = "cached"
cached = {cached}
[[ladder]]
name = "default"
answer.y = -1
"""


def slow(path: Path, *, answer: str = "one") -> Path:
    """Answers 1, or the mean of each row, after many matrix products."""
    nodes = [helper.make_node("MatMul", ["x", "first"], ["layer0"])]
    nodes += [helper.make_node("MatMul", [f"layer{at}", "weights"], [f"layer{at + 1}"]) for at in range(LAYERS)]
    nodes += [
        helper.make_node("ReduceMean", [f"layer{LAYERS}"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("ReduceMean", ["x"], ["of_row"], axes=[1], keepdims=0),
        helper.make_node("Add", ["nothing", answer], ["y"]),
    ]
    constants = {
        "first": np.full((4, WIDTH), 1e-3),
        "weights": np.eye(WIDTH) * 0.9,
        "zero": np.array(0.0),
        "one": np.array(VALUES["full"]),
    }
    return _saved(path, nodes, constants)


def fast(path: Path) -> Path:
    """Answers 2 at once."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "two"], ["y"]),
    ]
    return _saved(path, nodes, {"zero": np.array(0.0), "two": np.array(VALUES["fast"])})


def _saved(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    return graphs.save(
        path,
        nodes,
        inputs={"x": (TensorProto.FLOAT, ("batch", 4))},
        outputs={"y": (TensorProto.FLOAT, ("batch",))},
        constants=[numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )


@pytest.fixture
def laddered(tmp_path: Path, topic: Callable[..., str]) -> tuple[Path, str]:
    """A slow model whose ladder is a fast one and a constant."""
    models, name, below = tmp_path / "models", topic("slow"), topic("fast")
    add_model(models, fast(tmp_path / f"{below}.onnx"), name=below, rows_max=ROWS_MAX)
    add_model(models, slow(tmp_path / f"{name}.onnx"), name=name, rows_max=ROWS_MAX)
    manifest = models / name / "1" / MANIFEST
    ladder = LADDER.format(slo_ms=SLO_MS, fast=below)
    manifest.write_text(manifest.read_text().replace("[[inputs]]", f"{ladder}\n[[inputs]]", 1))
    return models, name


@pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
def test_a_fast_rung_answers_what_the_model_cannot_and_the_model_again_when_it_can(
    broker: EmbeddedKafka, laddered: tuple[Path, str], tmp_path: Path, topic: Callable[..., str], guarantee: str
) -> None:
    models, name = laddered
    topics, group = topics_of(name), topic("group")
    decisions, report = tmp_path / "decisions", tmp_path / "report"
    options = ["--record-decisions", str(decisions), "--report", str(report), "--guarantee", guarantee]
    with Worker(broker.bootstrap, models, group, *options, log=tmp_path / "log") as worker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20})
        sent, began_s = 0, time.monotonic()
        for rate, duration_s in ((2, 3.0), (30, 8.0), (2, 8.0)):
            for at in range(int(rate * duration_s)):
                if (wait_s := began_s + at / rate - time.monotonic()) > 0:
                    time.sleep(wait_s)
                headers = {"content-type": RAW, "request-id": f"r{sent}"}
                producer.produce(topics.requests, FULL_BATCH, b"k%d" % (sent % 7), headers=list(headers.items()))
                sent += 1
            producer.poll(0)
            began_s = time.monotonic()
        assert producer.flush(60) == 0
        outcomes = read_all(broker.bootstrap, topics, sent)
        assert worker.stop() == 0
    assert not outcomes.dead and len(outcomes.answers) == sent and set(outcomes.answered.values()) == {1}
    assert committed(broker.bootstrap, group, topics.requests) >= sent
    rungs, order = dict[int, str](), dict[bytes | None, list[int]]()
    for message, answer in outcomes.answers:
        if answer.status is Status.OK:
            assert answer.rung is not None and answer.model == f"{name}/1"
            assert np.frombuffer(answer.value or b"", np.float32).tolist() == [VALUES[answer.rung]] * ROWS_MAX
            rungs[int(answer.request_id[1:])] = answer.rung
            order.setdefault(message.key(), []).append(int(answer.request_id[1:]))
    assert all(numbers == sorted(numbers) for numbers in order.values()), "a key's answers are in its order"
    assert len(rungs) > sent // 2, Counter(rungs.values())
    counted = Counter(rungs.values())
    assert counted["fast"] > sent // 4, counted
    assert [rungs[number] for number in (*range(3), *range(sent - 3, sent))] == ["full"] * 6
    assert json.loads(report.read_text())["rungs"] == {name: dict(counted)}
    assert rungs_left(decisions) == counted


def rungs_left(decisions: Path) -> Counter[str]:
    """How many requests left on each rung, as `sluice explain` tells, which decides the same again."""
    explain = [sys.executable, "-m", "pipeline.cli", "explain", str(decisions), "--json"]
    told = json.loads(subprocess.run(explain, check=True, capture_output=True, timeout=60).stdout)
    assert told["differ"] == 0
    left = Counter[str]()
    for each in told["departures"]:
        if each["rows"]:
            left[each["rung"]] += each["requests"]
    return left


def test_what_the_model_has_answered_is_answered_from_memory_when_it_is_too_slow(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    known, rows, seconds, rate = 4, 2, 8, 700  # twice what the model can on the fastest machine
    models, name = tmp_path / "models", topic("slow")
    add_model(models, slow(tmp_path / f"{name}.onnx", answer="of_row"), name=name, rows_max=ROWS_MAX)
    manifest = models / name / "1" / MANIFEST
    ladder = CACHED.format(slo_ms=SLO_MS, cached=known + seconds * rate)
    manifest.write_text(manifest.read_text().replace("[[inputs]]", f"{ladder}\n[[inputs]]", 1))
    topics, decisions, report = topics_of(name), tmp_path / "decisions", tmp_path / "report"
    options = ["--record-decisions", str(decisions), "--report", str(report)]
    asked: list[int] = []
    with Worker(broker.bootstrap, models, topic("group"), *options, log=tmp_path / "log") as worker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20})

        def ask(number: int) -> None:
            """Rows of this number; those asked before have keys of their own."""
            key = b"known%d" % number if number < known else b"new%d" % (number % 3)
            value, request_id = np.full((rows, 4), number, np.float32).tobytes(), f"r{len(asked)}"
            producer.produce(topics.requests, value, key, headers={"content-type": RAW, "request-id": request_id})
            asked.append(number)
            producer.poll(0)

        for number in range(known):
            ask(number)
            producer.flush()
            time.sleep(1.0)
        began_s = time.monotonic()
        for at in range(seconds * rate):
            time.sleep(max(0.0, began_s + at / rate - time.monotonic()))
            ask(at % known if at % 2 else known + at)
        assert producer.flush(60) == 0
        outcomes = read_all(broker.bootstrap, topics, len(asked))
        assert worker.stop() == 0
    assert not outcomes.dead and len(outcomes.answers) == len(asked) and set(outcomes.answered.values()) == {1}
    counted, order = Counter[str](), dict[bytes | None, list[int]]()
    for message, answer in outcomes.answers:
        if answer.status is Status.OK:
            request = int(answer.request_id[1:])
            number, rung = asked[request], answer.rung
            assert rung is not None and (rung != "cached" or number < known)
            value = -1.0 if rung == "default" else float(number)
            assert np.frombuffer(answer.value or b"", np.float32).tolist() == [value] * rows, (request, rung)
            order.setdefault(message.key(), []).append(request)
            counted[rung] += 1
    assert all(numbers == sorted(numbers) for numbers in order.values()), "a key's answers are in its order"
    assert counted["full"] > known and counted["cached"] > seconds and counted["default"], counted
    assert json.loads(report.read_text())["rungs"] == {name: dict(counted)}
    assert rungs_left(decisions) == counted


def test_a_ladder_is_swapped_in_with_its_version_and_one_that_cannot_be_is_not(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, name, below = tmp_path / "models", topic("plain"), topic("fast")
    for each in (name, below):
        add_model(models, fast(tmp_path / f"{each}.onnx"), name=each, rows_max=ROWS_MAX)
    topics, log, sent = topics_of(name), tmp_path / "log", 0
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    with Worker(broker.bootstrap, models, topic("group"), log=log) as worker:
        for version, rung, words in (
            (2, f"{below}/1", f"{name}/1 is freed"),
            (3, f"{below}/7", f"refused, {name}/2 serves on"),
            (4, f"{below}/1", f"{name}/2 is freed"),
        ):
            source = tmp_path / f"version{version}"
            shutil.copytree(models / name / "1", source)
            text = (source / MANIFEST).read_text().replace('version = "1"', f'version = "{version}"')
            ladder = LADDER.format(slo_ms=SLO_MS, fast=rung.partition("/")[0]).replace("/1", f"/{rung[-1]}")
            (source / MANIFEST).write_text(text.replace("[[inputs]]", f"{ladder}\n[[inputs]]", 1))
            shutil.copytree(source, models / name / str(version))
            end = time.monotonic() + 60
            while words not in log.read_text():
                assert time.monotonic() < end and worker.process.poll() is None, log.read_text()
                producer.produce(topics.requests, ROW, headers=[("content-type", RAW.encode())])
                sent += 1
                producer.flush()
                time.sleep(0.05)
        outcomes = read_all(broker.bootstrap, topics, sent)
        assert worker.stop() == 0
    assert set(outcomes.answered.values()) == {1} and len(outcomes.answers) == sent
    rungs = {(answer.model, answer.rung) for _, answer in outcomes.answers if answer.status is Status.OK}
    assert rungs >= {(f"{name}/1", None), (f"{name}/2", "full")}
    assert all((rung is None) == (model == f"{name}/1") for model, rung in rungs)
