"""The embedded Apache Kafka: what it keeps, what it survives, and that nothing of it stays behind."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline import local
from pipeline.core.errors import BrokerError
from pipeline.local import EmbeddedKafka
from pipeline.local.health import lag
from pipeline.local.kafka import free_ports

ANSWER_WAIT_S_MAX = 30.0
Name = Callable[..., str]


@pytest.fixture(scope="module")
def kafka() -> Iterator[EmbeddedKafka]:
    """A broker of these tests' own, to be killed; it also has a listener beside the plain one."""
    with EmbeddedKafka(listeners={"SECOND": "PLAINTEXT"}, properties={"message.max.bytes": "2000000"}) as started:
        yield started


def make_topic(bootstrap: str, name: str, partitions: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must live until the answer
    admin.create_topics([NewTopic(name, partitions)])[name].result(ANSWER_WAIT_S_MAX)


def produce(bootstrap: str, topic: str, *values: bytes, **settings: object) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, **settings})
    failed: list[KafkaError] = []
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(ANSWER_WAIT_S_MAX) == 0
    assert not failed


def consume(bootstrap: str, topic: str, count: int, **settings: object) -> list[bytes | None]:
    given = {"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest", **settings}
    consumer = Consumer(given)
    consumer.subscribe([topic])
    try:
        return [message.value() for message in consumer.consume(count, ANSWER_WAIT_S_MAX)]
    finally:
        consumer.close()


def gone(pid: int) -> bool:
    try:
        psutil.Process(pid).wait(ANSWER_WAIT_S_MAX)
    except psutil.NoSuchProcess:
        return True
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_groups_of_both_protocols_read_what_was_written(broker: EmbeddedKafka, topic: Name, protocol: str) -> None:
    name = topic(protocol)
    make_topic(broker.bootstrap, name)
    produce(broker.bootstrap, name, b"1", b"2")
    assert consume(broker.bootstrap, name, 2, **{"group.protocol": protocol}) == [b"1", b"2"]


def test_a_transaction_moves_records_and_offsets_together(broker: EmbeddedKafka, topic: Name) -> None:
    name = topic()
    make_topic(broker.bootstrap, name)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": name})
    producer.init_transactions(ANSWER_WAIT_S_MAX)
    for value, finish in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(name, value)
        finish(ANSWER_WAIT_S_MAX)
    assert consume(broker.bootstrap, name, 1) == [b"committed"]


def test_topics_do_not_appear_by_accident(broker: EmbeddedKafka, topic: Name) -> None:
    missing = topic("missing")
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "allow.auto.create.topics": True})
    assert admin.list_topics(missing, ANSWER_WAIT_S_MAX).topics[missing].error
    assert missing not in admin.list_topics(timeout=ANSWER_WAIT_S_MAX).topics


def test_it_listens_on_loopback_alone(kafka: EmbeddedKafka) -> None:
    open_ports = psutil.Process(kafka.pid).net_connections("inet")
    addresses = {c.laddr.ip.removeprefix("::ffff:") for c in open_ports if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}


def test_a_further_listener_and_a_changed_setting_take_effect(kafka: EmbeddedKafka, topic: Name) -> None:
    assert kafka.listener("SECOND") != kafka.bootstrap
    name = topic()
    make_topic(kafka.listener("SECOND"), name)
    large = b"x" * 1_500_000  # over the broker's default limit
    produce(kafka.listener("SECOND"), name, large, **{"message.max.bytes": 2_000_000})
    assert consume(kafka.bootstrap, name, 1) == [large]


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_data_address_and_group_offsets_outlive_a_restart(kafka: EmbeddedKafka, topic: Name, crash: bool) -> None:
    name, before, pid = topic(), kafka.bootstrap, kafka.pid
    make_topic(before, name)
    produce(before, name, b"1", b"2")
    assert consume(before, name, 1) == [b"1"]  # commits as it closes
    if crash:
        kafka.kill()
        assert not psutil.pid_exists(pid)
    kafka.restart()
    assert kafka.bootstrap == before
    assert kafka.pid != pid
    assert consume(before, name, 1) == [b"2"]


def test_lag_is_what_the_group_has_not_committed(kafka: EmbeddedKafka, topic: Name) -> None:
    model = topic("m")
    name, group = f"{model}.requests", topic("g")
    make_topic(kafka.bootstrap, name, partitions=2)
    for other in (f"{model}.predictions", topic()):
        make_topic(kafka.bootstrap, other)
        produce(kafka.bootstrap, other, b"not a request")
    produce(kafka.bootstrap, name, *[b"request"] * 5)
    assert lag(kafka.bootstrap, group) == {name: 5}
    done = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    ends = [done.get_watermark_offsets(TopicPartition(name, p), ANSWER_WAIT_S_MAX)[1] for p in range(2)]
    done.commit(offsets=[TopicPartition(name, 0, ends[0])], asynchronous=False)
    done.close()
    assert lag(kafka.bootstrap, group) == {name: ends[1]}


@pytest.mark.parametrize("key", ["num.network.threads", "transaction.state.log.segment.bytes"])
def test_a_setting_kafka_refuses_is_told_and_leaves_nothing(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kafka = EmbeddedKafka(properties={key: "several"})
    with pytest.raises(BrokerError, match=re.escape(key)):
        kafka.start()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody else listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_taken_port_is_told_before_anything_starts(tmp_path: Path, taken: int) -> None:
    with pytest.raises(BrokerError, match=f"port {taken} on 127.0.0.1"):
        EmbeddedKafka(tmp_path, port=taken).start()
    assert not list(tmp_path.iterdir())


def test_a_free_port_that_is_snatched_away_is_replaced(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [[taken, *free_ports(1)], free_ports(2)]
    monkeypatch.setattr("pipeline.local.kafka.free_ports", lambda _: chosen.pop(0))
    with EmbeddedKafka() as kafka:
        assert kafka.bootstrap != f"127.0.0.1:{taken}"
        assert not chosen


PARENT = """
    import time
    from pipeline.local import EmbeddedKafka
    kafka = EmbeddedKafka()
    kafka.start()
    print(kafka.pid, kafka.directory, flush=True)
    time.sleep(600)
"""


def test_neither_broker_nor_data_outlive_a_killed_parent() -> None:
    argv = [sys.executable, "-c", textwrap.dedent(PARENT)]
    root = Path(local.__file__).parents[2]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout
    pid, directory = parent.stdout.readline().split()
    guard = psutil.Process(int(pid)).parent()
    assert guard
    parent.kill()
    parent.communicate()
    assert gone(int(pid))
    assert gone(guard.pid)
    assert not Path(directory).exists()


def test_the_stack_in_the_background_answers_until_it_is_taken_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_STATE_DIR", str(tmp_path))
    stack, already = local.up(worker=False)
    try:
        assert not already
        assert local.up(worker=False) == (stack, True)
        health = local.look(stack)
        assert health.broker_answers
        assert health.healthy(stack)
        assert health.lag == {}
    finally:
        assert local.down()
    assert gone(stack.broker.pid)
    assert not local.look(stack).broker_answers
