"""One schedule: what a seed says of requests, workers and faults, run to its end."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

from confluent_kafka import KafkaException

from pipeline.core.errors import SluiceError
from pipeline.core.limits import Limits
from pipeline.core.settings import Guarantee
from pipeline.models import Model
from pipeline.observe.counters import Counts
from tests.simulate.broker import Broker, Source, Weather
from tests.simulate.deadlines import under_slo
from tests.simulate.device import AsynchronousBackend, Backend
from tests.simulate.judge import Judge, Violation
from tests.simulate.machine import Machine
from tests.simulate.requests import Request, request_of, twin_of
from tests.simulate.worker import Parts, Worker
from tests.unit.infer.makers import model_of

__all__ = ["World", "run"]

END_S = 120.0  # by then all is over, or something hangs
STEPS_MAX = 100_000
# The most each kind of bad weather comes to; a schedule has about a third of them.
CHANCES = Weather(
    commit_fails=0.5,
    delivery_fails=0.15,
    delivery_fatal=0.02,
    delivery_supposed=0.05,
    answer_lost=0.3,
    aborts=0.2,
    batch_fails=0.3,
    slow=0.2,
)
EXPECTED = type(None), SystemExit, SluiceError, KafkaException  # how a worker may end: well, killed, or by the broker


class World:
    """Everything of one schedule. ``log`` takes its lines where somebody wants them."""

    def __init__(self, seed: int, log: Callable[[str], None] | None = None) -> None:
        self.random = random = Random(seed)
        exactly_once = bool(seed % 2)
        self.clean = random.random() < 0.15  # nothing but stops and rebalances
        self.machine = Machine(random, 0.0 if random.random() < 0.3 else random.random() * 0.2, log)
        self.weather = Weather()
        self.judge = Judge(exactly_once=exactly_once)
        self.partitions = random.randint(1, 3)
        self.broker = Broker(
            self.machine,
            self.weather,
            self.judge,
            partitions=self.partitions,
            transaction_timeout_s=random.choice([0.5, 2.0]),
        )
        self.judge.group = self.broker.group
        self.twins = Random(f"{seed}, alike")  # of its own, so that the other schedules are as they were without
        self.answer_once_s = self.twins.choice([0.05, 0.5, 60.0]) if seed // 2 % 3 == 2 else None
        self.asked: list[Request] = []
        self.limits = self._limits()
        self.rows_max = random.choice([2, 4, 8])
        self.faults_s = random.uniform(0.3, 1.5)
        own = Random(f"{seed}, SLO")  # so that the other schedules are as they were without
        self.slo_ms = own.choice([2.0, 20.0, 200.0]) if seed // 2 % 3 == 0 else None
        self.workers: list[Worker] = []
        self.slots: dict[int, Worker] = {}
        self.kinds = () if random.random() < 0.8 else ("plain",)
        self.finishing = False
        self.tally = Counter(schedules=1)
        self._started = 0
        self._instances = random.random() < 0.5
        self._last: dict[int, int] = {}
        self._parts = self._make_parts(exactly_once)
        self._plan_requests()
        self._plan_faults()

    # --- what the seed says ------------------------------------------------------------------------------------------

    def _limits(self) -> Limits:
        random = self.random
        return Limits(
            poll_requests_max=random.choice([1, 4, 16]),
            in_flight_requests_max=random.choice([2, 8, 64]),
            in_flight_bytes_max=random.choice([100, 1000, 100_000]),
            waiting_batches_max=random.randint(1, 4),
            channel_chunks_max=random.randint(1, 4),
            pause_after_ms=random.choice([5, 100]),
            drain_ms_max=20_000 if self.clean else random.choice([20, 500, 20_000]),
            commit_interval_ms=random.choice([1, 20, 100]),
            transaction_ms=random.choice([1, 20, 150]),
            slots=random.randint(1, 3),
            remembered_requests_max=self.twins.choice([1, 4, 100]),
        )

    def _make_parts(self, exactly_once: bool) -> Parts:
        random = self.random
        manifest = model_of(rows_max=self.rows_max).manifest
        backend = random.choice([Backend, AsynchronousBackend])
        too_large = random.choice(["client", "broker"])

        def too_large_for(source: Source, status: str) -> str | None:
            return too_large if status == "ok" and self.judge.requests[source].kind == "big" else None

        return Parts(
            broker=self.broker,
            model=Model(replace(manifest, gather_ms_max=random.choice([0, 0, 3]), slo_ms=self.slo_ms), Path("nowhere")),
            limits=self.limits,
            guarantee=Guarantee.EXACTLY_ONCE if exactly_once else Guarantee.AT_LEAST_ONCE,
            backend=partial(
                backend,
                self.machine,
                self.weather,
                self.judge,
                rows_max=self.rows_max,
                batch_s_max=random.choice([0.001, 0.01, 0.1]),
            ),
            queue_max=random.choice([2, 8, 1000]),
            too_large=too_large_for,
            answer_once_s=self.answer_once_s,
        )

    def _plan_requests(self) -> None:
        random = self.random
        next_offset = dict.fromkeys(range(self.partitions), 0)
        at_s = 0.0
        for number in range(1, 1 + random.randint(1, 40)):
            if random.random() < 0.3:
                at_s += random.random() * self.faults_s / 6
            partition = random.randrange(self.partitions)
            offset = next_offset[partition] + (random.randint(1, 5) if random.random() < 0.2 else 0)
            next_offset[partition] = offset + 1
            self._last[partition] = offset
            self.machine.after(at_s, self._ask, number, partition, offset)
        self.asked_s = at_s

    def _ask(self, number: int, partition: int, offset: int) -> None:
        unix_ms, named = self.machine.unix_ms(), self.answer_once_s is not None
        if named and self.asked and self.twins.random() < 0.4:
            request = twin_of(self.twins, self.twins.choice(self.asked), partition, offset, unix_ms)
        else:
            request = request_of(
                self.random,
                number,
                partition,
                offset,
                unix_ms,
                kinds=self.kinds,
                rows_max=self.rows_max,
                named=named,
            )
        self.asked.append(request)
        self.tally["requests"] += 1
        self.machine.tell("request {} ({}, {} rows) is {}/{}", number, request.kind, request.rows, partition, offset)
        request = request if self.slo_ms is None else under_slo(request)
        self.judge.asked(request)
        self.broker.append_request(partition, request.message)

    def _plan_faults(self) -> None:
        random, weather = self.random, self.weather
        for slot in range(random.randint(1, 3)):
            self.machine.after(random.random() * 0.2, self._launch, slot)
        faults = [self._stop, self._rebalance]
        if not self.clean:
            faults += [self._kill, self._kick, self._freeze, self._pause, self._double]
            for name in Weather.__slots__:
                if random.random() < 0.3:
                    setattr(weather, name, random.random() * getattr(CHANCES, name))
        for _ in range(random.randint(0, 6)):
            self.machine.after(random.random() * self.faults_s, random.choice(faults))
        self.machine.after(self.faults_s, self._heal)

    # --- faults ------------------------------------------------------------------------------------------------------

    def _launch(self, slot: int) -> None:
        self._started += 1
        self.tally["workers"] += 1
        name = f"worker-{self._started}"
        self.machine.tell("{} starts", name)
        worker = Worker(self._parts, name, f"slot-{slot}" if self._instances else None, partial(self._ended, slot))
        self.slots[slot] = worker
        self.workers.append(worker)

    def _ended(self, slot: int, worker: Worker, failure: BaseException | None) -> None:
        """However a worker ends, another takes its place."""
        self.machine.tell("{} has ended: {}", worker.name, repr(failure))
        if worker.ready:
            self.tally["passed over"] += worker.observer.counts().get("m", Counts()).duplicate
        if not isinstance(failure, EXPECTED):
            self.judge.violate(f"{worker.name} has ended with {failure!r}")
        self.workers.remove(worker)
        if worker.consumer is not None and (member_id := worker.consumer.membership[0]):
            self.machine.after(self.random.random() * 0.5, self.broker.group.remove, member_id)  # its session is over
        if self.slots[slot] is worker and not self.finishing:
            self.machine.after(self.random.random() * 0.3, self._launch, slot)

    def _any(self) -> Worker | None:
        ready = [worker for worker in self.workers if worker.ready]
        return self.random.choice(ready) if ready else None

    def _stop(self) -> None:
        if (worker := self._any()) is not None:
            self.machine.tell("SIGTERM to {}", worker.name)
            worker.stop()

    def _kill(self) -> None:
        if (worker := self._any()) is not None:
            self.tally["killed"] += 1
            self.machine.tell("SIGKILL to {}", worker.name)
            worker.failure = SystemExit("killed")
            worker.kill()

    def _kick(self) -> None:
        worker = self._any()
        if worker is not None and worker.consumer is not None:
            self.tally["thrown out"] += 1
            self.machine.tell("{} is thrown out of the group", worker.name)
            self.broker.group.kick(worker.consumer.membership[0])

    def _freeze(self) -> None:
        if (worker := self._any()) is not None:
            seconds = self.random.random() * 0.5
            self.machine.tell("SIGSTOP to {} for {:.3f} s", worker.name, seconds)
            worker.process.stopped_until_ns = self.machine.now_ns + int(seconds * 1e9)
            if worker.consumer is not None and self.random.random() < 0.7:
                self.machine.after(
                    seconds * self.random.random(), self.broker.group.kick, worker.consumer.membership[0]
                )

    def _rebalance(self) -> None:
        self.machine.tell("rebalance")
        self.broker.group.rebalance()

    def _pause(self) -> None:
        seconds = self.random.random() * 0.3
        self.machine.tell("the broker stands still for {:.3f} s", seconds)
        until_ns = self.machine.now_ns + int(seconds * 1e9)
        self.broker.paused_until_ns = max(self.broker.paused_until_ns, until_ns)

    def _double(self) -> None:
        """A second worker in the place of one that runs on: with one transactional id it fences it (F15)."""
        if self.slots:
            self._launch(self.random.choice(list(self.slots)))

    def _heal(self) -> None:
        self.machine.tell("nothing fails from here on")
        self.weather.clear()
        for slot in list(self.slots):
            if self.slots[slot].process.dead and self.slots[slot] in self.workers:
                self._launch(slot)

    # --- the run -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until everything is answered and committed and every worker has stopped; raises `Violation`."""
        with self.machine.installed():
            try:
                self._run_until(self._is_answered, "answered and committed")
                self.finishing = True
                self._run_until(self._is_stopped, "stopped")
            finally:
                for worker in self.workers:
                    worker.process.kill()
        self.judge.finish(clean=self.clean and not self.broker.group.refused)
        if any(self.broker.group.pending.values()):
            self.judge.violate("I1: a transaction is left open")
        self.tally["rebalances"] = self.broker.group.generation
        self.tally["transactions"] = self.broker.ended["committed"]
        self.tally["aborted"] = self.broker.ended["aborted"]
        self.tally["repeats"] = sum(len(statuses) - 1 for statuses in self.judge.statuses.values())

    def _is_answered(self) -> bool:
        committed = self.broker.group.committed
        over_s = max(self.faults_s, self.asked_s) + 0.4
        return self.machine.now_ns - 5_000_000_000 > over_s * 1e9 and all(
            committed.get(partition, 0) > last for partition, last in self._last.items()
        )

    def _is_stopped(self) -> bool:
        for worker in self.workers:
            worker.stop()
        return not self.workers

    def _run_until(self, done: Callable[[], bool], what: str) -> None:
        end_ns = self.machine.now_ns + int(END_S * 1e9)
        while not done():
            if not self.machine.step():
                self.judge.violate(f"not {what} and nothing is left to happen: something hangs")
            if self.judge.violations:
                raise Violation(self.judge.violations[0])
            for worker in self.workers:
                if worker.process is self.machine.ran and worker.ready:
                    self._check(worker)
            if self.machine.now_ns > end_ns or self.machine.steps > STEPS_MAX:
                self.judge.violate(f"not {what} after {END_S:.0f} s and {self.machine.steps} steps: something hangs")

    def _check(self, worker: Worker) -> None:
        """The invariants that hold at any moment."""
        limits, ledger, name = self.limits, worker.ledger, worker.name
        # A poll while there is no room may bring a message of a partition that came with it.
        assignments = worker.consumer.assignments if worker.consumer is not None else 0
        if (counts := worker.observer.counts().get("m")) is not None and counts.in_flight != ledger.in_flight_requests:
            self.judge.violate(f"I6: {name} counts {counts} and has {ledger.in_flight_requests} in flight")
        in_flight_max = limits.in_flight_requests_max * (2 if self.judge.exactly_once else 1)
        if ledger.in_flight_requests >= in_flight_max + limits.poll_requests_max + self.partitions:
            self.judge.violate(f"I4: {name} has {ledger.in_flight_requests} requests in flight")
        if worker.intake._untaken >= limits.channel_chunks_max + self.partitions + assignments:
            self.judge.violate(f"I4: {name} has {worker.intake._untaken} chunks nobody has taken")
        waiting_max = limits.waiting_batches_max * self.rows_max + limits.poll_requests_max * 3 * self.rows_max
        if worker.window.rows >= waiting_max:
            self.judge.violate(f"I4: {worker.window.rows} rows wait")


def run(seed: int, log: Callable[[str], None] | None = None) -> World:
    """Run one schedule; raises `Violation`."""
    logging.disable(logging.CRITICAL)
    world = World(seed, log)
    loop = asyncio._get_running_loop()
    try:
        world.run()
    finally:
        asyncio._set_running_loop(loop)
        logging.disable(logging.NOTSET)
    return world
