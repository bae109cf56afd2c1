"""The benches of bytes and of telemetry in small, on the real broker: the work is done, no time asserted."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import requests
from confluent_kafka import TopicPartition

from pipeline import load
from pipeline.load.lane import open_lane
from pipeline.load.preload import traceparent
from pipeline.load.process import Process
from pipeline.load.tracing import TracingWork, tracing
from pipeline.load.volume import VolumeWork, volume
from pipeline.local import EmbeddedKafka
from pipeline.models import Model, load_repository
from topics.connect import Connection
from topics.records import RAW

OURS = Path(load.__file__).parent


def model(repository: str, name: str) -> Model:
    (found,) = [model for model in load_repository(OURS / repository) if model.name == name]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of a name nobody had: lanes in it are named for their round alone."""
    return tmp_path / uuid.uuid4().hex[:6]


def test_bytes_come_in_through_sluice_and_through_a_consumer_alone(broker: EmbeddedKafka, folder: Path) -> None:
    found = volume(
        VolumeWork(model("large", "first"), broker.bootstrap, folder, requests=100, repeats=1), lambda _: None
    )
    assert set(found.runs) == {"consume", "consume-copy", "sluice"}
    assert all(found.values(name, "bytes_per_s")[0] > 0 for name in found.runs)


def test_the_traced_worker_exports_metrics_and_spans(broker: EmbeddedKafka, folder: Path) -> None:
    work = TracingWork(model("models", "linear"), broker.bootstrap, folder, messages=4000, sampled=0.1, repeats=1)
    found = tracing(work, lambda _: None)  # raises where nothing was exported
    assert set(found.runs) == {"bare", "untraced", "traced", "again"}


@pytest.mark.parametrize(("sampled", "recorded"), [(0.0, 0), (0.01, 10), (0.125, 125), (1.0, 1000)])
def test_the_share_that_is_recorded_is_exact_and_spread(sampled: float, recorded: int) -> None:
    flags = [traceparent(index, sampled)[-2:] for index in range(1000)]
    assert flags.count(b"01") == recorded
    assert len({traceparent(index, sampled) for index in range(1000)}) == 1000
    assert sum(flag == b"01" for flag in flags[:500]) == pytest.approx(recorded / 2, abs=1)


def test_preloaded_requests_carry_their_traces_where_asked(broker: EmbeddedKafka, folder: Path) -> None:
    with open_lane(broker.bootstrap, folder, model("models", "linear"), folder.name, partitions=1) as lane:
        lane.preload(10, RAW, distinct=10, sampled=0.1)
        consumer = Connection(lane.broker).consumer()
        consumer.assign([TopicPartition(lane.model.topics.requests, 0, 0)])
        headers = [dict(message.headers() or ()) for message in consumer.consume(10, 30)]
        consumer.close()
    assert [named["traceparent"] for named in headers] == [traceparent(index, 0.1) for index in range(10)]


def test_the_sink_counts_what_it_took(tmp_path: Path) -> None:
    with Process("pipeline.load.peers.sink", [], tmp_path / "log") as sink:
        port = sink.wait_ready().split()[1]
        for _ in range(2):
            assert requests.post(f"http://127.0.0.1:{port}/v1/traces", data=b"x" * 1000, timeout=10).status_code == 200
        sink.stop()
    assert "/v1/traces 2" in (tmp_path / "log").read_text()
