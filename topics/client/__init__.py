"""Clients of a model behind Kafka."""

from topics.client.aio import AsyncClient
from topics.client.client import Client
from topics.client.reader import Answer, Reader

__all__ = ["Answer", "AsyncClient", "Client", "Reader"]
