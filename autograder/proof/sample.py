"""Writes a sample class to try the grader on: right answers, wrong ones, unfinished ones and broken ones, from the bank."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from autograder import UserError, bank
from autograder.authoring import build
from autograder.judge.runner import reference_stub
from autograder.manifest import Week

_NAMES = ("Ada Lovelace", "王小明", "Emmy Noether", "Srinivasa R.", "李 华", "O'Neill, Jr.", "Sofía Núñez", "=SUM(A1)")


def write(folder: Path, week: Week, students: int) -> int:
    """Write `students` folders below `folder`; the same call writes the same class. Returns how many were written.

    Raises:
        UserError: if the week has no bank, or the folder holds something else.
    """
    source = reference_stub(week).read_text(encoding="utf-8")
    wrong = bank.mutants(week, source)
    right = bank.alternatives(week)
    if not wrong or not right:
        raise UserError(f"week {week.number} has no bank of answers to make a class from")
    marker = folder / ".sample-class"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise UserError(f"{folder} holds something else: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("written by `autograder sample`\n", encoding="utf-8")

    def one_right(place: Path, i: int) -> None:
        if i % 2:
            shutil.copytree(right[i // 2 % len(right)].parent, place, dirs_exist_ok=True)
        else:
            (place / week.stub).write_text(source, encoding="utf-8")

    # As in a real class, many share a few mistakes, and the others are rare.
    shared = [wrong[37 * k % len(wrong)] for k in (3, 2, 3, 1, 3)]

    def one_wrong(place: Path, i: int) -> None:
        mutant = wrong[i * 7 % len(wrong)] if i % 4 == 1 else shared[i % len(shared)]
        (place / week.stub).write_text(mutant.source, encoding="utf-8")

    def unfinished(place: Path, i: int) -> None:
        done = {task.id for task in week.tasks[: 1 + i % max(1, len(week.tasks) - 1)]}
        (place / week.stub).write_text(build.stub_source(source, week, keep=done), encoding="utf-8")

    def broken(place: Path, i: int) -> None:
        text = source.replace("class ", "class", 1) if i % 3 == 0 else source
        name = week.stub if i % 3 != 1 else week.stub.replace(".py", " (1).py")
        (place / name).write_text("" if i % 3 == 2 else text, encoding="utf-8")

    kinds: tuple[Callable[[Path, int], None], ...] = (one_right, one_wrong, one_wrong, one_right, one_wrong, unfinished)
    for i in range(students):
        name = _NAMES[i // 3 % len(_NAMES)] if i % 3 == 0 and i < 3 * len(_NAMES) else f"student-{i:03d}"
        place = folder / name / (week.folder if i % 2 else "")
        place.mkdir(parents=True, exist_ok=True)
        (broken if i % 12 == 8 else kinds[i % len(kinds)])(place, i // 12 if i % 12 == 8 else i // 2)
    return students
