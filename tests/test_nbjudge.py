"""nbgrader's side of the course folder: what comes out of archives, when it came in, and what the gradebook is told."""

from __future__ import annotations

import datetime
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
from nbgrader.api import Gradebook
from nbgrader.converters.base import NbGraderException

from autograder.cli import main
from autograder.manifest import Course, Week
from autograder.marking import gradebook, nbcourse, nbjudge

NOON = datetime.datetime(2026, 3, 1, 12, 0)


@pytest.fixture
def folder(tmp_path: Path, course: Course, week: Week) -> Path:
    nbcourse.write(tmp_path / "course", course, [week])
    return tmp_path / "course"


@pytest.fixture
def book(week: Week, tmp_path: Path) -> Any:
    """A gradebook with week 4's cells and the submissions of two students."""
    with Gradebook(f"sqlite:///{tmp_path / 'book.db'}") as opened:
        opened.add_assignment(week.folder)
        opened.add_notebook(nbcourse.CODE, week.folder)
        for task in week.core:
            opened.add_grade_cell(nbcourse.grade_id(task.id), nbcourse.CODE, week.folder, max_score=task.points, cell_type="code")
        opened.add_grade_cell(nbcourse.REVIEW, nbcourse.CODE, week.folder, max_score=15, cell_type="markdown")
        for name in ("ada", "王小明"):
            opened.add_student(name)
            opened.add_submission(week.folder, name)
        yield opened


def result(week: Week, student: str, share: float, status: str = "graded") -> dict[str, Any]:
    tasks = [{"id": t.id, "score": t.points * share, "max_score": t.points} for t in week.tasks]
    return {"student": student, "status": status, "tasks": tasks}


def scores(book: Any, week: Week, student: str) -> dict[str, Any]:
    submission = book.find_submission_notebook(nbcourse.CODE, week.folder, student)
    return {grade.name: (grade.auto_score, grade.manual_score, grade.needs_manual_grade) for grade in submission.grades}


def test_scores_reach_their_own_cells_and_no_other_students(book: Any, week: Week) -> None:
    gradebook.enter_code(book, week, [result(week, "王小明", 0.5)])
    got = scores(book, week, "王小明")
    assert got == {nbcourse.grade_id(t.id): (t.points / 2, None, False) for t in week.core} | {"review": (None, None, True)}
    assert {auto for auto, _, _ in scores(book, week, "ada").values()} == {None}


def test_an_ungraded_result_changes_nothing(book: Any, week: Week) -> None:
    gradebook.enter_code(book, week, [result(week, "ada", 1)])
    before = scores(book, week, "ada")
    gradebook.enter_code(book, week, [result(week, "ada", 0, "ungraded")])
    assert scores(book, week, "ada") == before


def test_what_a_ta_gave_stays_and_is_shown_again(book: Any, week: Week) -> None:
    gradebook.enter_code(book, week, [result(week, "ada", 0.5)])
    for name, score in (("t1", 9), ("review", 12)):
        book.find_grade(name, nbcourse.CODE, week.folder, "ada").manual_score = score
    book.db.commit()
    gradebook.enter_code(book, week, [result(week, "ada", 1)])
    got = scores(book, week, "ada")
    assert got["t1"] == (week.core[0].points, 9, True) and got["review"] == (None, 12, True)
    assert got["t2"] == (week.core[1].points, None, False)


def test_a_submission_that_is_not_there_is_named(book: Any, week: Week) -> None:
    with pytest.raises(gradebook.GradebookError, match=r"^week04 of eve does not fit the gradebook .*autograde it first$"):
        gradebook.enter_code(book, week, [result(week, "eve", 1)])


def test_the_folder_is_refreshed_and_nothing_else_is_overwritten(
    folder: Path, course: Course, week: Week, tmp_path: Path
) -> None:
    (folder / "nbgrader_local.py").write_text("c.Exchange.root = '/srv/exchange'\n")
    (folder / "roster.csv").write_text("student,name\nada,Ada\n")
    (folder / "source/week04/lora_linear.py").write_text("stale")
    nbcourse.write(folder, course, [week])
    assert (folder / "roster.csv").read_text().endswith("ada,Ada\n")
    assert (folder / "nbgrader_local.py").read_text().startswith("c.Exchange")
    assert (folder / "source/week04/lora_linear.py").read_text() != "stale"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    with pytest.raises(nbcourse.CourseError, match="holds something else"):
        nbcourse.write(tmp_path / "other", course, [week])


def test_the_database_of_a_folder_is_known_without_running_its_configuration(tmp_path: Path, course: Course, week: Week) -> None:
    nbcourse.write(tmp_path / "a", course, [week])
    assert nbcourse.database(tmp_path / "a") == f"sqlite:///{tmp_path / 'a' / 'gradebook.db'}"
    nbcourse.write(tmp_path / "b", course, [week], db="postgresql://ta@db/lora")
    assert nbcourse.database(tmp_path / "b") == "postgresql://ta@db/lora"
    with pytest.raises(nbcourse.CourseError, match="make one with"):
        nbcourse.database(tmp_path)


