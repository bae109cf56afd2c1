"""``faust -A … worker``: our chunks and ordinary Faust agents in one app, and Faust's rebalances."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from pipeline.local import EmbeddedKafka
from pipeline.local.kafka import free_ports
from tests.contract.test_flow import LINEAR, linear_requests, renamed
from tests.contract.worker import committed, read_all, send
from topics.admin import apply_topics
from topics.names import topics_of

PARTITIONS = 4


@contextmanager
def faust_worker(
    broker: str,
    group: str,
    models: Path,
    *,
    flow: bool,
    log: Path,
    module: str = "tests.contract.beside_app",
    web: str = "--without-web",
) -> Iterator[subprocess.Popen[bytes]]:
    """``faust -A MODULE worker``, killed at the end where it still runs."""
    environment = {
        **os.environ,
        "BESIDE_BROKER": broker,
        "BESIDE_GROUP": group,
        "BESIDE_MODELS": str(models),
        "BESIDE_FLOW": "1" if flow else "0",
        "BESIDE_DATA": str(log.parent / "data"),
    }
    command = [sys.executable, "-m", "faust", "-A", module, "worker", "-l", "info"]
    with log.open("a") as out:
        process = subprocess.Popen([*command, web], env=environment, stdout=out, stderr=out, cwd=Path.cwd())
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def shouted(broker: str, topic: str, count: int, timeout_s: float = 60) -> list[bytes]:
    """What ``topic`` holds once it holds ``count`` values."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "reader", "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        values: list[bytes] = []
        end = time.monotonic() + timeout_s
        while len(set(values)) < count and time.monotonic() < end:
            values += [message.value() or b"" for message in consumer.consume(1000, 0.5)]
        return values
    finally:
        consumer.close()


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def test_ordinary_agents_work_beside_the_flow_and_their_rebalances_never_touch_its_chunks(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    topics, group, count = topics_of(name), topic("beside"), 60_000
    apply_topics(broker.bootstrap, [topics], partitions=PARTITIONS)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.create_topics([NewTopic(f"{group}.{t}", PARTITIONS, 1) for t in ("plain", "upper")]).values():
        future.result()
    log, other_log = tmp_path / "log", tmp_path / "other"
    with faust_worker(broker.bootstrap, group, models, flow=True, log=log) as worker:
        wait_for(log, f"assigned {topics.requests}", worker)
        send(broker.bootstrap, topics.requests, linear_requests(count // 3))
        send(broker.bootstrap, f"{group}.plain", [(None, f"a{i}".encode(), []) for i in range(50)])
        assert set(shouted(broker.bootstrap, f"{group}.upper", 50)) == {f"A{i}".encode() for i in range(50)}
        with faust_worker(broker.bootstrap, group, models, flow=False, log=other_log) as other:
            # Faust's group rebalances, eagerly, when the other joins and again when it goes; meanwhile chunks flow.
            send(broker.bootstrap, topics.requests, linear_requests(count // 3))
            wait_for(other_log, "Ready", other)
            other.send_signal(signal.SIGTERM)
            other.wait(60)
        send(broker.bootstrap, topics.requests, linear_requests(count // 3))
        send(broker.bootstrap, f"{group}.plain", [(None, f"b{i}".encode(), []) for i in range(50)])
        outcomes = read_all(broker.bootstrap, topics, count)
        assert len(set(shouted(broker.bootstrap, f"{group}.upper", 100))) == 100
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    assert log.read_text().count(f"revoked {topics.requests}") == 1, "only its own stop took partitions away"
    assert len(outcomes.answered) == count
    assert set(outcomes.answered.values()) == {1}, "no chunk was lost or read again"
    assert committed(broker.bootstrap, group, topics.requests) == count


def test_a_users_own_app_iterates_chunks_and_commits_what_it_finished(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    group, log, count = topic("clicks"), tmp_path / "log", 20_000
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(f"{group}.raw", PARTITIONS, 1)])[f"{group}.raw"].result()
    module = "tests.contract.chunks_app"
    with faust_worker(broker.bootstrap, group, tmp_path, flow=False, log=log, module=module) as worker:
        wait_for(log, f"assigned {group}.raw", worker)
        send(broker.bootstrap, f"{group}.raw", linear_requests(count))
        wait_for(log, f"counted {count}", worker)
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    assert committed(broker.bootstrap, f"{group}-chunks", f"{group}.raw") == count


def test_web_pages_that_faust_serves_are_for_this_machine_alone(
    broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """``faust worker`` serves them unless it is told not to, whatever the app says, and on every interface."""
    models, name = renamed(LINEAR, tmp_path, topic("linear"))
    apply_topics(broker.bootstrap, [topics_of(name)])
    port = f"--web-port={free_ports(1)[0]}"
    with faust_worker(broker.bootstrap, topic("group"), models, flow=True, log=tmp_path / "log", web=port) as process:
        addresses: set[str] = set()
        while process.poll() is None and not addresses:
            time.sleep(0.1)
            found = psutil.Process(process.pid).net_connections("inet")
            addresses = {each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}, (tmp_path / "log").read_text()
