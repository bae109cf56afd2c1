"""Runs batches on a device: slots, the device thread, one backend per runtime."""

from pipeline.infer.backend import Backend, Slot
from pipeline.infer.batch import Batch, Joined, Piece, Run
from pipeline.infer.device import Device, DeviceState, Lane

__all__ = ["Backend", "Batch", "Device", "DeviceState", "Joined", "Lane", "Piece", "Run", "Slot"]
