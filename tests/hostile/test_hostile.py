"""Every kind of bad request through the real topic, between good ones: its code, its bytes, its memory (I4, I7)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.settings import Guarantee
from pipeline.local import EmbeddedKafka
from pipeline.models import BUNDLED
from tests.contract.test_flow import renamed
from tests.contract.worker import Worker, committed
from tests.hostile.bombs import bombs
from tests.hostile.cases import HostileCase, good_request, hostile_cases
from tests.hostile.exchange import Exchange, Memory, Sent, make_topic
from tests.hostile.header_cases import header_cases
from tests.hostile.unreadable import NAMES, produce_named
from topics.codecs import CONTENT_TYPES
from topics.codes import Code
from topics.headers import headers_of
from topics.names import Topics, topics_of
from topics.records import JSON, RAW, Header, Status, source_of

MEMORY_MIB_MAX = 64.0  # above idle, for any one message and its neighbours
CASES = [case for case in (*hostile_cases(), *header_cases(), *bombs()) if not case.small_limits]
ADDED = {
    Header.REQUEST_ID, Header.STATUS, Header.MODEL, Header.SOURCE, Header.STAGES,
    Header.ERROR_CODE, Header.ERROR_REASON, Header.ERROR_STAGE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Served:
    """A worker that answers, and the exchange with it."""

    broker: str
    worker: Worker
    exchange: Exchange
    topics: Topics
    group: str

    def stop(self) -> None:
        """Each request had one outcome, and all are committed."""
        self.exchange.read_on(1.0)
        assert self.worker.stop() == 0
        assert set(self.exchange.counts.values()) == {1}
        assert committed(self.broker, self.group, self.topics.requests) == len(self.exchange.answers)


@pytest.fixture(params=list(Guarantee))
def served(
    request: pytest.FixtureRequest, broker: EmbeddedKafka, tmp_path: Path, topic: Callable[..., str]
) -> Iterator[Served]:
    """The digit model, under each guarantee."""
    models, name = renamed(BUNDLED / "digits" / "1", tmp_path, topic("digits"))
    topics, group = topics_of(name), topic("group")
    make_topic(broker.bootstrap, topics)
    worker = Worker(broker.bootstrap, models, group, "--guarantee", request.param, log=tmp_path / "log")
    with worker, Exchange(broker.bootstrap, topics) as exchange:
        yield Served(broker.bootstrap, worker, exchange, topics, group)


def good(content_type: str, *headers: tuple[str, bytes]) -> Sent:
    return b"key", good_request(content_type), (("content-type", content_type.encode()), *headers)


def sent(case: HostileCase) -> Sent:
    typed = (("content-type", case.content_type.encode()),) if case.content_type else ()
    return case.key, case.value, (*typed, *case.headers)


def test_every_bad_request_is_a_dead_letter_and_its_neighbours_are_answered(served: Served) -> None:
    """Its code, its bytes and headers, one notice; and no message takes over 64 MiB, however large."""
    exchange = served.exchange
    for _ in range(20):
        exchange.ask([good(content_type) for content_type in CONTENT_TYPES])
    memory, peaks = Memory(served.worker.process.pid), {}
    idle_mib = memory.now_mib()
    for number, case in enumerate(CASES):
        before, after = good(CONTENT_TYPES[number % 3]), good(CONTENT_TYPES[(number + 1) % 3])
        memory.reset()
        sources = exchange.ask([before, sent(case), after])
        peaks[case.id] = memory.peak_mib() - idle_mib  # with what messages before it may have left
        assert_refused(exchange, sources, case)
    served.stop()
    assert len(exchange.dead) == len(CASES)
    assert {case: mib for case, mib in peaks.items() if mib > MEMORY_MIB_MAX} == {}


def assert_refused(exchange: Exchange, sources: Sequence[str], case: HostileCase) -> None:
    """A dead letter of the request as it was and a notice, between two predictions."""
    before, source, after = sources
    assert exchange.answers[before].status is exchange.answers[after].status is Status.OK, case.id
    message, letter = exchange.dead[source]
    assert (letter.error_code, letter.error_stage) == (case.code, "admit"), (case.id, letter.error_reason)
    assert (message.key(), message.value()) == (case.key, case.value), case.id
    kept = [header for header in headers_of([message])[0] or () if header[0] not in ADDED]
    assert kept == [header for header in sent(case)[2] if header[0] not in ADDED], case.id
    notice = exchange.answers[source]
    assert notice.status is Status.REJECTED, case.id
    assert json.loads(notice.value or b"") == {"code": case.code, "reason": letter.error_reason}, case.id


def test_what_is_odd_and_yet_no_dead_letter_is_answered(served: Served) -> None:
    """A deadline in the past expires, a request id may come again, and a request may name its model."""
    exchange, name = served.exchange, served.topics.requests.removesuffix(".requests")
    past = str(int(time.time() * 1000) - 1000).encode()
    named = json.dumps({"model_name": name, "model_version": "1", **json.loads(good_request(JSON))}).encode()
    odd: list[tuple[Sent, Status]] = [
        (good(RAW, ("deadline-ms", past)), Status.EXPIRED),
        (good(RAW, ("request-id", b"twice")), Status.OK),
        (good(RAW, ("request-id", b"twice")), Status.OK),
        (good(RAW, ("model", name.encode())), Status.OK),
        (good(RAW, ("model", f"{name}/1".encode())), Status.OK),
        (good(RAW, ("traceparent", b"\0")), Status.OK),
        (good(RAW, ("", b""), ("x", b"\xff"), ("x", b"\xfe")), Status.OK),
        ((b"key", named, ()), Status.OK),
    ]
    sources = exchange.ask([request for request, _ in odd])
    assert [exchange.answers[source].status for source in sources] == [status for _, status in odd]
    assert json.loads(exchange.answers[sources[0]].value or b"")["code"] == Code.DEADLINE_PASSED
    assert not exchange.dead
    served.stop()


def test_a_header_name_that_is_not_utf_8_is_a_dead_letter_without_its_headers(served: Served) -> None:
    """The one thing a dead letter cannot keep: the binding does not give it."""
    exchange = served.exchange
    produce_named(served.broker, served.topics.requests, good_request(RAW))
    sources = [source_of(served.topics.requests, 0, offset) for offset in range(len(NAMES))]
    exchange.wait(sources)
    statuses = [exchange.answers[source].status for source in sources]
    assert statuses == [Status.OK, Status.REJECTED, Status.REJECTED, Status.OK]
    for source in sources[1:3]:
        message, letter = exchange.dead[source]
        assert (letter.error_code, message.value()) == (Code.BAD_HEADER, good_request(RAW))
    served.stop()
