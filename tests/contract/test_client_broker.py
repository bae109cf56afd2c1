"""Clients against a real broker and a worker that keeps the contract."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from pipeline.local import EmbeddedKafka
from tests.contract.fake_worker import BROKEN, EXPIRED, REJECTED, SIGNATURE, SILENT, THRICE, FakeWorker
from tests.contract.refusing import Refusing, broker_behind_a_proxy
from topics import Answer, AsyncClient, Client, Expired, NotAnswered, Rejected, TopicsError, topics_of
from topics.admin import apply_topics
from topics.errors import ClientClosed, InputError, KafkaFailed, TopicMissing
from topics.records import ARROW, JSON, RAW

IDLE_S = 1.0  # nothing more is coming, once what was awaited has come


@pytest.fixture
def worker(broker: EmbeddedKafka, topic: Callable[..., str]) -> Iterator[FakeWorker]:
    model = topic("fake")
    apply_topics(broker.bootstrap, [topics_of(model)], partitions=2)
    with FakeWorker(broker.bootstrap, model) as working:
        yield working


@pytest.fixture
def client(broker: EmbeddedKafka, worker: FakeWorker) -> Iterator[Client]:
    with Client(broker.bootstrap, worker.model, SIGNATURE) as opened:
        yield opened


def _asyncio(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


@pytest.mark.parametrize("content_type", [JSON, ARROW, RAW, None])
def test_predict_returns_the_outputs_of_its_own_rows(client: Client, content_type: str | None) -> None:
    outputs = client.predict([[1, 2], [3, 4]], content_type=content_type)
    assert outputs["total"].tolist() == [3, 7]


def test_what_a_call_says_arrives_with_the_request(client: Client, worker: FakeWorker) -> None:
    client.predict([1, 2], key="k", deadline_in_ms=60_000, priority=7, traceparent="00-1-2-01", stages=True)
    [(key, headers)] = worker.seen
    assert key == b"k"
    assert (headers["priority"], headers["traceparent"], headers["stages"]) == ("7", "00-1-2-01", "1")
    assert int(headers["deadline-ms"]) > 0
    assert headers["request-id"]


@pytest.mark.parametrize("content_type", [JSON, ARROW])
def test_predict_works_without_a_signature(broker: EmbeddedKafka, worker: FakeWorker, content_type: str) -> None:
    with Client(broker.bootstrap, worker.model) as client:
        outputs = client.predict({"x": np.array([[1, 2]], np.float32)}, content_type=content_type)
    assert (outputs["total"].tolist(), outputs["total"].dtype) == ([3], np.float32)


def test_notices_are_raised_with_their_code(client: Client) -> None:
    with pytest.raises(Expired) as expired:
        client.predict([EXPIRED, 0])
    assert expired.value.code == "deadline-passed"
    with pytest.raises(Rejected) as rejected:
        client.predict([REJECTED, 0])
    assert (rejected.value.code, rejected.value.reason) == ("model-failed", "asked for it")


def test_no_answer_in_time_is_told_and_leaves_room_for_the_next(broker: EmbeddedKafka, worker: FakeWorker) -> None:
    with Client(broker.bootstrap, worker.model, SIGNATURE, in_flight_max=1) as client:
        with pytest.raises(NotAnswered, match=f"serving {worker.model}.requests"):
            client.predict([SILENT, 0], timeout_s=0.2)
        assert client.predict([1, 2])["total"].tolist() == [3]


def test_a_broken_prediction_is_a_clear_error(client: Client) -> None:
    with pytest.raises(TopicsError, match="cannot read prediction"):
        client.predict([BROKEN, 0])


def test_each_call_is_answered_once_whatever_repeats_arrive(client: Client) -> None:
    answers = client.consume(idle_s=IDLE_S)
    first, second = client.submit([THRICE, 0]), client.submit([THRICE, 1])
    assert first.result().outputs()["total"].tolist() == [THRICE]
    assert second.result().outputs()["total"].tolist() == [THRICE + 1]
    assert client.predict([5, 5])["total"].tolist() == [10]  # the repeats passed by, and nothing of them is left
    assert len(list(answers)) == 7


def test_many_threads_each_get_their_own_answer(client: Client) -> None:
    wrong: list[int] = []

    def ask(thread: int) -> None:
        wrong.extend(i for i in range(25) if client.predict([thread, i])["twice"].tolist() != [[2.0 * thread, 2.0 * i]])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_calls_in_flight_are_bounded_and_further_ones_wait(broker: EmbeddedKafka, worker: FakeWorker) -> None:
    with Client(broker.bootstrap, worker.model, SIGNATURE, in_flight_max=2) as client:
        silent = [client.submit([SILENT, n], timeout_s=2) for n in range(2)]
        with pytest.raises(NotAnswered, match="too many are in flight"):
            client.predict([1, 2], timeout_s=0.1)
        assert client.predict([1, 2], timeout_s=30)["total"].tolist() == [3]  # once the silent ones have given up
        assert all(isinstance(call.exception(), NotAnswered) for call in silent)


def test_a_request_id_in_flight_is_refused_a_second_time(client: Client) -> None:
    waiting = client.submit([SILENT, 0], request_id="mine", timeout_s=1)
    with pytest.raises(InputError, match="in flight already"):
        client.submit([1, 2], request_id="mine")
    assert isinstance(waiting.exception(), NotAnswered)
    assert client.predict([1, 2], request_id="mine")["total"].tolist() == [3]


def test_answers_in_partitions_added_later_are_found(broker: EmbeddedKafka, worker: FakeWorker, client: Client) -> None:
    client.predict([1, 2])
    apply_topics(broker.bootstrap, [client.topics], partitions=8, grow=True)
    with Client(broker.bootstrap, worker.model, SIGNATURE) as writer:
        # The worker's producer, too, learns of the new partitions by and by: write one answer there ourselves.
        call = client.submit([SILENT, 0], request_id="late", timeout_s=60)
        _answer(writer, broker.bootstrap, partition=7, request_id="late")
    assert call.result().partition == 7


def _answer(client: Client, broker: str, partition: int, request_id: str) -> None:
    from topics.connect import Connection

    producer = Connection(broker).producer()
    headers: dict[str, str | bytes | None] = {
        "request-id": request_id,
        "status": "ok",
        "model": "fake/1",
        "source": "t/0/0",
    }
    producer.produce(client.topics.predictions, b"{}", partition=partition, headers=headers)
    assert producer.flush(30) == 0


def test_a_closed_client_fails_what_is_unanswered_and_refuses_more(client: Client) -> None:
    waiting = client.submit([SILENT, 0])
    client.close()
    assert isinstance(waiting.exception(), ClientClosed)
    with pytest.raises(ClientClosed):
        client.predict([1, 2])
    client.close()


def test_a_stream_is_acknowledged_whole_and_answered_whole(client: Client, worker: FakeWorker) -> None:
    answers = client.consume(idle_s=IDLE_S)
    made = [client.request([n, 1], key=str(n % 3)) for n in range(500)]
    assert client.produce(made[:250]) == 250
    assert client.produce([n, 1] for n in range(250, 500)) == 250
    totals = sorted(answer.outputs()["total"].item() for answer in answers)
    assert totals == [n + 1 for n in range(500)]
    assert len(worker.seen) == 500


def test_consuming_from_the_earliest_sees_what_was_there_before(client: Client) -> None:
    client.predict([1, 2])
    assert [answer.outputs()["total"].tolist() for answer in client.consume(start="earliest", idle_s=IDLE_S)] == [[3]]
    assert list(client.consume(idle_s=IDLE_S)) == []


def test_a_failing_stream_still_delivers_what_came_before(client: Client, worker: FakeWorker) -> None:
    def stream() -> Iterator[list[int]]:
        yield [1, 2]
        raise OSError("disk")

    answers = client.consume(idle_s=IDLE_S)
    with pytest.raises(OSError, match="disk"):
        client.produce(stream())
    assert len(list(answers)) == 1


FAILING = """
import asyncio, sys
from topics import AsyncClient

