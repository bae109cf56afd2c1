"""No kind of bad request is without its fixtures."""

from __future__ import annotations

from tests.hostile.bombs import bombs
from tests.hostile.cases import hostile_cases
from tests.hostile.header_cases import header_cases
from tests.hostile.kinds import KINDS
from topics.codes import Code

CASES = (*hostile_cases(), *header_cases(), *bombs())
NOT_OF_A_REQUEST = {Code.DEADLINE_PASSED, Code.MODEL_FAILED, Code.PREDICTION_TOO_LARGE}  # have tests of their own


def test_each_kind_has_fixtures_of_distinct_names() -> None:
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)
    assert {kind: sorted(set(named) - set(ids)) for kind, named in KINDS.items() if not set(named) <= set(ids)} == {}
    assert all(KINDS.values())


def test_each_code_has_a_fixture() -> None:
    assert {case.code for case in CASES} == set(Code) - NOT_OF_A_REQUEST
