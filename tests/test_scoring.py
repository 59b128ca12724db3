"""Weights, gates and statuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autograder.judge.check import CheckInfo, check
from autograder.judge.scoring import Outcome, headline, share, status

KINDS = ("passed", "wrong", "error", "unattempted", "timeout", "crash")


def outcome(kind: str, weight: float = 1, gate: bool = False) -> Outcome:
    return Outcome(kind, "a property", CheckInfo("4.1", weight, gate, "basic"), kind, "" if kind == "passed" else f"{kind}!")


outcomes = st.lists(st.builds(outcome, st.sampled_from(KINDS), st.sampled_from([1, 2, 0.5]), st.booleans()), min_size=1)


def test_partial_credit_is_by_weight() -> None:
    assert share([outcome("passed", 3), outcome("wrong", 1)]) == 0.75
    assert share([outcome("passed", 3, gate=True), outcome("wrong", 1)]) == 0.75
    assert share([outcome("passed", 3), outcome("wrong", 1, gate=True)]) == 0
    assert share([outcome("passed")]) == 1


def test_no_checks_is_never_a_pass() -> None:
    with pytest.raises(ValueError, match="without checks"):
        share([])


@given(outcomes)
def test_share_and_status_agree(found: list[Outcome]) -> None:
    value = share(found)
    assert 0 <= value <= 1
    assert (value == 1) == all(o.kind == "passed" for o in found) == (status(found) == "passed")
    assert (headline(found) is None) == (value == 1)
    if any(o.kind == "timeout" for o in found):
        assert status(found) == "timeout"


@given(outcomes, st.integers(0, 50), st.sampled_from(KINDS[1:]))
def test_a_failure_never_earns_more_than_a_pass(found: list[Outcome], at: int, kind: str) -> None:
    index = at % len(found)
    better = [*found[:index], outcome("passed", found[index].info.weight, found[index].info.gate), *found[index + 1 :]]
    worse = [*found[:index], outcome(kind, found[index].info.weight, found[index].info.gate), *found[index + 1 :]]
    assert share(worse) <= share(better)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([outcome("unattempted", gate=True), outcome("unattempted")], "unattempted"),
        ([outcome("unattempted", gate=True), outcome("passed")], "unattempted"),
        ([outcome("error", gate=True), outcome("wrong")], "error"),
        ([outcome("crash")], "error"),
        ([outcome("wrong", gate=True), outcome("error")], "failed"),
        ([outcome("passed"), outcome("wrong")], "partial"),
        ([outcome("passed"), outcome("timeout")], "timeout"),
    ],
)
def test_statuses(found: list[Outcome], expected: str) -> None:
    assert status(found) == expected


def test_the_headline_is_a_gates_failure() -> None:
    found = [outcome("unattempted"), outcome("wrong"), outcome("error", gate=True)]
    assert headline(found) is found[2]
    assert headline(found[:2]) is found[1]


def test_a_check_needs_a_docstring_and_a_weight() -> None:
    def test_bare(student) -> None: ...

    with pytest.raises(ValueError, match="no docstring"):
        check("4.1")(test_bare)
    with pytest.raises(ValueError, match="weight 0"):
        check("4.1", weight=0)
