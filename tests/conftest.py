"""Fixtures that many tests share, and what happens where bubblewrap cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported by anything: two threads on a busy machine are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from autograder.grading.sandbox import bwrap_problem
from autograder.manifest import Course, Week, load

if TYPE_CHECKING:
    from tests.guide import Copy, Ran

ROOT = Path(__file__).parents[1]
NIGHTLY = bool(os.environ.get("NIGHTLY"))  # make nightly: all of what `make test` tries a part of
_PROBLEM = bwrap_problem()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("bwrap") and _PROBLEM:
        # A run that skips the sandbox proves nothing about it, so CI does not accept one.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(_PROBLEM)


@pytest.fixture(scope="session")
def course() -> Course:
    return load()


@pytest.fixture(scope="session")
def week(course: Course) -> Week:
    return course.week(4)


@pytest.fixture(scope="module")
def records(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The numbers that the notebook of the week whose folder the test is in recorded; it is executed once."""
    from tests.notebooks import executed

    return executed(int(request.path.parent.name.removeprefix("week"))).records


@pytest.fixture(scope="session")
def level() -> str:
    """The best isolation that this machine has."""
    return "process" if _PROBLEM else "bwrap"


@pytest.fixture(scope="module")
def followed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Copy, dict[str, Ran]]:
    """A copy of the repository in which the BLOCKS of the test's module were followed, and what its commands said."""
    from tests.guide import Copy

    folder = tmp_path_factory.mktemp("guide")
    copy = Copy(folder / "repository", folder / "bin")
    return copy, copy.follow(request.module.BLOCKS)


@pytest.fixture(scope="module")
def copy(followed: tuple[Copy, dict[str, Ran]]) -> Copy:
    return followed[0]


@pytest.fixture(scope="module")
def ran(followed: tuple[Copy, dict[str, Ran]]) -> dict[str, Ran]:
    return followed[1]
