"""What a look at the repository leads to: a swap, a refusal that is told once, or nothing."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import BackendError
from pipeline.infer import Lane
from pipeline.models import Model, add_model, load_repository
from pipeline.swap import Swaps
from tests.unit.infer.makers import FakeBackend
from tests.unit.models import graphs
from tests.unit.models.bad_models import BAD_MODELS, BadModel, good_model, write_manifest


class FakeFlow:
    """Serves what it is told to; ``trouble`` is what preparing a version raises."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.trouble: dict[str, Exception] = {}
        self.prepared: list[str] = []
        self.history = [model.label for model in models]
        self._models = {model.name: model for model in models}

    def models(self) -> list[Model]:
        return list(self._models.values())

    def prepare(self, model: Model) -> Lane:
        self.prepared.append(model.version)
        if (trouble := self.trouble.get(model.version)) is not None:
            raise trouble
        return Lane(model, FakeBackend(), lambda lane, batch: None, [])

    async def swap(self, lane: Lane) -> None:
        self._models[lane.model.name] = lane.model
        self.history.append(lane.model.label)


class Bench:
    """A repository with version 1 of ``plus``, which serves."""

    def __init__(self, folder: Path) -> None:
        self.models, self.sources = folder / "models", folder / "source"
        self.one = self.add()
        self.flow = FakeFlow(load_repository(self.models))
        self.swaps = Swaps(self.models, self.flow)

    def add(self, **options: Any) -> Model:
        return good_model(self.models, self.sources, **options)

    async def look(self, times: int = 1) -> list[str]:
        for _ in range(times):
            await self.swaps._look()
        return self.flow.history[1:]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.ERROR)
    return lambda: caplog.messages


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_a_newer_version_is_swapped_in_once_it_has_settled(bench: Bench) -> None:
    async def scenario() -> None:
        assert await bench.look(2) == []
        bench.add()
        assert await bench.look() == []
        assert await bench.look() == ["plus/2"]
        bench.add(version="10")
        bench.add(version="9")
        assert await bench.look(3) == ["plus/2", "plus/10"]

    run(scenario())


def test_a_copy_under_way_is_left_alone_and_taken_when_it_is_whole(bench: Bench, told: Callable[[], list[str]]) -> None:
    async def scenario() -> None:
        whole = bench.add(version="2")
        shutil.move(whole.path, staged := bench.models.parent / "staged")
        whole.path.mkdir()
        await bench.look()
        for path in sorted(staged.iterdir()):
            shutil.move(path, whole.path)
            assert await bench.look() == []
        assert await bench.look() == ["plus/2"]
        assert told() == []

    run(scenario())


def test_a_refusal_is_told_once_and_what_changed_is_tried_again(bench: Bench, told: Callable[[], list[str]]) -> None:
    async def scenario() -> None:
        two = bench.add()
        good = two.file.read_bytes()
        two.file.write_bytes(good[:-1])
        assert await bench.look(5) == []
        (line,) = told()
        assert line.startswith(f"refused, plus/1 serves on: {two.file}: its sha256 is ")
        assert "\n" not in line
        two.file.write_bytes(good)
        assert await bench.look(2) == ["plus/2"]

    run(scenario())


@pytest.mark.parametrize("error", [BackendError("out of memory"), RuntimeError("a bug"), MemoryError()])
def test_whatever_goes_wrong_while_preparing_the_old_version_serves_on(
    error: Exception, bench: Bench, told: Callable[[], list[str]]
) -> None:
    async def scenario() -> None:
        bench.add()
        bench.flow.trouble = {"2": error}
        assert await bench.look(4) == []
        assert (bench.flow.prepared, len(told())) == (["2"], 1)

    run(scenario())


def test_a_signal_looks_at_once_and_tries_again_what_was_refused(bench: Bench) -> None:
    async def scenario() -> None:
        bench.add()
        bench.flow.trouble = {"2": BackendError("out of memory")}
        await bench.look(3)
        bench.flow.trouble = {}
        assert await bench.look(3) == []
        async with bench.swaps:
            bench.swaps.look_now()
            while len(bench.flow.history) < 2:
                await asyncio.sleep(0.01)
        assert bench.flow.history == ["plus/1", "plus/2"]

    run(scenario())


def test_where_the_newest_is_refused_the_next_newer_one_is_taken(bench: Bench) -> None:
    async def scenario() -> None:
        two, three = bench.add(), bench.add()
        three.file.write_bytes(b"broken")
        assert await bench.look(4) == ["plus/2"]
        shutil.rmtree(two.path)
        assert await bench.look(2) == ["plus/2"], "what serves needs its directory no more"

    run(scenario())


def test_a_model_of_another_signature_is_refused_by_what_serves(bench: Bench, told: Callable[[], list[str]]) -> None:
    async def scenario() -> None:
        add_model(bench.models, graphs.pick(bench.sources / "pick.onnx"), name="plus")
        assert await bench.look(3) == []
        (line,) = told()
        assert "its inputs are at int64[], image float32[2, 2], but those of plus/1, in use, are x float32[3]" in line
        assert bench.flow.prepared == []

    run(scenario())


def test_each_model_is_looked_at_for_itself(bench: Bench) -> None:
    other = add_model(bench.models, graphs.add(bench.sources / "other.onnx"))
    bench.flow = FakeFlow([bench.one, other])
    bench.swaps = Swaps(bench.models, bench.flow)

    async def scenario() -> None:
        add_model(bench.models, graphs.add(bench.sources / "other.onnx"))
        add_model(bench.models, graphs.add(bench.sources / "third.onnx"))
        await bench.look(3)
        assert bench.flow.history == ["plus/1", "other/1", "other/2"]

    run(scenario())


@pytest.mark.parametrize("bad", BAD_MODELS, ids=lambda bad: bad.kind)
def test_no_bad_model_takes_the_place_of_a_good_one(bad: BadModel, bench: Bench, told: Callable[[], list[str]]) -> None:
    async def scenario() -> None:
        write_manifest(bad.spoil(bench.add()))
        assert await bench.look(3) == []
        (line,) = told()
        assert line.startswith("refused, plus/1 serves on: ")
        assert bench.flow.prepared == []

    run(scenario())
