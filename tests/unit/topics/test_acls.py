"""Which permissions are wanted, which are missing and which are too many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from topics.acls import Acl, client_acls, drift, plan, worker_acls
from topics.errors import InputError
from topics.names import topics_of

MODEL = topics_of("m")
WORKER, CLIENT = "User:w", "User:c"
WANTED = [*worker_acls(WORKER, [MODEL], "g"), *client_acls(CLIENT, [MODEL])]


def words(acls: list[Acl]) -> set[str]:
    return {str(acl) for acl in acls}


def test_a_worker_may_do_just_its_part() -> None:
    assert words(worker_acls(WORKER, [MODEL], "g")) == {
        f"{where} by User:w"
        for what in ("m.requests: read", "m.predictions: write", "m.dead-letters: write", "group g: read")
        for where in (what, f"{what.partition(':')[0]}: describe")
    } | {"transactional_id g.*: write by User:w", "transactional_id g.*: describe by User:w"}


def test_a_client_may_do_just_its_part() -> None:
    assert words(client_acls(CLIENT, [MODEL])) == {
        "m.requests: write by User:c",
        "m.requests: describe by User:c",
        "m.predictions: read by User:c",
        "m.predictions: describe by User:c",
        "group sluice-reader*: describe by User:c",
    }


def test_only_transactional_ids_and_readers_are_by_prefix() -> None:
    assert {acl.resource for acl in WANTED if acl.prefixed} == {"transactional_id", "group"}
    assert {acl.name for acl in WANTED if acl.prefixed} == {"g.", "sluice-reader"}


def test_several_models_share_the_group_s_permissions() -> None:
    both = worker_acls(WORKER, [MODEL, topics_of("n")], "g")
    assert len(both) == len(set(both)) == len(worker_acls(WORKER, [MODEL], "g")) + 6


def test_a_plan_has_what_is_missing_once_and_nothing_when_all_is_there() -> None:
    assert plan([*WANTED, *WANTED], []) == sorted(WANTED)
    assert plan(WANTED, WANTED[1:]) == [WANTED[0]]
    assert plan(WANTED, [*WANTED, Acl("User:other", "topic", "x", "read")]) == []


def test_drift_tells_what_is_missing_and_what_is_too_much() -> None:
    assert drift(WANTED, WANTED) == []
    assert [str(d) for d in drift(WANTED[:1], [])] == ["group g: read by User:w is missing, should be allowed"]
    extra = [
        Acl(WORKER, "topic", "x", "all"),
        replace(WANTED[0], allowed=False),
        replace(WANTED[0], host="10.0.0.1"),
        Acl("User:other", "topic", "m.requests", "all"),
    ]
    assert [str(d) for d in drift(WANTED, [*WANTED, *extra])] == [
        "group g: read by User:w is denied, should be left out",
        "group g: read by User:w from 10.0.0.1 is allowed, should be left out",
        "x: all by User:w is allowed, should be left out",
    ]


@pytest.mark.parametrize("name", ["worker", "", ":w", "User:"])
def test_a_principal_has_a_type(name: str) -> None:
    with pytest.raises(InputError, match="User:worker"):
        worker_acls(name, [MODEL], "g")
