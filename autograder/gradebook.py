"""Enters the judge's scores into nbgrader's gradebook, through its API. Manual scores and comments stay as they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook, MissingEntry

from autograder import UserError, nbcourse
from autograder.manifest import Week
from autograder.results import Result

# nbgrader calls alembic by its name, which a Python that was started by its path does not find.
if (_programs := str(Path(sys.executable).parent)) not in os.environ.get("PATH", "").split(os.pathsep):
    os.environ["PATH"] = os.pathsep.join([_programs, os.environ.get("PATH", os.defpath)])


class GradebookError(UserError):
    """The gradebook lacks something; the text is one line that says what to do."""


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
            scores = {nbcourse.grade_id(task["id"]): task["score"] for task in result["tasks"] if task["max_score"]}
            _enter(book, week, nbcourse.CODE, result["student"], scores, manual=[nbcourse.REVIEW])


def enter_lab(book: Gradebook, week: Week, labs: Iterable[Mapping[str, Any]]) -> None:
    """Enter the score of each question of the lab's notebook that the judge marks; written ones wait for a TA.

    Raises:
        GradebookError: if a submission or a cell is not in the gradebook.
    """
    written = {question.grade_id for question in week.questions if question.written}
    for lab in labs:
        if lab["status"] == "graded":
            scores = {q["id"].partition(".")[2]: q["score"] for q in lab["questions"]}
            scores = {name: score for name, score in scores.items() if name not in written}
            _enter(book, week, week.folder, lab["student"], scores, manual=written)


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
    except MissingEntry as error:
        book.db.rollback()
        raise GradebookError(f"{week.folder} of {student} does not fit the gradebook ({error}): autograde it first") from None
    book.db.commit()