def stream():
    yield from ({"x": [[float(n), 1.0]]} for n in range(3000))
    raise OSError("disk")

async def main():
    async with AsyncClient(*sys.argv[1:]) as client:
        await client.produce(stream())

asyncio.run(main())
"""


def test_an_async_stream_that_fails_still_delivers_what_came_before(broker: EmbeddedKafka, worker: FakeWorker) -> None:
    with Client(broker.bootstrap, worker.model, SIGNATURE) as client:
        answers = client.consume(idle_s=IDLE_S)
        argv = [sys.executable, "-c", FAILING, broker.bootstrap, worker.model]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert "OSError: disk" in ended.stderr
        assert len(list(answers)) == 3000


def test_a_stream_of_answers_goes_on_in_partitions_added_later(
    broker: EmbeddedKafka, worker: FakeWorker, client: Client
) -> None:
    answers = client.consume(idle_s=30)
    apply_topics(broker.bootstrap, [client.topics], partitions=3, grow=True)
    _answer(client, broker.bootstrap, partition=2, request_id="late")
    assert [next(answers).partition] == [2]


def test_an_async_stream_of_answers_goes_on_in_partitions_added_later(
    broker: EmbeddedKafka, worker: FakeWorker, client: Client
) -> None:
    async def main() -> None:
        async with AsyncClient(broker.bootstrap, worker.model, SIGNATURE) as other:
            answers = await other.consume(idle_s=30)
            apply_topics(broker.bootstrap, [client.topics], partitions=3, grow=True)
            _answer(client, broker.bootstrap, partition=2, request_id="late")
            assert [(await anext(answers)).partition] == [2]

    _asyncio(main())


def test_calls_outlast_a_broker_that_is_silent_for_a_while_and_are_told_their_time_out(
    topic: Callable[..., str],
) -> None:
    model = topic("fake")
    with EmbeddedKafka() as kafka:
        apply_topics(kafka.bootstrap, [topics_of(model)], partitions=1)
        with FakeWorker(kafka.bootstrap, model), Client(kafka.bootstrap, model, SIGNATURE) as client:
            client.predict([1, 2])
            os.kill(kafka.pid, signal.SIGSTOP)
            try:
                until_s = time.monotonic() + 13
                patient = client.submit([1, 2], timeout_s=60)
                begun_s = time.monotonic()
                with pytest.raises(NotAnswered):
                    client.predict([3, 4], timeout_s=2)
                assert time.monotonic() - begun_s < 4
                time.sleep(max(0.0, until_s - time.monotonic()))
            finally:
                os.kill(kafka.pid, signal.SIGCONT)
            assert patient.result().outputs()["total"].tolist() == [3]


def test_a_request_too_large_for_kafka_is_refused_or_not_delivered(client: Client) -> None:
    with pytest.raises(InputError, match="too large"):
        client.predict(np.zeros((3_000_000, 2), np.float32), content_type="raw")
    with pytest.raises(KafkaFailed, match="not delivered"):
        client.predict(np.zeros((300_000, 2), np.float32), content_type="raw")
    with pytest.raises(KafkaFailed, match="1 of 2 messages not delivered"):
        client.produce([[1, 2], np.zeros((300_000, 2), np.float32)])


@contextmanager
def refused(model: str) -> Iterator[tuple[Refusing, Client]]:
    """A client whose first request to a partition is refused, while what is behind it is taken; nobody answers."""
    with broker_behind_a_proxy() as (kafka, address):
        apply_topics(kafka.bootstrap, [topics_of(model)], partitions=1)
        with (
            Refusing(address, kafka.listener("PROXIED"), topics_of(model).requests) as way,
            Client(address, model, SIGNATURE) as client,
        ):
            yield way, client
            assert way.refused == {0: 1}


def test_what_librdkafka_only_supposes_delivered_is_told(topic: Callable[..., str]) -> None:
    with refused(topic("fake")) as (way, client):

        def slowly() -> Iterator[list[int]]:
            for number in range(20):
                yield [number, 1]
                way.wait(0)  # for the first one; the next are sent before it is refused
                time.sleep(0.02)

        with pytest.raises(KafkaFailed, match=r"^1 of 20 messages not delivered.*later records"):
            client.produce(slowly())


def test_a_call_that_librdkafka_only_supposes_delivered_fails(topic: Callable[..., str]) -> None:
    with refused(topic("fake")) as (way, client):
        lost = client.submit([0, 1])
        way.wait(0)
        kept = client.submit([1, 1], timeout_s=5)
        with pytest.raises(KafkaFailed, match=r"^request not delivered.*later records"):
            lost.result()
        with pytest.raises(NotAnswered):
            kept.result()


def test_missing_topics_are_told_and_not_created(broker: EmbeddedKafka, topic: Callable[..., str]) -> None:
    model = topic("none")
    for _ in range(2):
        with Client(broker.bootstrap, model, SIGNATURE) as client:
            with pytest.raises(TopicMissing, match=f"{model}.requests"):
                client.predict([1, 2])
            with pytest.raises(TopicMissing, match=f"{model}.requests"):
                client.produce([[1, 2]])
            with pytest.raises(TopicMissing, match=f"{model}.predictions"):
                client.consume()


def test_async_calls_run_together_each_with_its_own_answer(broker: EmbeddedKafka, worker: FakeWorker) -> None:
    async def main() -> None:
        async with AsyncClient(broker.bootstrap, worker.model, SIGNATURE, in_flight_max=16) as client:
            answers = await asyncio.gather(*(client.predict([n, 1]) for n in range(200)))
            assert [a["total"].item() for a in answers] == [n + 1 for n in range(200)]

    _asyncio(main())


def test_async_errors_are_those_of_the_client(broker: EmbeddedKafka, worker: FakeWorker) -> None:
    async def main() -> None:
        async with AsyncClient(broker.bootstrap, worker.model, SIGNATURE, in_flight_max=1) as client:
            with pytest.raises(Expired):
                await client.predict([EXPIRED, 0])
            with pytest.raises(Rejected):
                await client.predict([REJECTED, 0])
            with pytest.raises(NotAnswered, match="is a worker serving"):
                await client.predict([SILENT, 0], timeout_s=0.2)
            silent = asyncio.create_task(client.predict([SILENT, 0]))
            await asyncio.sleep(0)
            with pytest.raises(NotAnswered, match="too many are in flight"):
                await client.predict([1, 2], timeout_s=0.1)
            silent.cancel()
            with pytest.raises(asyncio.CancelledError):
                await silent
            assert (await client.predict([1, 2]))["total"].tolist() == [3]  # the cancelled call gave its place back
        with pytest.raises(ClientClosed):
            await client.predict([1, 2])

    _asyncio(main())


def test_async_streams_take_both_kinds_of_iterables(broker: EmbeddedKafka, worker: FakeWorker) -> None:
    async def rows() -> AsyncIterator[list[int]]:
        for n in range(50):
            yield [n, 1]

    async def main() -> None:
        async with AsyncClient(broker.bootstrap, worker.model, SIGNATURE) as client:
            answers = await client.consume(idle_s=IDLE_S)
            assert await client.produce(rows()) == 50
            assert await client.produce([[n, 1] for n in range(50, 100)]) == 50
            seen: list[Answer] = [answer async for answer in answers]
            assert sorted(a.outputs()["total"].item() for a in seen) == [n + 1 for n in range(100)]

    _asyncio(main())
