"""The answers that grade the grader: per week, mutants (the reference with one bug, as a patch), held-out spellings of
the same misconceptions, and alternatives (right, written differently). Students never see this folder.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from autograder import UserError
from autograder.manifest import Week

BANK = Path(__file__).parent


class BankError(UserError):
    """A file of the bank is wrong; the text names it."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A wrong but plausible answer.

    Attributes:
        name: the file's name without its ending.
        task: the task that must score below full.
        misconception: what a student who writes this has misunderstood, told to the student (en, zh).
        source: the whole stub file with the bug.
    """

    name: str
    task: str
    misconception: str
    misconception_zh: str
    source: str


def mutants(week: Week, reference: str) -> list[Mutant]:
    """The week's mutants, by name; `reference` is the reference's source.

    Raises:
        BankError: if a file is malformed or its patch does not apply.
    """
    return [_mutant(path, reference) for path in sorted((BANK / week.folder / "mutants").glob("*.toml"))]


def alternatives(week: Week) -> list[Path]:
    """The stub files of the week's alternatives."""
    return sorted((BANK / week.folder / "alternatives").glob(f"*/{week.stub}"))


def _mutant(path: Path, reference: str) -> Mutant:
    place = f"{path.parent.parent.name}/{path.name}"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        source = reference
        for edit in data["edit"]:
            if reference.count(edit["find"]) != 1:
                raise BankError(f"{place}: must occur exactly once in the reference: {edit['find']!r}")
            source = source.replace(edit["find"], edit["replace"])
        return Mutant(path.stem, data["task"], data["misconception"], data["misconception_zh"], source)
    except (KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise BankError(f"{place}: {type(error).__name__}: {error}") from None
