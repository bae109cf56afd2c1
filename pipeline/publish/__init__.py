"""From outputs to acknowledged terminal records."""

from pipeline.publish.producer import ProducerLike, kafka_producer, producer_settings
from pipeline.publish.publisher import Publisher
from pipeline.publish.transactions import Transactions

__all__ = ["ProducerLike", "Publisher", "Transactions", "kafka_producer", "producer_settings"]
