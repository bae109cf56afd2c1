"""Every queue, buffer, retry and wait of a worker has its limit here (invariant I4)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """A worker's limits; each default says its arithmetic."""

    # One poll: enough that the cost of a chunk (about 100 us in all) is 2% of handling it.
    poll_requests_max: int = 4096
    # Of large requests fewer: 16 of 1 MB, four for each of four partitions. With 4 MiB each was a chunk of its own, and
    # a fifth of the time went into chunks.
    poll_bytes_max: int = 16 * 1024 * 1024
    # Handed to the flow and without a terminal record yet: four polls, one of them on its way to or from each thread.
    # More lie in nobody's cache: 32,768 took the worker 6% more processor time each. With transactions twice as many,
    # for those of the last one are in flight until it is committed. Records of either (a dead letter and its notice
    # each) stay below librdkafka's 100,000 queued messages.
    in_flight_requests_max: int = 16_384
    in_flight_bytes_max: int = 256 * 1024 * 1024
    # Rows waiting for the device, in batches: what runs, what is filled, and two more to choose from.
    waiting_batches_max: int = 4
    # Chunks no agent has taken yet, beyond which the next poll waits: its chunk had better grow meanwhile.
    channel_chunks_max: int = 4
    # Over its limits the poll thread first just waits: librdkafka drops and refetches what it holds of a paused
    # partition, and may notice a resume only after a second. Past this it pauses and polls on, so that
    # max.poll.interval.ms is never near; a rebalance, a stop or a commit waits for at most so long.
    pause_after_ms: int = 1000
    drain_ms_max: int = 20_000  # a revoke or a stop: below the usual 45 s session and 30 s pod termination
    compute_attempts_max: int = 3  # of one batch, where the error may pass: memory that is short for a moment
    compute_ms_max: int = 120_000  # of one batch: a backend that hangs ends the worker, far below max.poll.interval.ms
    delivery_attempts_max: int = 5  # of one terminal record, each after librdkafka's own retries
    commit_interval_ms: int = 100  # 10 small commits a second cost nothing; a crash repeats at most so much
    transaction_ms: int = 150  # while there is more to publish: a commit takes 10 to 30, and nothing is published then
    slots: int = 3  # one computes, one is filled, one is encoded
    # Remembered to answer their duplicates once, where asked for. 330 bytes each: 86 MB; a minute of 4,000 a second.
    remembered_requests_max: int = 262_144
    deadline_horizon_ms: int = 24 * 3600 * 1000  # a deadline further off its Kafka timestamp is a wrong clock

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"limit {name} must be at least 1")
