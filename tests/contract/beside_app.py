"""A user's module for ``faust -A``: the flow of a model and an ordinary Faust agent in one app.

With ``BESIDE_FLOW=0`` it is the same Faust app without the flow: another member of the ordinary agents' group.
"""

from __future__ import annotations

import os
from pathlib import Path

import faust
from faust.types import StreamT

from pipeline import create_app
from pipeline.core.settings import Settings
from pipeline.models import load_repository

broker, group = os.environ["BESIDE_BROKER"], os.environ["BESIDE_GROUP"]
if os.environ["BESIDE_FLOW"] == "1":
    app = create_app(load_repository(Path(os.environ["BESIDE_MODELS"])), Settings(broker, group=group))
else:
    app = faust.App(
        f"{group}-agents",
        broker=f"kafka://{broker}",
        datadir=os.environ["BESIDE_DATA"],
        web_enabled=False,
        topic_disable_leader=True,
        table_standby_replicas=0,  # part of the protocol that members of a Faust group must share
    )

plain = app.topic(f"{group}.plain", value_type=bytes, value_serializer="raw")
upper = app.topic(f"{group}.upper", value_type=bytes, value_serializer="raw")


@app.agent(plain)
async def shout(stream: StreamT[bytes]) -> None:
    """An ordinary agent: one event at a time through Faust's own transport."""
    async for value in stream:
        await upper.send(value=value.upper())
