"""A right answer's structure with other numbers earns nothing, and neither do a right answer's replies of another seed."""

from __future__ import annotations

import pytest

from autograder.manifest import Course
from tests import forgers
from tests.conftest import NIGHTLY

FORGERS = ("replay", "zeros", "ones", "huge", "overflowing_squares", "tiny")
WEEKS = tuple(range(1, 13)) if NIGHTLY else (2, 12)
# Tasks whose whole answer is no number that depends on the run, and why: docs/threat-model.md says so.
NO_REPLAY_SHOWS = {
    "5.1": "the answer is a constant, NF4's codebook",
    "10.3": "all that is observed is which fingerprints are equal",
}
# Tasks in which no floating-point number is observed, so that there is nothing to forge.
NO_FLOATS = {"5.6", "7.6", "8.4", "10.3", "12.3", "12.4"}


@pytest.fixture(scope="module", params=WEEKS)
def found(request: pytest.FixtureRequest, course: Course) -> dict[str, dict[str, float]]:
    return forgers.results(
        course.week(request.param), 987654321, {name: forgers.NUMBERS[name] for name in FORGERS if name != "replay"}
    )


@pytest.mark.parametrize("name", FORGERS)
def test_the_right_structure_with_other_numbers_earns_nothing(found: dict[str, dict[str, float]], name: str) -> None:
    assert set(found["none"].values()) == set(found["public"].values()) == {1.0}, "the wire itself costs nothing"
    known = set(NO_REPLAY_SHOWS) if name == "replay" else NO_FLOATS
    assert {task: share for task, share in found[name].items() if share and task not in known} == {}