def test_a_weeks_points_are_those_of_the_manifest(course: Course) -> None:
    import nbformat

    for week in course.weeks:
        points = 0
        for name, text in nbcourse.sources(week, "zh").items():
            if name.endswith(".ipynb"):
                cells = nbformat.reads(text, as_version=4).cells
                points += sum(cell.metadata.nbgrader.points for cell in cells if "nbgrader" in cell.metadata)
        assert points == 100


def zipped(path: Path, *members: tuple[str, str], link: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members:
            archive.writestr(name, text)
        if link:
            info = zipfile.ZipInfo(link)
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")


def test_archives_give_files_of_their_own_student_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archives, out = tmp_path / "archive", tmp_path / "extracted"
    zipped(archives / "ada.zip", ("week04/lora_linear.py", "a"), ("week04/helpers/x.py", "b"), ("__MACOSX/._lora_linear.py", "m"))
    zipped(archives / "bob.zip", ("lora_linear.py", "b"), ("notes.pdf", "p"), link="week04.ipynb")
    zipped(
        archives / "eve.zip",
        ("../ada/lora_linear.py", "evil"),
        ("/etc/evil.py", "evil"),
        ("..\\..\\evil.py", "evil"),
        ("x.py", "e"),
    )
    zipped(archives / "王小明.zip", ("lora_linear.py", "w"))
    (archives / "mal.zip").write_bytes(b"PK\3\4 nonsense")
    zipped(archives / "bomb.zip", ("lora_linear.py", "0" * (nbjudge._CAP + 1)))
    nbjudge.CarefulExtractor().extract(str(archives), str(out))
    found = {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {
        "ada/lora_linear.py": "a", "ada/helpers/x.py": "b", "bob/lora_linear.py": "b", "eve/x.py": "e",
        "王小明/lora_linear.py": "w",
    }  # fmt: skip
    assert not list(tmp_path.rglob("evil*"))


def hand_in(folder: Path, student: str, stamp: str | None = None) -> Path:
    place = folder / "submitted" / student / "week04"
    place.mkdir(parents=True)
    (place / "lora_linear.py").write_text("x = 1\n")
    if stamp is not None:
        (place / "timestamp.txt").write_text(stamp)
    return place


def test_when_a_submission_came_in(folder: Path, week: Week) -> None:
    hand_in(folder, "listed", "2026-01-01 00:00:00 UTC")
    hand_in(folder, "stamped", "2026-03-01 12:00:00.5 UTC")
    hand_in(folder, "zoned", "2026-03-01T20:00:00+08:00")
    for name, stamp in (
        ("none", None),
        ("nonsense", "yesterday"),
        ("tomorrow", "2999-01-01 00:00:00 UTC"),
        ("long", "9" * 10_000),
    ):
        hand_in(folder, name, stamp)
    os.symlink("/etc/passwd", hand_in(folder, "linked") / "timestamp.txt")
    (folder / "submitted" / "other-week" / "week03").mkdir(parents=True)
    (folder / "received.csv").write_text("\ufeffstudent,week,received\nlisted,4,2026-03-01T20:00+08:00\nlisted,3,2026-01-01\n")
    before = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)
    found = nbjudge.received(folder, folder / "submitted", week)
    assert found["listed"] == found["stamped"] == found["zoned"] == NOON
    for name in ("none", "nonsense", "tomorrow", "long", "linked"):
        assert found[name] >= before
    assert "other-week" not in found
    # What has been seen once stays, whenever it is asked for again.
    assert nbjudge.received(folder, folder / "submitted", week) == found
    (folder / "received.csv").write_text("student,received\nlisted,2026-03-01\n")
    with pytest.raises(NbGraderException, match="its columns are student, week, received"):
        nbjudge.received(folder, folder / "submitted", week)


def test_links_and_special_files_are_gone_before_nbgrader_looks(folder: Path, week: Week) -> None:
    place = hand_in(folder, "eve")
    os.symlink("/etc/passwd", place / "week04.ipynb")
    os.symlink(folder / "source", place / "source")
    os.mkfifo(place / "code.ipynb")
    nbjudge.tidy(folder / "submitted", week)
    assert [path.name for path in place.iterdir()] == ["lora_linear.py"]
    assert (folder / "source/week04/lora_linear.py").is_file()


def test_a_graded_lab_has_each_cell_once_with_the_manifests_points(week: Week, tmp_path: Path) -> None:
    import nbformat

    first = week.questions[0].grade_id
    forged = {"grade": True, "solution": True, "grade_id": first, "points": 1000, "locked": False, "schema_version": 3}
    cells = [nbformat.v4.new_code_cell("1", metadata={"nbgrader": forged, "tags": ['"><script>']}) for _ in range(2)]
    page = tmp_path / "ada.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), page)
    made = nbjudge.lab_notebook(week, {"message": ""}, page, "en")
    got = {cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points for cell in made.cells if "nbgrader" in cell.metadata}
    assert got == {question.grade_id: question.points for question in week.questions}
    assert len([cell for cell in made.cells if "nbgrader" in cell.metadata]) == len(week.questions)
    assert "script" not in str([cell.metadata for cell in made.cells])


def test_the_command_says_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nbgrader", str(tmp_path / "course"), "--week", "4"]) == 0
    assert "nbgrader generate_assignment week04" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert main(["nbgrader", str(tmp_path / "file")]) == 2
    assert "name a new folder" in capsys.readouterr().err
