"""Which offsets are finished, and their commits."""

from pipeline.commit.ledger import Ledger, Offsets, TopicPartitionKey

__all__ = ["Ledger", "Offsets", "TopicPartitionKey"]
