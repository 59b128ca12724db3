"""Grades a week of a course folder again, after a check was mended, and shows whom that changes before anything is entered."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from autograder import UserError, report, results
from autograder.intake import clean
from autograder.judge.runner import ROOT
from autograder.manifest import Course, Week
from autograder.marking import gradebook, marks, nbcourse
from autograder.marking.marks import rounded


class RegradeError(UserError):
    """The week cannot be graded again, or not be entered; the text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """One cell whose score changes; `stands` is the TA's score that goes before the judge's, or None."""

    name: str
    before: Fraction | None
    after: Fraction
    stands: Fraction | None


@dataclass(frozen=True, slots=True)
class Delta:
    """What changes for one student: the cells, and the course mark."""

    student: str
    changes: tuple[Change, ...]
    before: Fraction
    after: Fraction


@dataclass(frozen=True, slots=True)
class Preview:
    """What a regrading found: the changes, how many submissions were compared, and who is not graded, with the reason."""

    deltas: list[Delta]
    compared: int
    ungraded: dict[str, str]


def preview(root: Path, course: Course, week: Week, jobs: int | None = None, quiet: bool = False) -> Preview:
    """Grade the week again beside its results, with the same seed, and compare with the gradebook. Nothing is entered.

    What the mended check does not concern is not run again.

    Raises:
        UserError: if the week was never graded in this folder, or the judge could not run.
    """
    held, again = _folders(root, week)
    if not held.is_dir() and again.is_dir():
        os.rename(again, held)  # `apply` was stopped between its two moves
    run = results.read(held)[0] if held.is_dir() else None
    if run is None:
        raise RegradeError(f"{week.folder} was never graded in {root}: run `nbgrader autograde {week.folder}` there first")
    known = results.read_run(again)
    if known is None or known.get("seed") != run.get("seed"):
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(held, again, ignore=shutil.ignore_patterns(".lock"))
    command = [sys.executable, "-m", "autograder", "grade", str(root / "submitted"), "--week", str(week.number)]
    command += ["--out", str(again), "--isolation", run["isolation"]]
    command += ["--notebooks"] * bool(week.questions) + ["--quiet"] * quiet + (["--jobs", str(jobs)] if jobs else [])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1):  # 1: somebody is ungraded
        raise RegradeError(f"{week.folder} could not be graded again; what was wrong stands above")
    found = _compare(root, course, week, again)
    results.replace(again / "regrade.csv", delta_csv(found))
    return found


def apply(root: Path, week: Week, found: Preview) -> None:
    """Make the previewed results those of the week, and have nbgrader enter them. Manual scores stay.

    Raises:
        RegradeError: if somebody who had a score would be without, or nbgrader could not enter them.
    """
    if found.ungraded:
        student, why = next(iter(found.ungraded.items()))
        raise RegradeError(f"{student} and {len(found.ungraded) - 1} more are not graded ({why}): nothing is entered")
    held, again = _folders(root, week)
    with results.locked(again):
        os.rename(held, held.with_name(f"{held.name}.before-{time.strftime('%Y%m%d-%H%M%S')}"))
        os.rename(again, held)
    command = [sys.executable, "-m", "nbgrader", "autograde", week.folder, "--force", "--log-level", "WARN"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RegradeError(f"nbgrader could not enter everything: run `nbgrader autograde {week.folder} --force` in {root}")


def _compare(root: Path, course: Course, week: Week, again: Path) -> Preview:
    book = gradebook.read(root)
    ungraded: dict[str, str] = {}
    scores: dict[str, dict[tuple[str, str], float]] = {}
    labs = results.read_labs(again) if week.questions else {}
    for result in results.read(again)[1]:
        student = result["student"]
        lab = labs.get(student)
        if (student, week.folder) not in book.submissions:
            continue  # `nbgrader autograde` enters them for the first time
        for one in (result, lab):
            if one is not None and one["status"] != "graded":
                ungraded[student] = one["message"]
        if student not in ungraded:
            code = {(nbcourse.CODE, name): score for name, score in gradebook.code_scores(result).items()}
            own = {(week.folder, name): score for name, score in gradebook.lab_scores(week, lab).items()} if lab else {}
            scores[student] = code | own
    before = {mark.person.student: mark.total for mark in marks.load(root, course)}
    new = {(student, week.folder): found for student, found in scores.items()}
    after = {mark.person.student: mark.total for mark in marks.load(root, course, scores=new)}
    deltas = []
    for student, found in scores.items():
        cells = book.submissions[student, week.folder].cells
        changes = [
            Change(name[1], cells[name].auto, gradebook.exact(score), cells[name].manual)
            for name, score in found.items()
            if name in cells and cells[name].auto != gradebook.exact(score)
        ]
        if changes or before[student] != after[student]:  # the mark alone: another member of the team has changed
            deltas.append(Delta(student, tuple(changes), before[student], after[student]))
    known = {delta.student for delta in deltas}
    others = [name for name in before if name not in known and before[name] != after[name]]
    deltas += [Delta(name, (), before[name], after[name]) for name in others]
    return Preview(sorted(deltas, key=lambda delta: delta.student), len(scores), ungraded)


def lines(found: Preview, week: Week) -> list[str]:
    """The table that a person reads before applying it."""
    if not found.deltas:
        return [f"{found.compared} compared: nothing changes", *_ungraded(found)]
    width = max(7, *(report.columns(clean(delta.student)[:30]) for delta in found.deltas))
    shown = [f"{'student':<{width}}  {'mark':>16}  what changes in {week.folder}"]
    for delta in found.deltas:
        mark = f"{rounded(delta.before)} -> {rounded(delta.after)}" if delta.before != delta.after else rounded(delta.after)
        what = "; ".join(map(_change, delta.changes)) or "through the group"
        shown.append(f"{report.fill(clean(delta.student)[:30], width)}  {mark:>16}  {what}")
    lose = [delta for delta in found.deltas if delta.after < delta.before]
    gain = [delta for delta in found.deltas if delta.after > delta.before]
    total = f"{len(found.deltas)} of {found.compared} change: {len(gain)} gain, {len(lose)} lose"
    if lose:
        worst = min(lose, key=lambda delta: delta.after - delta.before)
        total += f" (most: {clean(worst.student)}, {rounded(worst.after - worst.before)})"
    return [*shown, total, *_ungraded(found)]


def delta_csv(found: Preview) -> str:
    """The same as a table: a row for each cell that changes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["student", "cell", "before", "after", "manual", "mark_before", "mark_after"])
    for delta in found.deltas:
        name, both = results.spreadsheet_safe(delta.student), [rounded(delta.before), rounded(delta.after)]
        for one in delta.changes:
            row = ["" if value is None else rounded(value) for value in (one.before, one.after, one.stands)]
            writer.writerow([name, one.name, *row, *both])
        if not delta.changes:
            writer.writerow([name, "", "", "", "", *both])
    return out.getvalue()


def _change(one: Change) -> str:
    before = "-" if one.before is None else rounded(one.before)
    stands = f" (a TA's {rounded(one.stands)} stands)" if one.stands is not None else ""
    return f"{one.name} {before} -> {rounded(one.after)}{stands}"


def _ungraded(found: Preview) -> list[str]:
    return [f"NOT graded, through no fault of theirs: {clean(name)}: {clean(why)}" for name, why in found.ungraded.items()]


def _folders(root: Path, week: Week) -> tuple[Path, Path]:
    held = nbcourse.results_folder(root, week)
    return held, held.with_name(f"{held.name}.regrade")
