"""Reads nbgrader's gradebook, and enters the judge's scores through its API. Manual scores and comments stay as they are."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from nbgrader.api import (
    Assignment,
    BaseCell,
    Grade,
    Gradebook,
    GradeCell,
    MissingEntry,
    Notebook,
    Student,
    SubmittedAssignment,
    SubmittedNotebook,
)
from sqlalchemy import select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from autograder import UserError
from autograder.manifest import Week
from autograder.marking import nbcourse
from autograder.results import Result

# nbgrader calls alembic by its name, which a Python that was started by its path does not find.
if (_programs := str(Path(sys.executable).parent)) not in os.environ.get("PATH", "").split(os.pathsep):
    os.environ["PATH"] = os.pathsep.join([_programs, os.environ.get("PATH", os.defpath)])


class GradebookError(UserError):
    """The gradebook lacks something; the text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in the gradebook about one graded cell of a submission.

    Attributes:
        auto: the judge's score, None if it gives none here.
        manual: a TA's score, which goes before the judge's.
        waits: whether a TA has to look at it.
    """

    auto: Fraction | None
    manual: Fraction | None
    extra: Fraction
    maximum: Fraction
    waits: bool

    @property
    def score(self) -> Fraction:
        """What counts: a cell that nobody has scored is 0."""
        base = self.manual if self.manual is not None else self.auto
        return Fraction(0) if base is None else base + self.extra

    @property
    def pending(self) -> bool:
        """Whether the score may still change because somebody has to give it."""
        return self.waits or (self.manual is None and self.auto is None)


@dataclass(frozen=True, slots=True)
class Submission:
    """One student's submission of one assignment; times in UTC.

    Attributes:
        cells: by (notebook, name of the cell).
    """

    received: datetime.datetime | None
    extension: datetime.timedelta
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    @property
    def maximum(self) -> Fraction:
        """The points of all cells."""
        return sum((cell.maximum for cell in self.cells.values()), Fraction(0))


@dataclass(frozen=True, slots=True)
class Contents:
    """A gradebook: the students' ids, when each assignment is due, and the submissions by (student, assignment)."""

    students: list[str]
    due: dict[str, datetime.datetime | None]
    submissions: dict[tuple[str, str], Submission]


def read(root: Path) -> Contents:
    """All that the gradebook of a course folder holds.

    Raises:
        GradebookError: if there is none, or it cannot be read.
    """
    url = nbcourse.database(root)
    name = url.partition("@")[2] or url  # a URL's password is not for a terminal
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).is_file():
        raise GradebookError(f"there is no gradebook in {root} yet: run `nbgrader generate_assignment` there first")
    try:
        with Gradebook(url, nbcourse.COURSE) as book:
            return _contents(book)
    except SQLAlchemyError as error:
        raise GradebookError(
            f"the gradebook {name} cannot be read ({type(error).__name__}): is it there, and not locked?"
        ) from None


def _contents(book: Gradebook) -> Contents:
    students = sorted(book.db.scalars(select(Student.id)))
    due = {name: _utc(when) for name, when in book.db.execute(select(Assignment.name, Assignment.duedate))}
    submissions: dict[str, Submission] = {}
    found: dict[tuple[str, str], Submission] = {}
    query = select(
        SubmittedAssignment.id, SubmittedAssignment.student_id, Assignment.name,
        SubmittedAssignment.timestamp, SubmittedAssignment.extension,
    ).join(Assignment, SubmittedAssignment.assignment_id == Assignment.id)  # fmt: skip
    for key, student, assignment, received, extension in book.db.execute(query):
        submissions[key] = found[student, assignment] = Submission(_utc(received), extension or datetime.timedelta())
    cells = (
        select(
            SubmittedNotebook.assignment_id, Notebook.name, BaseCell.name,
            Grade.auto_score, Grade.manual_score, Grade.extra_credit, GradeCell.max_score, Grade.needs_manual_grade,
        )
        .join(SubmittedNotebook, Grade.notebook_id == SubmittedNotebook.id)
        .join(Notebook, SubmittedNotebook.notebook_id == Notebook.id)
        .join(GradeCell, Grade.cell_id == GradeCell.id)
    )  # fmt: skip
    for key, notebook, name, auto, manual, extra, maximum, waits in book.db.execute(cells):
        cell = Cell(_given(auto), _given(manual), exact(extra or 0), exact(maximum), bool(waits))
        submissions[key].cells[notebook, name] = cell
    return Contents(students, due, found)


