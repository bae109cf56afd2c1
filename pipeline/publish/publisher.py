"""The completion thread: outputs become predictions, the broker's acknowledgements become finished offsets."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from queue import Empty, SimpleQueue

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message

from pipeline.admit import Admitted, Duplicates
from pipeline.commit import Ledger
from pipeline.core.clock import SYSTEM_CLOCK, Clock
from pipeline.core.errors import BackendError, BrokerError, DeviceLostError, SluiceError
from pipeline.core.limits import Limits
from pipeline.infer import Batch, Device, Lane, Run
from pipeline.intake import Chunk
from pipeline.models import Model
from pipeline.observe import Observer
from pipeline.publish.emission import Emission
from pipeline.publish.flight import Flight, positions_of
from pipeline.publish.predictions import Predictions
from pipeline.publish.producer import ANY_PARTITION, NOW, OnDelivery, ProducerLike, is_too_large
from pipeline.publish.terminal import Record, expirations, rejection
from pipeline.publish.transactions import Outcome, Transactions
from pipeline.window import Late
from topics.codes import BadRequest, Code
from topics.signature import Columns

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

Work = Callable[[], None]

# While acknowledgements are due the thread waits for its queue, where a finished batch ends the wait at once, and looks
# for acknowledgements so often: they only finish offsets. Polling for them every 0.5 ms took 28% of a core.
ACK_WAIT_S = 0.002
AT_ONCE_S = 0.002  # while a flush lasts librdkafka lets nothing linger; on a busy machine its thread needs a moment
FULL_POLL_S = 0.0005  # while librdkafka's queue is full: an acknowledgement ends the wait
ALONE_S = 30.0  # until all in the air has landed, before and after a record that goes alone
JOIN_S = 1.0
RETRY_DELAY_NS = 200_000_000  # before a record that librdkafka gave up on is produced again: brokers need a moment


class Publisher:
    """Publishes the terminal records of every model of a worker, and finishes requests in the ledger.

    All records are produced and polled by one thread, in the order the work came. A request is finished when all
    its records (a dead letter and its notice are two) are acknowledged (I1, I2). Nothing is produced for an
    assignment that was lost (I3). A record librdkafka gives up on is produced again up to ``delivery_attempts_max``
    times, then the worker fails: its partitions go to another.
    """

    def __init__(
        self,
        producer: ProducerLike,
        *,
        ledger: Ledger,
        observer: Observer,
        limits: Limits,
        fail: Callable[[BaseException], None],
        transactions: Transactions | None = None,
        duplicates: Duplicates | None = None,
        lingers: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.transactions = transactions
        self.produce = producer.produce  # for `Predictions`, whose loop is the hot path
        self._producer = producer
        self.observer = observer
        self.clock = clock
        self.ledger = ledger
        self._limits = limits
        self._fail = fail
        self._duplicates = duplicates
        self._lingers = lingers  # as it was asked to: nothing is sent at once
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._waiting_since_ns: int | None = None  # in a backend's `wait`
        self._flown = self._settled = 0  # flights, so far
        self._sent = 0  # of them, when records were last sent at once
        self.thread = threading.Thread(target=self._run, name="sluice-completion", daemon=True)

    # --- what other threads hand over ----------------------------------------------------------------------------

    def publish(self, device: Device, lane: Lane, batch: Batch) -> None:
        """A batch was started: wait for its outputs and publish them. Any thread."""
        self._queue.put(partial(self._complete, device, lane, batch))

    def reject(self, model: Model, stage: str, chunk: Chunk, bad: Sequence[tuple[int, BadRequest]]) -> None:
        """Requests of a chunk that cannot be answered. Any thread."""
        self._queue.put(partial(self._reject, model, stage, chunk, bad))

    def expire(self, model: Model, late: Sequence[Late]) -> None:
        """Requests past their deadline. Any thread."""
        self._queue.put(partial(self._expire, model, late))

    def pass_over(self, model: Model, chunk: Chunk, indices: Sequence[int]) -> None:
        """Duplicates of requests that have their outcome, or will: they are finished without one. Any thread."""
        self._queue.put(partial(self._pass_over, model, chunk, indices))

    def start(self) -> None:
        """Start the completion thread."""
        self.thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Publish what was handed over, wait for its acknowledgements for at most so long, end the thread.

        False where the thread is in a call that does not return, and is left behind.
        """
        self._queue.put(None)
        while self.thread.is_alive():
            self.thread.join(JOIN_S)
            if self.overdue():
                log.error("the completion thread is in a call that does not return and is left behind")
                return False
        try:
            left = self._producer.flush(timeout_s)
        except (BrokerError, KafkaException) as error:  # told only now: the rest has to stop too
            log.warning("while stopping: %s", error)
            return True
        if left:
            log.warning("%d records were not acknowledged within %.1f s", left, timeout_s)
        return True

    def waiting_s(self) -> float:
        """For how long the completion thread has been waiting for a batch's outputs. Any thread."""
        since_ns = self._waiting_since_ns
        return 0.0 if since_ns is None else (self.clock.now_ns() - since_ns) / 1e9

    def overdue(self) -> bool:
        """Whether the completion thread is in a call that does not return. Any thread."""
        return self.waiting_s() * 1000 > self._limits.compute_ms_max or (
            self.transactions is not None and self.transactions.overdue()
        )

    # --- the completion thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                try:
                    work = self._queue.get(timeout=ACK_WAIT_S if self._settled < self._flown else None)
                except Empty:
                    self._poll()
                    continue
                if work is None:
                    break
                work()
                self._poll()
                if self.transactions is not None:
                    self.transactions.turn(idle=self._queue.empty())
            self._give_up()
        except SluiceError as error:  # the world's: told in one line when the worker has ended
            self._fail(error)
            if not isinstance(error, BrokerError):  # which nothing more can be asked of
                self._give_up()
        except BaseException as error:
            self._fail(error)
            raise

    def _give_up(self) -> None:
        if self.transactions is not None:
            self.transactions.give_up()

    def _poll(self) -> None:
        """Take acknowledgements; send at once what was produced if as much has settled as was sent so (Nagle's rule).

        The rest lingers for librdkafka's 5 ms. With less its thread would spin (2.16): while 5 records of a partition
        are on their way an idempotent producer sends no more, yet wakes for what has lingered.
        """
        self._producer.poll(0)
        if self._sent < self._flown and self._sent <= self._settled and self._queue.empty() and not self._lingers:
            self._sent = self._flown
            self._producer.flush(AT_ONCE_S)

    def _complete(self, device: Device, lane: Lane, batch: Batch) -> None:
        assert batch.slot is not None
        error = batch.error
        if error is None:
            self._waiting_since_ns = self.clock.now_ns()
            try:
                lane.backend.wait(batch.slot)
            except SluiceError as raised:
                error = raised
            self._waiting_since_ns = None
        if lane.backend.asynchronous:
            batch.computed_ns = self.clock.now_ns()
        if error is not None:
            self._failed(device, lane, batch, error)
            return
        if batch.blamed is not None:
            device.give_back(lane, batch)
            self._blame(lane.model, batch, batch.blamed)
            return
        outputs: list[tuple[Run, Columns]] = []
        for part in sorted(batch.parts(), key=attrgetter("slot_row")):  # as they came: order per key
            if isinstance(part, Run):
                rows = slice(part.slot_row, part.slot_row + part.rows)
                outputs.append((part, {name: array[rows] for name, array in batch.slot.outputs.items()}))
                continue
            joined = part.joined
            total = int(np.diff(joined.admitted.row_start[joined.request : joined.request + 2])[0])
            if not joined.failed and joined.take(batch.slot, part, lane.model.signature.outputs, total):
                outputs.append((Run(joined.admitted, joined.request, joined.request + 1, 0), joined.outputs))
        # An assignment that was lost is somebody else's by now (I3).
        outputs = [(run, columns) for run, columns in outputs if self.ledger.is_current(run.admitted.chunk)]
        Predictions(self, lane.model, batch, outputs)
        device.give_back(lane, batch)

    def _failed(self, device: Device, lane: Lane, batch: Batch, error: SluiceError) -> None:
        """What runs again finds the request that the failure is about (I7), or that it is about none: a circuit.

        A model that no longer answers what it was warmed with ends the worker, before any request is blamed for it.
        """
        label = lane.model.label
        if isinstance(error, DeviceLostError):
            raise error  # about no request, and nothing runs here any more
        if batch.blamed is not None and not batch.may_pass(error, self._limits.compute_attempts_max):
            raise BackendError(f"{label} fails on any input, zeros included: {error}")
        batch.error = error
        log.warning("%s: a batch of %d rows failed, attempt %d: %s", label, batch.rows, batch.attempts, error)
        device.give_back(lane, batch, retry=True)

    def _blame(self, model: Model, batch: Batch, error: SluiceError) -> None:
        for part in batch.parts():
            if isinstance(part, Run):
                admitted, request = part.admitted, part.lo
            else:
                admitted, request = part.admitted, part.joined.request
                if part.joined.failed:
                    return
                part.joined.failed = True
            self.forget(admitted, [request])
            reason = BadRequest(Code.MODEL_FAILED, str(error))
            self._reject(model, "compute", admitted.chunk, [(admitted.indices[request], reason)])

    def _reject(self, model: Model, stage: str, chunk: Chunk, bad: Sequence[tuple[int, BadRequest]]) -> None:
        if not self.ledger.is_current(chunk):
            return
        for index, why in bad:
            records = rejection(model, stage, chunk, index, why)
            settle = partial(self._finish, chunk, [index], model, self.observer.dead_lettered)
            self._send_all(chunk, [index], records, settle, self.rejection_refused)

    def _expire(self, model: Model, late: Sequence[Late]) -> None:
        for admitted, requests in late:
            chunk = admitted.chunk
            if not self.ledger.is_current(chunk):
                continue
            self.forget(admitted, requests)
            indices = [admitted.indices[request] for request in requests]
            records = expirations(model, admitted, requests)
            settle = partial(self._finish, chunk, indices, model, self.observer.expired)
            self._send_all(chunk, indices, records, settle, self._terminal_refused)

    def _pass_over(self, model: Model, chunk: Chunk, indices: Sequence[int]) -> None:
        if self.ledger.is_current(chunk):
            settle = partial(self._finish, chunk, indices, model, self.observer.duplicate)
            self._send_all(chunk, indices, [], settle, self._terminal_refused)

    def forget(self, admitted: Admitted, requests: Sequence[int]) -> None:
        """Requests that get no prediction have no duplicates."""
        if self._duplicates is not None:
            for request in requests:
                self._duplicates.forget(admitted.chunk, admitted.indices[request], admitted.headers[request])

    def _finish(self, chunk: Chunk, indices: Sequence[int], model: Model, count: Callable[[str, int], None]) -> None:
        count(model.name, chunk.finish(indices))  # of a lost assignment none: they were given back (I6)

    # --- producing and acknowledgements ------------------------------------------------------------------------

    def _send_all(
        self,
        chunk: Chunk,
        indices: Sequence[int],
        records: Sequence[Record],
        settle: Callable[[], None],
        refused: Callable[[int, str], None],
    ) -> None:
        if self.transactions is not None:
            emission = self.emission(records, refused)
            self.transactions.add(Outcome(chunk, indices, emission.emit, settle, emission.doubts))
            return

        def record_again(position: int) -> Record | None:
            return records[position] if self.ledger.is_current(chunk) else None

        flight = self.flight(len(records), settle, record_again, refused)
        for position, record in enumerate(records):
            self.send(flight, position, record)
        flight.arrived()

    def emission(self, records: Sequence[Record], refused: Callable[[int, str], None]) -> Emission:
        """Records for the transactions to come."""
        return Emission(self, len(records), records.__getitem__, refused)

    def emit(self, record: Record, report: OnDelivery) -> None:
        """Produce one record, in the open transaction where there is one; ``report`` is told of its delivery."""
        while True:
            try:
                self.produce(record.topic, record.value, record.key, ANY_PARTITION, report, None, NOW, record.headers)
            except BufferError:  # librdkafka's queue is full: acknowledgements make room
                self._producer.poll(FULL_POLL_S)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._UNKNOWN_TOPIC:
                    raise BrokerError(f"cannot publish to {record.topic}: {error.args[0].str()}") from error
                raise
            else:
                return

    def emit_alone(self, record: Record, report: OnDelivery) -> None:
        """Produce one record in a message set of its own, and wait for its report: one that is too large is told by it.

        The broker refuses a whole set for its size; with a topic's limit below librdkafka's ``batch.size`` (1 MB) that
        may be nobody's fault.
        """
        self._producer.flush(ALONE_S)
        self.emit(record, report)
        self._producer.flush(ALONE_S)

    def rejection_refused(self, position: int, reason: str) -> None:
        """The dead letter comes first; its notice repeats the key, so that a huge one may not fit."""
        if position == 0:
            self._terminal_refused(position, reason)
        log.warning("a rejected notice is refused by the broker, only the dead letter tells: %s", reason)

    def _terminal_refused(self, position: int, reason: str) -> None:
        raise BrokerError(f"a dead letter or notice is refused by the broker, nothing can be committed: {reason}")

    def send(self, flight: Flight, position: int, record: Record, *, alone: bool = False) -> None:
        """Produce one record of a flight; waits (polling) where librdkafka's queue is full."""
        try:
            if alone:
                self.emit_alone(record, partial(self._delivered_alone, flight, position))
            else:
                self.emit(record, flight.delivered)
        except KafkaException as error:
            if not is_too_large(error.args[0]):
                raise
            flight.too_large(position, error.args[0])

    @staticmethod
    def _delivered_alone(flight: Flight, position: int, error: KafkaError | None, message: Message) -> None:
        if error is not None and is_too_large(error):
            flight.too_large(position, error)
        else:
            flight.delivered(error, message)

    def flight(
        self,
        count: int,
        settle: Callable[[], None],
        record: Callable[[int], Record | None],
        refused: Callable[[int, str], None],
    ) -> Flight:
        """So many records that settle together; it lands only after one more ``arrived``, when all are produced."""
        self._flown += 1
        return Flight(count, count + 1, partial(self._landed, settle), record, refused)

    def _landed(self, settle: Callable[[], None], flight: Flight) -> None:
        if not flight.undelivered:
            self._settled += 1
            settle()
            return
        flight.attempts += 1
        for error, message in flight.undelivered:
            if error.fatal() or (flight.attempts > self._limits.delivery_attempts_max and not is_too_large(error)):
                raise BrokerError(f"cannot publish to {message.topic()}: {error.str()}")
        error, message = flight.undelivered[0]
        what = f"{len(flight.undelivered)} of {flight.count} records to {message.topic()}"
        log.warning("publishing %s failed, attempt %d follows: %s", what, flight.attempts, error.str())
        self._queue.put(partial(self._send_again, flight, self.clock.now_ns() + RETRY_DELAY_NS))

    def _send_again(self, flight: Flight, due_ns: int) -> None:
        """Produce what failed once it is due: flights that failed together wait together."""
        if (wait_ns := due_ns - self.clock.now_ns()) > 0:
            time.sleep(wait_ns / 1e9)
        undelivered, flight.undelivered = flight.undelivered, []
        alone = any(is_too_large(error) for error, _ in undelivered)
        records = [flight.record(position) for position in range(flight.count)]
        positions = positions_of(undelivered, records)
        flight.left = len(positions) + 1
        for position in positions:
            record = records[position]
            assert record is not None
            self.send(flight, position, record, alone=alone)
        flight.arrived()
