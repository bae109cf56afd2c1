"""How long a poll lets requests gather behind its first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from pipeline.commit import Ledger
from pipeline.core.limits import Limits
from pipeline.intake import Intake
from pipeline.intake.consumer import ConsumerLike
from tests.unit.intake.messages import TOPIC, message


class Consumer:
    """Has a first message, and what came meanwhile."""

    def __init__(self, *, empty: bool = False) -> None:
        self.empty = empty
        self.heard: list[str] = []

    def poll(self, timeout: float) -> Any:
        return None if self.empty else message(0)

    def consume(self, count: int, timeout: float) -> Sequence[Any]:
        self.heard.append("consume")
        return [message(1), message(2)]


@pytest.mark.parametrize(
    ("gather_s", "empty", "heard"),
    [(0.25, False, ["wait 0.25", "consume"]), (0.0, False, ["consume"]), (0.25, True, [])],
)
def test_requests_gather_behind_the_first_for_as_long_as_it_is_said(
    gather_s: float, empty: bool, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = Consumer(empty=empty)
    intake = Intake({}, ledger=Ledger(), limits=Limits())
    intake.gather_s = lambda: gather_s
    monkeypatch.setattr(intake._stopping, "wait", lambda s: consumer.heard.append(f"wait {s}"))
    intake.ledger.assign([(TOPIC, 0)])
    messages = intake._poll(cast(ConsumerLike, consumer), 1000)
    assert [each.offset() for each in messages] == ([] if empty else [0, 1, 2])
    assert consumer.heard == heard
