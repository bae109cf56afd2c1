"""Builds the Faust app: the whole flow on one page."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import faust
from faust.types import StreamT
from mode import Service

from pipeline.admit import Admission, Duplicates
from pipeline.commit import Ledger, Offsets
from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.core.errors import BackendError, BrokerError, ConfigError
from pipeline.core.settings import Guarantee, Settings
from pipeline.infer import Backend, Batch, Device, Lane
from pipeline.infer.placement import placed
from pipeline.intake import Chunk, ConsumerFactory, Demand, Intake, chunks, consumer_settings, intake_of, kafka_consumer
from pipeline.models import Model
from pipeline.observe import Observer
from pipeline.publish import LINGER, ProducerLike, Publisher, Transactions, kafka_producer, producer_settings
from pipeline.swap import Swaps
from pipeline.window import Parts, Recording, Remembered, Scheduler, Window

__all__ = ["Flow", "create_app", "flow_of"]

WATCH_S = 1.0  # how often calls that do not return are looked for
FLUSH_S = 5.0  # after a drain nothing should be left; an unreachable broker must not hold a stop up

_FLOW = "sluice_flow"

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Version:
    """One version of a model in service. All requests of a chunk are one version's: its parse, its slots, its label."""

    lane: Lane
    admit: Admission
    window: Window
    before: str = ""  # whose place it took
    began: set[int] = field(default_factory=set)  # partitions it was told to answer from here on