def exact(value: float) -> Fraction:
    """A score as the fraction that was meant: a third of 20 points comes out of the database as 6.666666666666667."""
    return Fraction(value).limit_denominator(10_000)


def _given(value: float | None) -> Fraction | None:
    return None if value is None else exact(value)


def _utc(when: datetime.datetime | None) -> datetime.datetime | None:
    return None if when is None else when.replace(tzinfo=datetime.UTC)


def require(book: Gradebook, assignment: str) -> None:
    """See that an assignment is in the gradebook.

    Raises:
        GradebookError: if it is not.
    """
    try:
        book.find_assignment(assignment)
    except MissingEntry:
        raise GradebookError(
            f"{assignment} is not in the gradebook: run `nbgrader generate_assignment {assignment}` first"
        ) from None


def enter_code(book: Gradebook, week: Week, results: Sequence[Result]) -> None:
    """Enter the score of each core task of these results; an ungraded one is left out, whatever stood there.

    Raises:
        GradebookError: if a submission or a cell is not in the gradebook.
    """
    for result in results:
        if result["status"] == "graded":
            _enter(book, week, nbcourse.CODE, result["student"], code_scores(result), manual=[nbcourse.REVIEW])


def enter_lab(book: Gradebook, week: Week, labs: Iterable[Mapping[str, Any]]) -> None:
    """Enter the score of each question of the lab's notebook that the judge marks; written ones wait for a TA.

    Raises:
        GradebookError: if a submission or a cell is not in the gradebook.
    """
    written = {question.grade_id for question in week.questions if question.written}
    for lab in labs:
        if lab["status"] == "graded":
            _enter(book, week, week.folder, lab["student"], lab_scores(week, lab), manual=written)


def code_scores(result: Result) -> dict[str, float]:
    """The score of each core task's cell in a graded result."""
    return {nbcourse.grade_id(task["id"]): task["score"] for task in result["tasks"] if task["max_score"]}


def lab_scores(week: Week, lab: Mapping[str, Any]) -> dict[str, float]:
    """The score of each cell of a graded lab that the judge marks."""
    scores = {q["id"].partition(".")[2]: q["score"] for q in lab["questions"]}
    return {q.grade_id: scores[q.grade_id] for q in week.questions if not q.written and q.grade_id in scores}


def _enter(book: Gradebook, week: Week, notebook: str, student: str, scores: Mapping[str, float], manual: Iterable[str]) -> None:
    try:
        changed = False
        for name, score in scores.items():
            grade = book.find_grade(name, notebook, week.folder, student)
            changed |= grade.auto_score is not None and grade.auto_score != score
            # Where a TA overrode the judge, or reviewed another file, what is new has to be looked at again.
            grade.needs_manual_grade = grade.manual_score is not None and (grade.needs_manual_grade or grade.auto_score != score)
            grade.auto_score = score
        for name in manual:
            grade = book.find_grade(name, notebook, week.folder, student)
            grade.auto_score = None
            grade.needs_manual_grade = changed or grade.manual_score is None
        book.db.commit()
    except MissingEntry as error:
        book.db.rollback()
        raise GradebookError(f"{week.folder} of {student} does not fit the gradebook ({error}): autograde it first") from None
    except OperationalError as error:  # after some seconds of waiting; what was entered of this student is taken back
        book.db.rollback()
        why = " ".join(str(error.orig).split())
        raise GradebookError(
            f"the gradebook cannot be written ({why}): end the program that holds it, then run the same command again"
        ) from None
