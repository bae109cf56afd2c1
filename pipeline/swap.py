"""Hot swap: a newer version in the repository is prepared beside the one that serves, and takes its place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from mode import Service

from pipeline.core.errors import SluiceError
from pipeline.infer import Lane
from pipeline.models import Model, read_model, verify
from pipeline.models.newer import Seen, State, check_replaces, due, look

__all__ = ["Serving", "Swaps"]

log = logging.getLogger(__name__)

POLL_S = 2.0  # a listing per model; a version that appears is in use a few seconds later


class Serving(Protocol):
    """The flow, as a swap sees it."""

    def models(self) -> Sequence[Model]:
        """The versions that serve."""
        ...

    def prepare(self, model: Model) -> Lane:
        """Load and warm a version beside those that serve; blocks, any thread. Raises `SluiceError`."""
        ...

    async def swap(self, lane: Lane) -> None:
        """Let a prepared version take the place of the one that serves; return when that one is freed."""
        ...


class Swaps(Service):
    """Polls the repository for newer versions of what serves and has them swapped in, one at a time.

    A version is tried once nothing in its directory has changed between two looks. One that is refused, for whatever
    reason, is told once, and tried again only when it changes or `look_now` is called; what serves goes on meanwhile,
    also where its own directory was removed. Models that were not there at the start need a new worker: their topics
    are not subscribed.
    """

    def __init__(self, repository: Path, flow: Serving, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._repository = repository
        self._flow = flow
        self._now = asyncio.Event()
        self._before: dict[Path, State] = {}
        self._refused: dict[Path, State] = {}

    def look_now(self) -> None:
        """Look at once, and try as they are those that may be under way or were refused. Event loop only."""
        self._now.set()

    @Service.task
    async def _watch(self) -> None:
        while not self.should_stop:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._now.wait(), POLL_S)
            if self._now.is_set():
                self._now.clear()
                self._refused.clear()
                await self._look(at_once=True)
            else:
                await self._look()

    async def _look(self, *, at_once: bool = False) -> None:
        loop = asyncio.get_running_loop()
        states: dict[Path, State] = {}
        for model in self._flow.models():
            seen = await loop.run_in_executor(None, look, self._repository / model.name, model.version)
            now = {each.path: each.state for each in seen}
            states |= now
            for each in due(seen, now if at_once else self._before, self._refused):
                if await self._try(each, model):
                    break
        self._before = states
        self._refused = {path: state for path, state in self._refused.items() if path in states}

    async def _try(self, seen: Seen, serving: Model) -> bool:
        try:
            # In a thread that cannot be interrupted: a stop has drained and committed before it waits for it.
            lane = await asyncio.get_running_loop().run_in_executor(None, self._prepare, seen.path, serving)
        except SluiceError as error:
            log.error("refused, %s serves on: %s", serving.label, error)  # noqa: TRY400 - a line, no traceback
        except Exception:  # a runtime may raise anything of its own: what serves goes on
            log.exception("refused, %s serves on: %s", serving.label, seen.path)
        else:
            await self._flow.swap(lane)
            return True
        self._refused[seen.path] = seen.state
        return False

    def _prepare(self, path: Path, serving: Model) -> Lane:
        model = read_model(path)
        verify(model)
        check_replaces(model, serving)
        log.info("%s is prepared beside %s: until the swap memory holds both", model.label, serving.label)
        return self._flow.prepare(model)
