"""The local stack: a real Apache Kafka of this process, or one in the background with a worker beside it."""

from pipeline.local.kafka import EmbeddedKafka

__all__ = ["EmbeddedKafka"]
