"""Least privilege on a real broker: what a worker and a client can do with just their ACLs, and what they cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.contract.secured import ADMIN, Secured, config_file
from tests.contract.test_flow import LINEAR, renamed
from tests.contract.worker import Worker, committed
from topics import Client, Topics, topics_of
from topics.acls import Acl, apply_acls

WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Service:
    """A model of its own on the secured broker, a worker's user, a client's, and what `sluice topics` says of them."""

    broker: Secured
    models: Path
    topics: Topics
    model: str
    group: str
    worker: str
    client: str

    def command(self, verb: str) -> subprocess.CompletedProcess[str]:
        """`sluice topics VERB --acls …`, as the super user."""
        who = ["--principal", f"User:{self.worker}", "--client-principal", f"User:{self.client}", "--group", self.group]
        what = ["topics", verb, "--models", str(self.models), "--broker", self.broker.scram, "--acls", *who, "--json"]
        admin = config_file(self.models.parent / "admin.properties", self.broker.add_user(ADMIN))
        return subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *what, "--kafka-config", str(admin)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def service(secured: Secured, tmp_path: Path, topic: Callable[..., str]) -> Service:
    """Topics and ACLs are applied."""
    models, model = renamed(LINEAR, tmp_path, topic("linear"))
    made = Service(secured, models, topics_of(model), model, topic("group"), topic("worker"), topic("client"))
    applied = made.command("apply")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    return made


def as_options(kafka: Mapping[str, str]) -> list[str]:
    return [word for name, value in kafka.items() for word in ("--kafka", f"{name}={value}")]


@pytest.mark.parametrize(
    ("login", "guarantee", "protocol"),
    [
        ("scram", "at-least-once", "classic"),
        ("scram", "exactly-once", "consumer"),
        ("mutual", "exactly-once", "classic"),
        ("mutual", "at-least-once", "consumer"),
    ],
)
def test_a_worker_and_a_client_with_just_their_acls_do_their_part(
    service: Service, tmp_path: Path, login: str, guarantee: str, protocol: str
) -> None:
    user = service.broker.add_user if login == "scram" else service.broker.certify
    address = service.broker.scram if login == "scram" else service.broker.mutual
    options = ["--no-apply", "--guarantee", guarantee, *as_options(user(service.worker))]
    options += ["--kafka", f"group.protocol={protocol}"]
    with (
        Worker(address, service.models, service.group, *options, log=tmp_path / "log") as worker,
        Client(address, service.model, kafka=user(service.client)) as client,
    ):
        listening = [c for c in psutil.Process(worker.process.pid).net_connections() if c.status == "LISTEN"]
        assert listening == []
        outputs = client.predict({"features": np.ones((2, 50), np.float32)}, content_type="arrow")
        assert len(outputs["score"]) == 2
        assert worker.stop() == 0
    assert committed(service.broker.plain, service.group, service.topics.requests) == 1


def test_applying_again_changes_nothing_and_what_differs_is_told(service: Service) -> None:
    again = json.loads(service.command("apply").stdout)
    assert {acl["action"] for acl in again["acls"]} == {"kept"}
    assert service.command("verify").returncode == 0
    worker = f"User:{service.worker}"
    more = Acl(worker, "topic", service.topics.predictions, "read")
    assert apply_acls(service.broker.plain, [more]) == [more]
    verified = service.command("verify")
    assert verified.returncode == 1
    [drift] = json.loads(verified.stdout)["drift"]
    expected = {"topic": service.topics.predictions, "what": f"read by {worker}", "expected": "left out"}
    assert drift == {**expected, "found": "allowed"}


def test_missing_acls_are_told(service: Service, topic: Callable[..., str]) -> None:
    other = Service(**{**{name: getattr(service, name) for name in Service.__slots__}, "worker": topic("other")})
    verified = other.command("verify")
    drift = json.loads(verified.stdout)["drift"]
    assert verified.returncode == 1
    assert {each["found"] for each in drift} == {"missing"}
    assert {(each["topic"], each["what"].split()[0]) for each in drift} >= {
        (service.topics.requests, "read"),
        (service.topics.predictions, "write"),
        (service.topics.dead_letters, "write"),
        (f"group {service.group}", "read"),
        (f"transactional_id {service.group}.*", "write"),
    }


def code_of_reading(kafka: Mapping[str, str], group: str, topic: str) -> int | None:
    """The error of a consumer that looks for ``topic`` and reads it."""
    consumer = Consumer({**kafka, "group.id": group})
    try:
        error: KafkaError | None = consumer.list_topics(topic, timeout=WAIT_S).topics[topic].error
        if error is None:
            consumer.assign([TopicPartition(topic, 0, 0)])
            [message] = consumer.consume(1, WAIT_S)
            error = message.error()
        return error.code() if error else None
    finally:
        consumer.close()


def code_of_joining(kafka: Mapping[str, str], group: str, topic: str) -> int | None:
    """The error of a consumer that subscribes as a member of ``group``."""
    consumer = Consumer({**kafka, "group.id": group})
    try:
        consumer.subscribe([topic])
        [message] = consumer.consume(1, WAIT_S)
        error = message.error()
        return error.code() if error else None
    finally:
        consumer.close()


def code_of_writing(kafka: Mapping[str, str], topic: str) -> int | None:
    """The error of a producer's record."""
    producer = Producer({**kafka, "message.timeout.ms": 10_000, "enable.idempotence": False})
    codes: list[int | None] = []
    producer.produce(topic, b"x", on_delivery=lambda error, _: codes.append(error.code() if error else None))
    producer.flush(WAIT_S)
    [code] = codes
    return code


