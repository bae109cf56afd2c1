"""A user's own Faust app on chunks, without a model: what README shows."""

from __future__ import annotations

import logging
import os

import faust
from faust.types import StreamT

from pipeline.intake import Chunk, chunks

log = logging.getLogger(__name__)
app = faust.App(
    os.environ["BESIDE_GROUP"],
    broker=f"kafka://{os.environ['BESIDE_BROKER']}",
    datadir=os.environ["BESIDE_DATA"],
    web_enabled=False,
)


@app.agent(chunks(app, f"{os.environ['BESIDE_GROUP']}.raw"))
async def count(stream: StreamT[Chunk]) -> None:
    """Finishes each chunk in two halves, the later one first."""
    total = 0
    async for chunk in stream:
        total += len(chunk)
        middle = len(chunk) // 2
        chunk.finish(range(middle, len(chunk)))
        chunk.finish(range(middle))
        log.info("counted %d", total)
