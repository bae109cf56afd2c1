"""A topic that was deleted and made again, or cut off, while its requests are in flight: offsets come a second time."""

from __future__ import annotations

from typing import Any, cast

from pipeline.commit import Ledger
from pipeline.core.limits import Limits
from pipeline.intake import Chunk, Intake
from tests.unit.intake.messages import TOPIC, message

KEY = (TOPIC, 0)


class Loop:
    """An event loop that calls at once."""

    def call_soon_threadsafe(self, call: Any, *arguments: Any) -> None:
        call(*arguments)


class Consumer:
    def get_watermark_offsets(self, partition: object, *, cached: bool) -> tuple[int, int]:
        return 0, 9


def test_requests_at_offsets_that_were_there_before_are_an_assignment_of_their_own() -> None:
    intake, polled = Intake({}, ledger=Ledger(), limits=Limits()), list[Chunk]()
    intake.route(TOPIC, polled.append)
    intake._running = cast(Any, Loop())
    intake.ledger.assign([KEY])
    for count in (5, 3):
        intake._hand_over(cast(Any, Consumer()), [message(offset) for offset in range(count)])
    old, new = polled
    assert not intake.ledger.is_current(old) and intake.ledger.is_current(new)
    assert intake.ledger.in_flight_requests == 3, "the old ones were given back"
    assert old.finish([4]) == 0
    assert old.finish() == 0
    assert intake.ledger.committable() == {}, "nothing of the new ones is answered"
    assert new.finish() == 3
    assert intake.ledger.committable() == {KEY: 3}
    assert (intake.ledger.in_flight_requests, intake.ledger.in_flight_bytes) == (0, 0)
