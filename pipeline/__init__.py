"""Sluice: models behind Kafka."""
