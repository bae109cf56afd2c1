"""One worker process: the flow as `pipeline/app.py` puts it together, on a machine of virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.app import Flow, _Told
from pipeline.commit import Ledger
from pipeline.core.limits import Limits
from pipeline.core.settings import Guarantee, Settings
from pipeline.infer import Backend
from pipeline.intake import Intake
from pipeline.intake.channel import ChunkQueue
from pipeline.models import Model
from pipeline.observe import Observer
from tests.simulate.broker import Broker, Source
from tests.simulate.consumer import Consumer
from tests.simulate.machine import Machine, Process
from tests.simulate.producer import Producer

__all__ = ["Parts", "Worker"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What every worker of a schedule is made of."""

    broker: Broker
    model: Model
    limits: Limits
    guarantee: Guarantee
    backend: Callable[[], Backend]
    queue_max: int
    too_large: Callable[[Source, str], str | None]
    answer_once_s: float | None


class Clock:
    """The machine's time; `pipeline.core.clock.Clock`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.unix_ms = machine.unix_ms

    def now_ns(self) -> int:
        return self._machine.now_ns


class _Observer(Observer):
    """Counts; where time goes is not simulated, and its histograms cost an eighth of a schedule."""

    def _record(self, finished: object) -> None: ...


class _Flow(Flow):
    """Tells the worker when it has failed."""

    failed: Callable[[BaseException], None]

    async def crash(self, reason: BaseException) -> None:
        self.failed(reason)


class _Intake(Intake):
    failed: Callable[[BaseException], None]

    async def crash(self, reason: BaseException) -> None:
        self._crashed.set()
        self.failed(reason)


class Worker:
    """Starts with its making; ``ended`` is called on the hub when its process is no more, however it ended."""

    def __init__(
        self, parts: Parts, name: str, instance_id: str | None, ended: Callable[[Worker, BaseException | None], None]
    ) -> None:
        self.name = name
        self.parts = parts
        self.machine = parts.broker.machine
        self.consumer: Consumer | None = None
        self.failure: BaseException | None = None
        self.ready = False
        self._ended = ended
        self._instance_id = instance_id
        self._stopping = False
        self.process = Process(self.machine, name)
        self.process.loop.create_task(self._start())

    async def _start(self) -> None:
        parts, clock = self.parts, Clock(self.machine)
        settings = Settings(
            "broker",
            guarantee=parts.guarantee,
            instance_id=self._instance_id,
            limits=parts.limits,
            answer_once_within_s=parts.answer_once_s,
        )
        self.ledger = Ledger()
        self.observer = _Observer(clock=clock)
        self.intake = _Intake(
            {},
            ledger=self.ledger,
            limits=parts.limits,
            listener=_Told([parts.model], self.observer),
            clock=clock,
            consumer_factory=self._consume,
            commits=parts.guarantee is Guarantee.AT_LEAST_ONCE,
        )
        self.flow = _Flow(
            [parts.model],
            settings,
            ledger=self.ledger,
            observer=self.observer,
            clock=clock,
            producer_factory=self._produce,
            group_metadata=self.intake.group_metadata,
        )
        self.flow.failed = self.intake.failed = self._failed
        self.flow._backends.append(parts.backend())  # loaded
        # Its batches are of real requests only; what it takes is learnt from them.
        self.flow.device._time = lambda lane, rung, buckets: ((buckets[-1], 5_000_000),)  # type: ignore[method-assign]
        try:
            await self.flow.on_start()
        except Exception as error:  # noqa: BLE001 - a worker that cannot start ends
            self._exit(error)
            return
        queue = ChunkQueue(self.intake.taken)
        self.intake.route(parts.model.topics.requests, queue.put_nowait)
        await self.intake.on_start()
        await self.intake.on_started()
        self.window = self.flow._versions[parts.model.name].window
        self.ready = True
        await self._serve(queue)

    async def _serve(self, queue: ChunkQueue) -> None:
        """The agent, as `pipeline.app` has it."""
        while True:
            await self.flow.serve(self.parts.model.name, await queue.get())

    def _consume(self, settings: dict[str, Any]) -> Consumer:
        self.consumer = Consumer(self.parts.broker, self.process, settings)
        self._producer.consumer = self.consumer
        return self.consumer

    def _produce(self, settings: dict[str, Any]) -> Producer:
        if "transactional.id" in settings and self._instance_id is None:
            settings["transactional.id"] = self.name  # instead of one that is new in every run
        parts = self.parts
        self._producer = Producer(
            parts.broker, self.process, settings, queue_max=parts.queue_max, too_large=parts.too_large
        )
        return self._producer

    # --- how it ends -------------------------------------------------------------------------------------------------

    def _failed(self, error: BaseException) -> None:
        self.failure = self.failure or error
        if isinstance(error, AssertionError):
            raise error
        self.stop()

    def stop(self) -> None:
        """SIGTERM, or the crash of a service: drain, commit, leave."""
        if not self._stopping and self.ready and not self.process.dead:
            self._stopping = True
            self.process.loop.create_task(self._stop())

    async def _stop(self) -> None:
        if self.failure is not None:
            self.intake._crashed.set()
        await self.intake.on_stop()
        await self.flow.on_stop()
        self._exit(self.failure)

    def _exit(self, failure: BaseException | None) -> None:
        self.failure = failure
        self.machine.after(0, self.kill)

    def kill(self) -> None:
        """SIGKILL; on the hub."""
        if not self.process.dead:
            self.process.kill()
            self.parts.broker.on_append.pop(self.name, None)
            self._ended(self, self.failure)
