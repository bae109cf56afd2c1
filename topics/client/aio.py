"""`AsyncClient`: predictions from a model behind Kafka, for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Self, Unpack

from topics.client.client import CLOSE_S, IN_FLIGHT_MAX, Outputs, read_answers
from topics.client.exchange import Exchange
from topics.client.messages import Inputs
from topics.client.reader import Answer, Reader, Start
from topics.client.requests import Maker, Options
from topics.client.stream import Stream, outgoing
from topics.connect import Connection
from topics.errors import NotAnswered
from topics.names import topics_of
from topics.records import Request
from topics.signature import Signature

__all__ = ["AsyncClient"]

RETRY_S = 0.005  # between looks at librdkafka's full queue


class AsyncClient:
    """As `Client`, for one event loop: a thread reads, the loop awaits, nothing blocks it.

    To be closed, or used in an ``async with``. A cancelled call leaves nothing behind.
    """

    def __init__(
        self,
        broker: str,
        model: str,
        signature: Signature | None = None,
        *,
        kafka: Mapping[str, str] | None = None,
        in_flight_max: int = IN_FLIGHT_MAX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.topics = topics_of(model)
        self.signature = signature
        self.request = Maker(signature, clock).request
        self._connection = Connection(broker, kafka)
        self._exchange = Exchange(self._connection, self.topics, signature)
        self._slots = asyncio.BoundedSemaphore(in_flight_max)

    async def predict(self, inputs: Inputs, *, timeout_s: float = 30.0, **options: Unpack[Options]) -> Outputs:
        """As `Client.predict`: outputs as arrays ``(rows, *shape)``; the same errors."""
        return (await self.ask(inputs, timeout_s=timeout_s, **options)).outputs()

    async def ask(self, inputs: Inputs, *, timeout_s: float = 30.0, **options: Unpack[Options]) -> Answer:
        """As `predict`, but the whole terminal record: its stages, source and model, or the notice."""
        made = self.request(inputs, **options)
        until_s = time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise NotAnswered(f"no call could start within {timeout_s:g} s: too many are in flight") from error
        try:
            while True:
                if not self._exchange.started:
                    await asyncio.to_thread(self._exchange.start, max(0.0, until_s - time.monotonic()))
                try:
                    answer = self._exchange.ask(made, max(0.0, until_s - time.monotonic()))
                    break
                except BufferError:
                    if time.monotonic() > until_s:
                        raise NotAnswered(f"Kafka took no more requests for {timeout_s:g} s") from None
                    await asyncio.sleep(RETRY_S)
            return await asyncio.wrap_future(answer)
        finally:
            self._slots.release()

    async def produce(
        self, requests: Iterable[Request | Inputs] | AsyncIterable[Request | Inputs], *, timeout_s: float = 120.0
    ) -> int:
        """As `Client.produce`; takes an asynchronous iterable too."""
        stream = await asyncio.to_thread(Stream, self._connection, self.topics.requests)
        try:
            async for item in _each(requests):
                message = outgoing(item if isinstance(item, Request) else self.request(item))
                while not stream.offer(message):
                    stream.serve()
                    await asyncio.sleep(RETRY_S)
                if stream.due:
                    stream.serve()
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            timeout_s = 0.0  # who cancels does not wait
            raise
        finally:  # what was sent before ``requests`` raised is still delivered
            until_s = time.monotonic() + timeout_s
            while stream.waiting and time.monotonic() < until_s:
                stream.serve()
                await asyncio.sleep(RETRY_S)
        return stream.check()

    async def consume(self, *, start: Start = "latest", idle_s: float | None = None) -> AsyncIterator[Answer]:
        """As `Client.consume`: ``async for answer in await client.consume()``; "now" is when this is awaited."""
        reader = await asyncio.to_thread(Reader, self._connection, self.topics.predictions, start)
        return _answers(reader, self.signature, idle_s)

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """As `Client.close`."""
        await asyncio.to_thread(self._exchange.close, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _answers(reader: Reader, signature: Signature | None, idle_s: float | None) -> AsyncIterator[Answer]:
    try:
        last_s = time.monotonic()
        while idle_s is None or time.monotonic() - last_s < idle_s:
            for answer in await asyncio.to_thread(read_answers, reader, signature, 0.1):
                yield answer
                last_s = time.monotonic()
    finally:
        await asyncio.to_thread(reader.close)
