"""`sluice topics`, `produce`, `consume` and `deadletters` on a real broker, with a worker that keeps the contract."""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.local import EmbeddedKafka
from pipeline.models import BUNDLED, Model, add_model
from tests.contract.fake_worker import REJECTED, FakeWorker
from topics.admin import apply_topics
from topics.client import Reader
from topics.client.stream import Outgoing, send_all
from topics.codecs import codec_for
from topics.connect import Connection
from topics.limits import RequestLimits
from topics.names import Topics, topics_of
from topics.records import JSON, RAW

WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)

    def lines(self) -> list[dict[str, Any]]:
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(slots=True)
class Sluice:
    """Runs the command in this process, against one broker."""

    broker: str
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Said:
        self.monkeypatch.setattr(sys, "argv", ["sluice", *arguments])
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self.monkeypatch.setenv("SLUICE_BROKER", self.broker)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        return Said(code, *self.capsys.readouterr())


@pytest.fixture
def sluice(broker: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sluice:
    return Sluice(broker.bootstrap, monkeypatch, capsys)


@pytest.fixture
def worker(broker: EmbeddedKafka, topic: Callable[..., str]) -> Iterator[FakeWorker]:
    model = topic("fake")
    apply_topics(broker.bootstrap, [topics_of(model)], partitions=2)
    with FakeWorker(broker.bootstrap, model) as working:
        yield working


def _request(*x: float, **more: object) -> bytes:
    inputs = [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": list(x)}]
    return json.dumps({"inputs": inputs, **more}).encode() + b"\n"


def _on(broker: str, topic: str, count: int) -> list[Outgoing]:
    """The first ``count`` messages of ``topic``."""
    found: list[Outgoing] = []
    until_s = time.monotonic() + WAIT_S
    with Reader(Connection(broker), topic, "earliest") as reader:
        while len(found) < count and time.monotonic() < until_s:
            found += [Outgoing(m.value(), m.key(), tuple(m.headers() or ())) for m in reader.read(0.1)]  # type: ignore[arg-type]
    return found


@pytest.fixture
def repository(tmp_path: Path, topic: Callable[..., str]) -> Model:
    """A model of a name of its own, in a repository of its own."""
    return add_model(tmp_path / "models", BUNDLED / "digits" / "1", name=topic("digits"))


def test_topics_are_applied_listed_and_verified(sluice: Sluice, repository: Model) -> None:
    models = ["--models", str(repository.path.parents[1])]
    names = [f"{repository.name}.{kind}" for kind in ("requests", "predictions", "dead-letters")]
    assert sluice("topics", "verify", *models).out.splitlines() == [
        f"{name}: topic is missing, should be there" for name in names
    ]
    assert sluice("topics", "apply", *models, "--partitions", "2").code == 0
    again = sluice("topics", "apply", *models, "--json").json()
    assert [(t["topic"], t["action"], t["partitions"]) for t in again["topics"]] == [
        (name, "kept", 2) for name in names
    ]
    assert [t["topic"] for t in sluice("topics", "list", *models, "--json").json()] == names
    assert sluice("topics", "verify", *models, "--json").json() == {"ok": True, "drift": []}
    drifted = sluice("topics", "verify", *models, "--partitions", "3")
    assert (drifted.code, drifted.out.splitlines()[0]) == (1, f"{names[0]}: partitions is 2, should be 3")


def test_what_is_produced_is_answered_and_consumed(sluice: Sluice, worker: FakeWorker) -> None:
    stdin = _request(1, 2) + _request(3, 4, key="k", headers={"request-id": "mine"})
    assert sluice("produce", worker.model, "--json", stdin=stdin).json()["produced"] == 2
    lines = sluice("consume", worker.model, "--from", "earliest", "--count", "2").lines()
    [bare, named] = sorted(lines, key=lambda line: line["request_id"] == "mine")
    assert bare["request_id"] == bare["source"]
    assert bare["outputs"] == {"total": [3.0], "twice": [[2.0, 4.0]]}
    assert (named["key"], named["status"], named["model"]) == ("k", "ok", f"{worker.model}/1")
    assert named.keys() >= {"partition", "offset", "timestamp_ms"}


def test_a_bare_json_line_of_another_program_is_a_request(sluice: Sluice, worker: FakeWorker) -> None:
    send_all(Connection(sluice.broker), worker.topics.requests, [Outgoing(_request(5, 6).strip())])
    [line] = sluice("consume", worker.model, "--from", "earliest", "--count", "1").lines()
    assert line["outputs"]["total"] == [11.0]


def test_our_json_lines_are_what_another_program_would_have_sent(sluice: Sluice, worker: FakeWorker) -> None:
    sluice("produce", worker.model, stdin=_request(5, 6))
    assert _on(sluice.broker, worker.topics.requests, 1) == [Outgoing(_request(5, 6).strip(), None, ())]


def test_options_become_key_and_headers(sluice: Sluice, worker: FakeWorker) -> None:
    before_ms = time.time() * 1000
    options = ["--key", "k", "--deadline-ms", "60000", "--header", "priority=9", "--header", "stages=1"]
    sluice("produce", worker.model, *options, stdin=_request(5, 6))
    [sent] = _on(sluice.broker, worker.topics.requests, 1)
    headers = {name: (value or b"").decode() for name, value in sent.headers}
    assert sent.key == b"k"
    assert before_ms + 60_000 <= int(headers.pop("deadline-ms")) <= time.time() * 1000 + 60_000
    assert headers == {"priority": "9", "stages": "1"}


def test_rows_of_a_file_are_answered_in_raw_and_shown_without_a_signature(
    sluice: Sluice, worker: FakeWorker, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", x=np.ones((5, 2), np.float32))
    options = ["--content-type", "raw", "--rows-per-request", "5"]
    assert sluice("produce", worker.model, str(tmp_path / "rows.npz"), *options).code == 0
    [line] = sluice("consume", worker.model, "--from", "earliest", "--count", "1").lines()
    assert np.frombuffer(base64.b64decode(line["outputs_base64"]), np.float32).tolist() == [2.0] * 5


def test_rows_of_a_known_model_need_no_protocol(sluice: Sluice, repository: Model) -> None:
    apply_topics(sluice.broker, [repository.topics])
    models = ["--models", str(repository.path.parents[1])]
    row = json.dumps({"image": np.ones((1, 8, 8)).tolist()}).encode()
    for content_type in ("json", "arrow", "raw"):
        assert sluice("produce", repository.name, *models, "--content-type", content_type, stdin=row).code == 0
    for sent in _on(sluice.broker, repository.topics.requests, 3):
        codec = codec_for((dict(sent.headers).get("content-type") or JSON.encode()).decode())
        decoded = codec.decode_requests([sent.value], repository.signature.inputs, RequestLimits())
        assert decoded.columns["image"].tolist() == np.ones((1, 1, 8, 8)).tolist()
    refused = sluice("produce", "other", *models)
    assert (refused.code, repository.name in refused.err) == (2, True)


def test_fewer_than_counted_within_the_timeout_is_a_failure(sluice: Sluice, worker: FakeWorker) -> None:
    told = sluice("consume", worker.model, "--from", "earliest", "--count", "1", "--timeout", "0.3")
    assert (told.code, told.out) == (1, "")
    assert "0 of 1 records" in told.err
    assert sluice("consume", worker.model, "--timeout", "0.1").code == 0


def test_records_that_are_not_ours_are_shown_as_such(sluice: Sluice, worker: FakeWorker) -> None:
    send_all(Connection(sluice.broker), worker.topics.predictions, [Outgoing(b"hello", b"\xff")])
    [line] = sluice("consume", worker.model, "--from", "earliest", "--count", "1").lines()
    assert "not a Sluice record" in line["error"]
    assert line["key_base64"] == base64.b64encode(b"\xff").decode()


def test_no_more_than_counted_is_printed(sluice: Sluice, worker: FakeWorker) -> None:
    sluice("produce", worker.model, stdin=_request(1, 2) * 9)
    assert len(_on(sluice.broker, worker.topics.predictions, 9)) == 9
    for count in (1, 4):
        assert len(sluice("consume", worker.model, "--from", "earliest", "--count", str(count)).lines()) == count


def test_partitions_added_to_a_topic_that_is_never_quiet_are_printed(sluice: Sluice, worker: FakeWorker) -> None:
    def busy() -> None:
        apply_topics(sluice.broker, [worker.topics], partitions=3, grow=True)
        producer = Connection(sluice.broker).producer()
        for number in range(80):
            producer.produce(worker.topics.predictions, b"hello", partition=2 if number % 2 else 0)
            producer.poll(0)
            time.sleep(0.1)
        producer.flush(WAIT_S)

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(busy)
        lines = sluice("consume", worker.model, "--from", "earliest", "--count", "30").lines()
        written.result()
    assert {line["partition"] for line in lines} == {0, 2}


def test_a_dead_letter_whose_headers_are_not_text_is_shown_all_the_same(sluice: Sluice, worker: FakeWorker) -> None:
    headers = (("priority", b"\xff"), ("x-error-code", b"bad-header"), ("source", b"t/0/0"))
    send_all(Connection(sluice.broker), worker.topics.dead_letters, [Outgoing(None, None, headers)])
    [line] = sluice("consume", worker.model, "--dead-letters", "--from", "earliest", "--count", "1").lines()
    assert (line["code"], line["source"], line["value"]) == ("bad-header", "t/0/0", None)
    shown = sluice("deadletters", "show", worker.model, f"{line['partition']}/{line['offset']}").out
    assert "priority: /w==" in shown
    assert shown.endswith("(no value)\n")


@pytest.fixture
def rejected(sluice: Sluice, worker: FakeWorker) -> Topics:
    """Three dead letters: malformed text, malformed bytes, and one the model failed on."""
    bad = [
        Outgoing(b"not json", b"a", (("priority", b"3"),)),
        Outgoing(b"\x00\xff", b"b", (("request-id", b"two"), ("content-type", RAW.encode()))),
        Outgoing(_request(REJECTED, 0).strip(), b"c", (("stages", b"1"),)),
    ]
    send_all(Connection(sluice.broker), worker.topics.requests, bad)
    assert len(_on(sluice.broker, worker.topics.dead_letters, 3)) == 3
    return worker.topics


def test_dead_letters_are_counted_by_code_and_listed(sluice: Sluice, worker: FakeWorker, rejected: Topics) -> None:
    told = sluice("deadletters", "list", worker.model, "--json").json()
    assert told["count"] == sum(told["codes"].values()) == 3
    assert told["codes"]["model-failed"] == 1
    assert {letter["key"] for letter in told["dead_letters"]} == {"a", "b", "c"}
    assert all(letter["source"].startswith(rejected.requests) for letter in told["dead_letters"])
    only = sluice("deadletters", "list", worker.model, "--code", "model-failed", "--json").json()
    assert [letter["key"] for letter in only["dead_letters"]] == ["c"]
    assert sluice("deadletters", "list", worker.model, "--limit", "1").out.startswith("3 dead letters")


def test_a_dead_letter_is_shown_whole(sluice: Sluice, worker: FakeWorker, rejected: Topics) -> None:
    letters = sluice("deadletters", "list", worker.model, "--json").json()["dead_letters"]
    places = {letter["key"]: f"{letter['partition']}/{letter['offset']}" for letter in letters}
    shown = sluice("deadletters", "show", worker.model, places["a"]).out
    assert "priority: 3" in shown
    assert shown.endswith("\n\nnot json\n")
    assert "00000000  00ff" in sluice("deadletters", "show", worker.model, places["b"]).out
    told = sluice("deadletters", "show", worker.model, places["b"], "--json").json()
    assert base64.b64decode(told["value_base64"]) == b"\x00\xff"
    assert sluice("deadletters", "show", worker.model, "0/999").code == 1
    assert sluice("deadletters", "show", worker.model, "nonsense").code == 2


def test_dead_letters_are_consumed_as_lines_too(sluice: Sluice, worker: FakeWorker, rejected: Topics) -> None:
    lines = sluice("consume", worker.model, "--dead-letters", "--from", "earliest", "--count", "3").lines()
    values = {line["key"]: (line.get("value"), line["code"], line["stage"]) for line in lines}
    assert values["a"] == ("not json", "malformed", "decode")
    notices = sluice("consume", worker.model, "--from", "earliest", "--count", "3").lines()
    assert {(line["status"], line["key"]) for line in notices} == {("rejected", key) for key in "abc"}
    assert all(line["reason"] for line in notices)


def test_a_replay_is_the_request_again_and_never_stacks_errors(
    sluice: Sluice, worker: FakeWorker, rejected: Topics
) -> None:
    assert sluice("deadletters", "replay", worker.model, "--all", "--dry-run", "--json").json()["replayed"] == 3
    assert len(worker.seen) == 3
    for again in (1, 2):  # what is rejected again lies there again, and is replayed again
        told = sluice("deadletters", "replay", worker.model, "--code", "model-failed", "--json").json()
        assert told["replayed"] == again
        sent = 3 + (2**again - 1)
        assert len(_on(sluice.broker, rejected.dead_letters, sent)) == sent
    requests = [r for r in _on(sluice.broker, rejected.requests, 6) if r.key == b"c"]
    first, *replays = requests
    assert all(replay.value == first.value for replay in replays)
    source = dict(replays[0].headers)["request-id"]
    assert source is not None
    assert source.startswith(rejected.requests.encode())  # the id it had, kept
    assert all(sorted(r.headers) == [("request-id", source), ("stages", b"1")] for r in replays)
    letters = [dict(letter.headers) for letter in _on(sluice.broker, rejected.dead_letters, 6) if letter.key == b"c"]
    assert all(len([name for name in letter if name.startswith("x-error-")]) == 3 for letter in letters)


def test_a_replay_can_take_one_by_source_and_leave_a_header_out(
    sluice: Sluice, worker: FakeWorker, rejected: Topics
) -> None:
    [letter] = [
        found
        for found in sluice("deadletters", "list", worker.model, "--json").json()["dead_letters"]
        if found["key"] == "a"
    ]
    options = ["--source", letter["source"], "--drop-header", "priority"]
    assert sluice("deadletters", "replay", worker.model, *options).code == 0
    again = [r for r in _on(sluice.broker, rejected.requests, 4) if r.key == b"a"][-1]
    assert (again.value, [name for name, _ in again.headers]) == (b"not json", ["request-id"])


def test_a_replay_must_say_which(sluice: Sluice, worker: FakeWorker) -> None:
    for options in ([], ["--all", "--code", "x"]):
        assert sluice("deadletters", "replay", worker.model, *options).code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["produce", "no/slash"], 2, "model name"),
        (["produce", "absent"], 1, "absent.requests does not exist"),
        (["consume", "absent"], 1, "absent.predictions does not exist"),
        (["deadletters", "list", "absent"], 1, "absent.dead-letters does not exist"),
        (["produce", "digits", "no-such-file.jsonl"], 2, "no-such-file.jsonl: no such file"),
        (["produce", "digits", "--content-type", "yaml"], 2, "json, arrow or raw"),
        (["produce", "digits", "--header", "x"], 2, "NAME=VALUE"),
        (["consume", "digits", "--kafka", "sasl.password"], 2, "NAME=VALUE"),
        (["consume", "digits", "--kafka", "no.such=1"], 1, "setting refused"),
        (["consume", "digits", "--models", "/no/such/folder"], 1, "/no/such/folder"),
    ],
)
def test_mistakes_are_told_in_one_line(sluice: Sluice, arguments: list[str], code: int, said: str) -> None:
    told = sluice(*arguments)
    assert (told.code, told.out) == (code, "")
    assert said in told.err
    assert told.err.startswith("sluice: error: ")
    assert told.err.count("\n") == 1


def test_without_any_broker_the_command_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.local.running", lambda: None)
    told = Sluice("", monkeypatch, capsys)("topics", "list")
    assert told.code == 2
    assert "sluice up" in told.err


def test_a_json_content_type_is_no_header(sluice: Sluice, worker: FakeWorker) -> None:
    sluice("produce", worker.model, "--content-type", JSON, stdin=_request(1, 2))
    [sent] = _on(sluice.broker, worker.topics.requests, 1)
    assert sent.headers == ()
