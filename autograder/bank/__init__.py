"""The answers that grade the grader: per week, mutants (the reference with one bug, as a patch), held-out spellings of
the same misconceptions, and alternatives (right, written differently); and what TAs need: comments for the code review
(comments.toml) and examples to mark (calibration/). Students never see this folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
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


def translations(week: Week, reference: Path) -> dict[tuple[str, str], str]:
    """The Chinese of the week's misconceptions, by task and English text; none where the reference is not at hand."""
    try:
        found = mutants(week, reference.read_text(encoding="utf-8"))
    except OSError:
        return {}
    return {(mutant.task, mutant.misconception): mutant.misconception_zh for mutant in found}


def alternatives(week: Week) -> list[Path]:
    """The stub files of the week's alternatives."""
    return sorted((BANK / week.folder / "alternatives").glob(f"*/{week.stub}"))


def calibration(week: Week) -> list[Path]:
    """The week's calibration examples, stub files under other names; see autograder.reports.calibration."""
    return sorted((BANK / week.folder / "calibration").glob("*.py"))


@dataclass(frozen=True, slots=True)
class Heldout:
    """Another spelling of a mutant's misconception, never replayed for diagnosis: its accuracy is measured on these.

    Attributes:
        name: the file's name without its ending.
        mutant: whose misconception it should be told.
        source: the whole stub file.
        beside: a folder with the helper modules that it imports.
    """

    name: str
    mutant: Mutant
    source: str
    beside: Path | None


def heldout(week: Week, reference: str) -> list[Heldout]:
    """The week's held-out spellings, by name: whole files, or patches of the reference or of an alternative.

    Raises:
        BankError: if a file is malformed, its patch does not apply, or it names no mutant of the week.
    """
    known = {m.name: m for m in mutants(week, reference)}
    bases = {path.parent.name: path for path in alternatives(week)}
    folder = BANK / week.folder / "heldout"
    return [_heldout(path, known, reference, bases) for path in sorted([*folder.glob("*.py"), *folder.glob("*.toml")])]


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A generated change of the reference that no contract forbids, so that no check may notice it.

    Attributes:
        where, before, after: as in autograder.proof.mutate.Generated.
        reason: why a submission with it is right.
    """

    where: str
    before: str
    after: str
    reason: str


def equivalents(week: Week) -> list[Equivalent]:
    """The changes listed by hand in the week's equivalents.toml, if it has one.

    Raises:
        BankError: if the file is malformed.
    """
    path = BANK / week.folder / "equivalents.toml"
    if not path.is_file():
        return []
    with _naming(path):
        return [Equivalent(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", [])]


def _mutant(path: Path, reference: str) -> Mutant:
    with _naming(path) as place:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        source = _patched(reference, data["edit"], place)
        return Mutant(path.stem, data["task"], data["misconception"], data["misconception_zh"], source)


def _heldout(path: Path, known: dict[str, Mutant], reference: str, bases: dict[str, Path]) -> Heldout:
    with _naming(path) as place:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            return Heldout(path.stem, known[text.partition("\n")[0].removeprefix("# mutant:").strip()], text, None)
        data = tomllib.loads(text)
        base = bases[data["of"]] if "of" in data else None
        source = _patched(base.read_text(encoding="utf-8") if base else reference, data["edit"], place)
        return Heldout(path.stem, known[data["mutant"]], source, base.parent if base else None)


def _patched(source: str, edits: list[dict[str, str]], place: str) -> str:
    for edit in edits:
        if source.count(edit["find"]) != 1:
            raise BankError(f"{place}: must occur exactly once in the file that it patches: {edit['find']!r}")
        source = source.replace(edit["find"], edit["replace"])
    return source


@contextmanager
def _naming(path: Path) -> Iterator[str]:
    place = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    try:
        yield place
    except (KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise BankError(f"{place}: {type(error).__name__}: {error}") from None
