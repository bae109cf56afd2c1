"""``chunks(app, TOPIC)``: a Faust channel of chunks that any agent can iterate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import faust
from faust.app.base import BootStrategy
from faust.channels import Channel
from faust.types import TopicT
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from pipeline.commit import Ledger
from pipeline.core.errors import ConfigError
from pipeline.core.limits import Limits
from pipeline.intake.chunk import Chunk
from pipeline.intake.consumer import consumer_settings
from pipeline.intake.service import Intake

__all__ = ["Boot", "ChunkChannel", "chunks", "intake_of"]

_intakes: WeakKeyDictionary[faust.App, Intake] = WeakKeyDictionary()


class ChunkQueue(ThrowableQueue[Chunk]):
    """Says which chunks are taken; the intake holds the poll back while too many are not."""

    def __init__(self, taken: Callable[[], None]) -> None:
        super().__init__(flow_control=FlowControlEvent(initially_suspended=False))
        self._taken = taken

    def _get(self) -> Chunk:
        chunk: Chunk = super()._get()
        self._taken()
        return chunk


class ChunkChannel(Channel[Chunk]):
    """A channel whose one queue is the intake's alone.

    Faust clears every queue of ``app.flow_control`` on its own rebalances, retained partitions included; this
    queue has a flow control of its own, so they never touch it. Its clones share it: an agent that is restarted
    goes on with the next chunk, and several agents on one channel share the chunks out.
    """

    def _clone_args(self) -> Mapping[str, Any]:
        return {**super()._clone_args(), "queue": self.queue}


class Boot(BootStrategy):
    """Starts Faust's own Kafka transport only where ordinary topics or tables need it."""

    @property
    def enable_kafka(self) -> bool:  # type: ignore[override]
        app: Any = self.app
        return bool(app.tables) or any(isinstance(agent.channel, TopicT) for agent in app.agents.values())


def chunks(
    app: faust.App,
    topic: str,
    *,
    intake: Intake | None = None,
    limits: Limits | None = None,
) -> ChunkChannel:
    """Requests of ``topic`` as `Chunk` values: ``@app.agent(chunks(app, "TOPIC"))``.

    All chunk channels of an app share one intake (one consumer, one poll thread), given with the first call or
    made from the app's broker with the group ``APPID-chunks``. The agent calls ``chunk.finish()`` when a chunk
    (or some of its requests) is done for good; offsets are committed that far and never past the first request
    that is not. Requests handed over and not finished are limited by ``limits``: over them, polling pauses.

    An agent must not raise: Faust would restart it past the chunk it held, which then stays unfinished and is
    read again only after a restart or a rebalance.
    """
    if (known := _intakes.get(app)) is None:
        known = intake or default_intake(app, limits or Limits())
        _install(app, known)
    elif intake is not None and intake is not known:
        raise ConfigError("an app has one intake; give it with the first chunks() call")
    queue = ChunkQueue(known.taken)
    channel = ChunkChannel(app, queue=queue)
    known.route(topic, queue.put_nowait)
    return channel


def intake_of(app: faust.App) -> Intake:
    """The intake of an app that has chunk channels."""
    return _intakes[app]


def default_intake(app: faust.App, limits: Limits) -> Intake:
    """An intake on the app's own broker; its group is not the app's, whose members speak another protocol."""
    broker = ",".join(f"{url.host}:{url.port or 9092}" for url in app.conf.broker)
    settings = consumer_settings(broker, f"{app.conf.id}-chunks", offset_reset="earliest", instance_id=None, extra={})
    return Intake(settings, ledger=Ledger(), limits=limits)


def _install(app: faust.App, intake: Intake) -> None:
    _intakes[app] = intake
    if type(app.boot_strategy) is BootStrategy:
        app.boot_strategy = Boot(app)

    async def start_intake() -> None:
        await app.add_runtime_dependency(intake)

    app.task(start_intake)
