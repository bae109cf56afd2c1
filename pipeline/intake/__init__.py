"""From request topics to chunks: the consumer, its poll thread, and the channel agents iterate."""

from pipeline.intake.channel import ChunkChannel, chunks, intake_of
from pipeline.intake.chunk import UNREADABLE, Chunk, RawHeaders
from pipeline.intake.consumer import ConsumerFactory, ConsumerLike, consumer_settings, kafka_consumer
from pipeline.intake.headers import RawColumns
from pipeline.intake.pressure import Demand
from pipeline.intake.service import Intake, IntakeListener

__all__ = [
    "UNREADABLE",
    "Chunk",
    "ChunkChannel",
    "ConsumerFactory",
    "ConsumerLike",
    "Demand",
    "Intake",
    "IntakeListener",
    "RawColumns",
    "RawHeaders",
    "chunks",
    "consumer_settings",
    "intake_of",
    "kafka_consumer",
]
