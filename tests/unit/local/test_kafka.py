"""What an embedded Kafka is given before it starts: an id and ports."""

from __future__ import annotations

import base64
import socket
from types import SimpleNamespace

import pytest

from pipeline.core.errors import BrokerError
from pipeline.local import kafka
from pipeline.local.kafka import free_ports, new_cluster_id


def test_a_cluster_id_is_16_bytes_and_never_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    for first in range(256):
        monkeypatch.setattr("uuid.uuid4", lambda first=first: SimpleNamespace(bytes=bytes([first]) + b"x" * 15))
        made = new_cluster_id()
        assert not made.startswith("-")
        assert len(base64.urlsafe_b64decode(made + "==")) == 16


def test_free_ports_are_different_and_lie_below_the_range_clients_take_theirs_from() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(port in kafka.PORTS for port in ports)
    assert kafka.PORTS.stop <= 32_768


def test_a_port_that_is_listened_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(kafka, "PORTS", range(port, port + 1))
        with pytest.raises(BrokerError, match="no free port"):
            free_ports(1)
