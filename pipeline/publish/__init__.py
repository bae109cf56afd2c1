"""From outputs to acknowledged terminal records."""

from pipeline.publish.producer import ProducerLike, kafka_producer, producer_settings
from pipeline.publish.publisher import Publisher

__all__ = ["ProducerLike", "Publisher", "kafka_producer", "producer_settings"]
