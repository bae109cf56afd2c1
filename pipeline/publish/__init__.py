"""From outputs to acknowledged terminal records."""

from pipeline.publish.producer import LINGER, ProducerLike, kafka_producer, producer_settings
from pipeline.publish.publisher import Publisher
from pipeline.publish.transactions import Transactions

__all__ = ["LINGER", "ProducerLike", "Publisher", "Transactions", "kafka_producer", "producer_settings"]