class Flow(Service):
    """What lies between a chunk and its acknowledged terminal record, for every model of one worker."""

    def __init__(
        self,
        models: Sequence[Model],
        settings: Settings,
        *,
        ledger: Ledger,
        observer: Observer,
        clock: Clock,
        producer_factory: Callable[[dict[str, Any]], ProducerLike],
        group_metadata: Callable[[], Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.observer = observer
        self._models = tuple(models)
        self._versions: dict[str, Version] = {}
        self._settings = settings
        self._ledger = ledger
        self._clock = clock
        self._backends: list[Backend] = []
        self._decisions: BinaryIO | None = None
        self.swaps: Swaps | None = None
        self.device = Device(fail=self.fail, clock=clock)
        transactional_id = settings.transactional_id()
        producer = producer_factory(
            producer_settings(settings.broker, extra=settings.kafka, transactional_id=transactional_id)
        )
        self._transactions = None
        if transactional_id is not None:
            self._transactions = Transactions(
                producer,
                ledger,
                group_metadata=group_metadata,
                committed=observer.committed,
                limits=settings.limits,
                clock=clock,
            )
        self._duplicates = None
        if (window_s := settings.answer_once_within_s) is not None:
            self._duplicates = Duplicates(window_s, settings.limits.remembered_requests_max, ledger=ledger, clock=clock)
        self.publisher = Publisher(
            producer,
            ledger=ledger,
            observer=observer,
            limits=settings.limits,
            fail=self.fail,
            transactions=self._transactions,
            duplicates=self._duplicates,
            lingers=LINGER in settings.kafka,
            clock=clock,
        )

    def load(self) -> None:
        """Load every model; raises `ModelError` or `BackendError` before anything is polled."""
        for model in self._models[len(self._backends) :]:
            self._backends.append(self._load(model))

    def _load(self, model: Model) -> Backend:
        backend = placed(model, self._settings.device)
        backend.load(model, threads=self._settings.threads)
        return backend

    async def on_start(self) -> None:
        loop = self._running = asyncio.get_running_loop()
        await loop.run_in_executor(None, self.load)
        if self._settings.record_decisions is not None:
            self._decisions = _opened(self._settings.record_decisions)
        if self._transactions is not None:
            await loop.run_in_executor(None, self._transactions.start)
        for model, backend in zip(self._models, self._backends, strict=True):
            self._versions[model.name] = self._version(self._add(model, backend))
        self.observer.start()
        self.publisher.start()
        self.device.start(loop)

    def _add(self, model: Model, backend: Backend) -> Lane:
        return self.device.add(model, backend, self._settings.limits.slots, self._publish)

    def _version(self, lane: Lane, before: str = "") -> Version:
        settings, model, manifest = self._settings, lane.model, lane.model.manifest
        admit = Admission(
            model,
            settings.limits,
            settings.request_limits,
            reject=partial(self.publisher.reject, model, "admit"),
            duplicates=self._duplicates,
            pass_over=partial(self.publisher.pass_over, model),
            clock=self._clock,
        )
        parts = Parts.of(model, lane.samples, lane.below)
        remembered = Remembered(manifest.cached) if manifest.cached else None
        window = Window(
            lane,
            self.device,
            {length: self._scheduler(parts, length, remembered) for length in manifest.lengths or (None,)},
            rows_max=settings.limits.waiting_batches_max * manifest.rows_max,
            attempts_max=settings.limits.compute_attempts_max,
            expire=partial(self.publisher.expire, model),
            told=partial(self.observer.left, model.name),
            remembered=remembered,
            clock=self._clock,
        )
        return Version(lane, admit, window, before)

    def _scheduler(self, parts: Parts, length: int | None, remembered: Remembered | None) -> Scheduler:
        if length is not None:
            parts = replace(parts, model=f"{parts.model}, sequences up to {length}")
        recording = None if self._decisions is None else Recording(self._decisions.write, parts)
        recall = None if remembered is None else remembered.recall
        return Scheduler(parts.planner(), parts.rows_max, recording, recall)

    async def serve(self, name: str, chunk: Chunk) -> None:
        """Requests of a model arrive, for the version that serves now; returns when there is room for more."""
        version = self._versions[name]
        if version.before and chunk.partition not in version.began:
            version.began.add(chunk.partition)
            label, offset = version.lane.model.label, chunk.offsets[0]
            self.observer.begins(label, chunk.topic, chunk.partition, offset)
            log.info("%s answers %s/%d from offset %d on", label, chunk.topic, chunk.partition, offset)
        await version.window.offer(version.admit(chunk))

    def gather_s(self) -> float:
        """How long requests may gather in the client before a poll: no model would run them sooner. Any thread."""
        return min((version.window.gather_s for version in tuple(self._versions.values())), default=0.0)

    def demands(self) -> Mapping[str, Demand]:
        """What the requests of each topic want of the device. Any thread."""
        return {each.lane.model.topics.requests: each.window.demand for each in tuple(self._versions.values())}

    # --- a newer version, as `Swaps` asks for it ---------------------------------------------------------------------

    def models(self) -> Sequence[Model]:
        """The versions that serve."""
        return [version.lane.model for version in self._versions.values()]

    def prepare(self, model: Model) -> Lane:
        """Load and warm a version beside those that serve; blocks, any thread. Raises `SluiceError`."""
        backend = self._load(model)
        try:
            return self._add(model, backend)
        except BaseException:
            backend.close()
            raise

    async def swap(self, lane: Lane) -> None:
        """From the next chunk on ``lane``'s version answers; return when the one before has, and is freed."""
        old = self._versions[lane.model.name]
        new = self._versions[lane.model.name] = self._version(lane, old.lane.model.label)
        self.observer.swapped(new.before, lane.model.label)
        log.info("%s takes the place of %s", lane.model.label, new.before)
        await old.window.hand_over(new.window)
        self.device.remove(old.lane)
        await self._running.run_in_executor(None, old.lane.backend.close)
        log.info("%s is freed", new.before)

    @Service.timer(WATCH_S)
    async def _watch(self) -> None:
        """End a worker one of whose threads is in a call that does not return: another can go on."""
        compute_ms_max = self._settings.limits.compute_ms_max
        if max(self.device.busy_s(), self.publisher.waiting_s()) * 1000 > compute_ms_max:
            self.fail(BackendError(f"a batch has not ended within {compute_ms_max} ms"))
        elif self.publisher.overdue():
            self.fail(BrokerError("a transaction's call does not return"))

    async def on_stop(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        # The intake has drained by now: what still runs was given back, and nobody may publish it.
        ended = self.publisher.stop(FLUSH_S)
        self.device.stop(FLUSH_S, close=ended)
        self.observer.shutdown()
        if self._decisions is not None:
            self._decisions.close()

    def _publish(self, lane: Lane, batch: Batch) -> None:
        self.publisher.publish(self.device, lane, batch)

    def fail(self, error: BaseException) -> None:
        """A thread of the flow has died: end the worker, so that its partitions go to another."""
        self._ledger.abandon()
        self._running.call_soon_threadsafe(lambda: asyncio.ensure_future(self.crash(error)))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise ConfigError(f"decisions cannot be recorded in {path}: {error.strerror}") from error


class _Told:
    """Tells the observer, which counts by model, what the intake knows by topic."""

    def __init__(self, models: Sequence[Model], observer: Observer) -> None:
        self._names = {model.topics.requests: model.name for model in models}
        self._observer = observer

    def received(self, topic: str, requests: int) -> None:
        self._observer.received(self._names[topic], requests)

    def committed(self, offsets: Offsets) -> None:
        self._observer.committed(offsets)

    def released(self, topic: str, partition: int, requests: int) -> None:
        self._observer.released(self._names[topic], requests)
        self._observer.forget(topic, partition)

    def vanished(self, topic: str, requests: int) -> None:
        self._observer.vanished(self._names[topic], requests)


class _App(faust.App):
    """Faust's, that serves on where its folders cannot be made: the flow keeps nothing in them."""

    def _create_directories(self) -> None:
        try:
            super()._create_directories()
        except OSError as error:
            log.warning("Faust's folder %s cannot be made: %s", self.conf.datadir, error.strerror)


def create_app(
    models: Sequence[Model],
    settings: Settings,
    *,
    repository: Path | None = None,
    observer: Observer | None = None,
    clock: Clock = SYSTEM_CLOCK,
    consumer_factory: ConsumerFactory = kafka_consumer,
    producer_factory: Callable[[dict[str, Any]], ProducerLike] = kafka_producer,
    **faust_options: Any,
) -> faust.App:
    """A Faust app that serves ``models``; it also runs as ``faust -A MODULE worker``.

    Newer versions of them that appear in ``repository``, where it is given, are swapped in while it runs.
    Ordinary topics and agents may be added to it; Faust's own Kafka transport is started only then, in a
    consumer group of its own, ``GROUP-agents``. ``faust_options`` are `faust.App`'s. Raises `ConfigError` where
    there is nothing to serve.
    """
    if not models:
        raise ConfigError("no models to serve")
    options = {
        "broker": [f"kafka://{host.strip()}" for host in settings.broker.split(",")],
        "datadir": Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}",  # the flow keeps nothing there
        "web_enabled": False,
        "web_bind": "127.0.0.1",  # `faust worker` enables it again unless told not to, and would bind to all interfaces
        "topic_disable_leader": True,
        "topic_allow_declare": False,
        "table_standby_replicas": 0,
        "stream_wait_empty": False,
    }
    app = _App(f"{settings.group}-agents", **{**options, **faust_options})
    add_flow(app, models, settings, repository, observer, clock, consumer_factory, producer_factory)
    return app


def add_flow(
    app: faust.App,
    models: Sequence[Model],
    settings: Settings,
    repository: Path | None,
    observer: Observer | None,
    clock: Clock,
    consumer_factory: ConsumerFactory,
    producer_factory: Callable[[dict[str, Any]], ProducerLike],
) -> None:
    """The way of a request: chunk, admit, window; from there the device and completion threads go on."""
    ledger = Ledger()  # which offsets are finished
    observer = observer or Observer(otlp_endpoint=settings.otlp_endpoint, clock=clock)
    intake = Intake(
        consumer_settings(
            settings.broker,
            settings.group,
            offset_reset=settings.offset_reset,
            instance_id=settings.instance_id,
            extra=settings.kafka,
        ),
        ledger=ledger,
        limits=settings.limits,
        listener=_Told(models, observer),
        clock=clock,
        consumer_factory=consumer_factory,
        commits=settings.guarantee is Guarantee.AT_LEAST_ONCE,
    )
    flow = Flow(
        models,
        settings,
        ledger=ledger,
        observer=observer,
        clock=clock,
        producer_factory=producer_factory,
        group_metadata=intake.group_metadata,
    )
    intake.gather_s, intake.demands = flow.gather_s, flow.demands
    intake.add_dependency(flow)  # started before the first poll, stopped after the last commit
    if repository is not None:
        flow.swaps = Swaps(repository, flow)
        intake.add_dependency(flow.swaps)  # stopped before the flow
    setattr(app, _FLOW, flow)
    for model in models:
        _add_model(app, model, flow, intake)


def _add_model(app: faust.App, model: Model, flow: Flow, intake: Intake) -> None:
    async def serve(stream: StreamT[Chunk]) -> None:
        async for chunk in stream:
            try:
                await flow.serve(model.name, chunk)
            except Exception as error:  # noqa: BLE001 - Faust would restart the agent past this chunk: end the worker
                flow.fail(error)

    app.agent(chunks(app, model.topics.requests, intake=intake), name=model.topics.requests)(serve)


def flow_of(app: faust.App) -> tuple[Flow, Intake]:
    """The flow and the intake of an app made by `create_app`."""
    flow: Flow = getattr(app, _FLOW)
    return flow, intake_of(app)
