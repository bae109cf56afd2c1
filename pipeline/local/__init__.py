"""The local stack: a real Apache Kafka of this process, or one in the background with a worker beside it."""

from pipeline.local.health import StackHealth, look
from pipeline.local.kafka import EmbeddedKafka
from pipeline.local.stack import Stack, down, running, up

__all__ = ["EmbeddedKafka", "Stack", "StackHealth", "down", "look", "running", "up"]
