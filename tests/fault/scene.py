"""One row of the fault table: a model with topics of its own, a client, workers, a fault, and the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from confluent_kafka import KafkaException

from pipeline.core.settings import Guarantee
from tests.contract.worker import Worker
from tests.fault.reading import Reader, Watch
from tests.fault.table import Row
from tests.fault.verify import Seen, Verdict, passed, silence_s, verify
from tests.fault.workload import Client, Workload
from topics.admin import apply_topics
from topics.names import topics_of

__all__ = ["Scene"]

OUTCOMES_S_MAX = 90.0
WAIT_S_MAX = 90.0
STOP_S_MAX = 40.0  # a drain is at most 20 s


@dataclass
class Scene:
    """What one fault happens to. Its row is in the table even where it fails; workers end with it."""

    row: Row
    broker: str
    workload: Workload
    group: str
    folder: Path
    rows: list[Row]
    partitions: int | None = None
    worker_broker: str = ""  # where workers find it, if by another way
    workers: list[Worker] = field(default_factory=list)
    restarts: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _first_ms: float = 0.0  # of the first fault, Unix
    _numbers: int = 0

    def __post_init__(self) -> None:
        self.topics = topics_of(self.workload.name)
        self.started_s = time.monotonic()
        apply_topics(self.broker, [self.topics], partitions=self.partitions)
        self.client = Client(self.broker, self.topics.requests, self.workload.make)
        self.watch = Watch(self.broker, self.group, self.topics)
        self.seen: list[Seen] = []  # once finished

    def __enter__(self) -> Self:
        self._stack.enter_context(self.watch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        wall_s = time.monotonic() - self.started_s
        self.rows.append(replace(self.row, restarts=self.restarts, wall_s=wall_s, ok=error is None))

    # --- workers -----------------------------------------------------------------------------------------------

    def start(
        self,
        *options: str,
        kafka: Mapping[str, str | int] = MappingProxyType({}),
        ready: bool = True,
        module: str = "pipeline.cli",
        env: Mapping[str, str] = MappingProxyType({}),
        log: Path | None = None,
    ) -> Worker:
        """A worker; ``ready`` waits until it can answer. What is left of it ends with the scene."""
        settings = [word for name, value in kafka.items() for word in ("--kafka", f"{name}={value}")]
        self._numbers += 1
        worker = Worker(
            self.worker_broker or self.broker,
            self.workload.models,
            self.group,
            "--guarantee",
            self.row.guarantee,
            *settings,
            *options,
            log=log or self.folder / f"worker{self._numbers}",
            module=module,
            env=env,
        )
        self._stack.push(worker.__exit__)
        if ready:
            worker.__enter__()
        self.workers.append(worker)
        return worker

    def stop(self, worker: Worker) -> None:
        """Ask it to stop; it drains and exits 0."""
        self.workers.remove(worker)
        assert worker.stop(timeout_s=STOP_S_MAX) == 0, worker.log.read_text()

    def kill(self, worker: Worker) -> None:
        """SIGKILL, counted as an injected fault."""
        self.workers.remove(worker)
        worker.kill()
        self.injected(kills=1)

    def supervise(self, *options: str, kafka: Mapping[str, str | int] = MappingProxyType({})) -> Callable[[], None]:
        """What an orchestrator does: a worker that has failed is started anew. Call the result again and again."""

        def look() -> None:
            for worker in [each for each in self.workers if each.process.poll() is not None]:
                assert worker.process.returncode == 1, worker.log.read_text()
                self.workers.remove(worker)
                self.restarts += 1
                self.start(*options, kafka=kafka, ready=False)

        return look

    # --- the fault -----------------------------------------------------------------------------------------------

    def injected(self, times: int = 1, *, kills: int = 0, rebalances: int = 0, broker_kills: int = 0) -> None:
        """The fault has begun, so many times."""
        self._first_ms = self._first_ms or time.time() * 1000
        row = self.row
        self.row = replace(
            row,
            injected=row.injected + times,
            kills=row.kills + kills,
            rebalances=row.rebalances + rebalances,
            broker_kills=row.broker_kills + broker_kills,
        )

    def wait(self, until: Callable[[], bool], what: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait for something that has to come."""
        end_s = time.monotonic() + WAIT_S_MAX
        while not until():
            meanwhile()
            assert time.monotonic() < end_s, f"{what}: not within {WAIT_S_MAX:.0f} s"
            time.sleep(0.02)

    def pause(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let things go on for a while."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(0.1, left_s))
            meanwhile()

    def wait_for_members(self, count: int) -> None:
        """Wait until so many workers have partitions."""

        def there() -> bool:
            try:
                return self.watch.members() == count
            except KafkaException:
                return False

        self.wait(there, f"{count} members with partitions")

    def wait_for_outcomes(self, beyond: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until `produced` is more than that."""
        self.wait(lambda: self.produced() > beyond, "outcomes", meanwhile)

    def produced(self) -> int:
        """Records in the predictions topic, markers and what was rolled back included."""
        return sum(end for (topic, _), end in self.watch.look().ends.items() if topic == self.topics.predictions)

    def committed(self) -> int:
        """Sum of the group's committed offsets."""
        return sum(self.watch.look().committed.values())

    # --- the verdict ---------------------------------------------------------------------------------------------

    def finish(
        self,
        *,
        ordered: bool = True,
        repeats: bool | None = None,
        meanwhile: Callable[[], None] = lambda: None,
        timeout_s: float = OUTCOMES_S_MAX,
    ) -> Verdict:
        """Wait for every outcome, stop the workers, verify; ``repeats`` says whether any are allowed."""
        reader = Reader(self.broker, self.topics)
        try:
            reader.until({each.request_id for each in self.client.sent}, timeout_s, meanwhile)
            for worker in list(self.workers):
                self.stop(worker)
            reader.rest()
        finally:
            reader.close()
        self.watch.look()
        sent, unsure = self.client.sent, self.client.unsure
        verdict = verify(
            self.topics, sent, reader.seen, list(self.watch.snaps), unsure=unsure, right=self.workload.right
        )
        silent_s = silence_s(sent, reader.seen, self._first_ms)
        self.row = replace(self.row, verdict=verdict, unsure=len(unsure), silence_s=silent_s)
        self.seen = reader.seen
        allowed = repeats if repeats is not None else self.row.guarantee == Guarantee.AT_LEAST_ONCE
        faults = verdict.faults(exactly_once=not allowed, ordered=ordered)
        looks = passed(sent, reader.seen, self.watch.snaps) if "passed" in faults else {}
        assert not faults, f"{self.row.fault} {self.row.what}: {faults} {looks} of {len(self.watch.snaps)} looks"
        return verdict