def code_of_transacting(kafka: Mapping[str, str], transactional_id: str) -> int | None:
    """The error of a producer that starts transactions."""
    try:
        Producer({**kafka, "transactional.id": transactional_id}).init_transactions(WAIT_S)
    except KafkaException as error:
        code: int = error.args[0].code()
        return code
    return None


def test_a_worker_can_do_nothing_else(service: Service) -> None:
    kafka = {**service.broker.add_user(service.worker), "bootstrap.servers": service.broker.scram}
    names = service.topics
    for topic in (names.predictions, names.dead_letters):
        assert code_of_reading(kafka, service.group, topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED
        assert code_of_writing(kafka, topic) is None
    assert code_of_writing(kafka, names.requests) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert code_of_joining(kafka, f"{service.group}x", names.requests) == KafkaError.GROUP_AUTHORIZATION_FAILED
    for other in (f"{service.group}x.1", "1"):
        assert code_of_transacting(kafka, other) == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert code_of_transacting(kafka, f"{service.group}.1") is None


def test_a_client_can_do_nothing_else(service: Service) -> None:
    kafka = {**service.broker.add_user(service.client), "bootstrap.servers": service.broker.scram}
    names = service.topics
    for topic in (names.requests, names.dead_letters):
        assert code_of_reading(kafka, "sluice-reader", topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    for topic in (names.predictions, names.dead_letters):
        assert code_of_writing(kafka, topic) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert code_of_writing(kafka, names.requests) is None
    for group in (service.group, "sluice-reader"):
        assert code_of_joining(kafka, group, names.predictions) == KafkaError.GROUP_AUTHORIZATION_FAILED
    denied = KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert code_of_transacting(kafka, f"{service.group}.1") == denied


@pytest.mark.parametrize(("guarantee", "protocol"), [("at-least-once", "consumer"), ("exactly-once", "classic")])
def test_a_worker_without_its_rights_says_so_and_ends(service: Service, guarantee: str, protocol: str) -> None:
    """In another group, whose offsets and transactions are not its own."""
    command = ["serve", "--models", str(service.models), "--broker", service.broker.scram, "--no-apply"]
    command += ["--group", f"{service.group}x", "--guarantee", guarantee, "--kafka", f"group.protocol={protocol}"]
    command += as_options(service.broker.add_user(service.worker))
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *command], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "authorization failed" in ended.stderr
    assert "Traceback" not in ended.stderr
