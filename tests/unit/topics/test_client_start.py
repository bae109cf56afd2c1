"""What calls say of a Kafka that does not answer, and when."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from topics import AsyncClient, Client
from topics.errors import TopicsError

ROW = {"x": [[1.0]]}


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_calls_of_many_threads_end_within_their_time_out_together(silent: str) -> None:
    def ask(_: int) -> float:
        begun_s = time.monotonic()
        with pytest.raises(TopicsError, match=silent):
            client.predict(ROW, timeout_s=1)
        return time.monotonic() - begun_s

    with Client(silent, "m") as client, ThreadPoolExecutor(4) as pool:
        assert max(pool.map(ask, range(4))) < 4


def test_async_calls_end_within_their_time_out_together(silent: str) -> None:
    async def main() -> float:
        begun_s = time.monotonic()
        async with AsyncClient(silent, "m") as client:
            calls = [client.predict(ROW, timeout_s=1) for _ in range(4)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, TopicsError) for each in outcomes)
        return time.monotonic() - begun_s

    assert asyncio.run(main()) < 5


def test_a_call_may_wait_for_ever(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topics.client.exchange.START_S", 0.1)
    with Client(silent, "m") as client, pytest.raises(TopicsError, match=silent):
        client.predict(ROW, timeout_s=math.inf)


def test_who_cancels_a_stream_does_not_wait_for_its_delivery(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topics.client.stream.check_topic", lambda *_: None)

    async def requests() -> AsyncIterator[dict[str, list[list[float]]]]:
        while True:
            yield ROW
            await asyncio.sleep(0.01)

    async def main() -> float:
        begun_s = time.monotonic()
        async with AsyncClient(silent, "m") as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.produce(requests(), timeout_s=60), 0.5)
            return time.monotonic() - begun_s

    assert asyncio.run(main()) < 30
