"""Two weeks of a small class from the released assignment to marks and exports, by the commands that an instructor types."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from nbconvert.exporters import HTMLExporter
from nbgrader.api import Gradebook

from autograder.authoring import reading
from autograder.manifest import Course
from autograder.marking import nbcourse
from autograder.project import handbook
from tests import semester
from tests.semester import ATTACKER, run
from tests.test_sanitise import assert_inert


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, course: Course) -> Path:
    folder = semester.prepare(tmp_path_factory.mktemp("semester") / "course", course)
    for number in semester.WEEKS:
        run(folder, "nbgrader", "release_assignment", f"week{number:02d}")
        run(folder, "nbgrader", "autograde", f"week{number:02d}")
    return folder


def grades(root: Path, week: int, student: str) -> dict[str, Any]:
    """(auto, manual, waits for a TA) of each cell of a submission."""
    with Gradebook(nbcourse.database(root)) as book:
        submission = book.find_submission(f"week{week:02d}", student)
        return {
            f"{notebook.name}/{grade.name}": (grade.auto_score, grade.manual_score, grade.needs_manual_grade)
            for notebook in submission.notebooks
            for grade in notebook.grades
        }


def test_the_release_has_no_answer(root: Path, course: Course) -> None:
    for number in semester.WEEKS:
        week = course.week(number)
        place = root / "exchange" / "lora" / "outbound" / week.folder
        assert sorted(path.name for path in place.iterdir()) == sorted(["code.ipynb", f"{week.folder}.ipynb", week.stub])
        assert (place / week.stub).read_bytes() == (semester.ROOT / "exercises" / week.folder / week.stub).read_bytes()


def test_everybody_gets_what_they_earned(root: Path, course: Course) -> None:
    for number in semester.WEEKS:
        week = course.week(number)
        auto = {f"code/{nbcourse.grade_id(task.id)}": task.points for task in week.core}
        lab = {f"{week.folder}/{q.grade_id}": q.points for q in week.questions if not q.written}
        waits = {"code/review", *(f"{week.folder}/{q.grade_id}" for q in week.questions if q.written)}
        for student, code, answers in (("ada", 1, 1), ("=cmd, Jr.", 1, 0), (ATTACKER, 0, 0)):
            found = grades(root, number, student)
            assert {name: found[name][0] for name in auto} == {name: points * code for name, points in auto.items()}, student
            assert {name: found[name][0] for name in lab} == {name: points * answers for name, points in lab.items()}, student
            assert {name for name, (_, _, needs) in found.items() if needs} == waits
    assert not [score for score, _, _ in grades(root, 2, "王小明").values() if score]
    rows = {(row["assignment"], row["student_id"]): row["score"] for row in semester.rows(root)}
    # nbgrader lists who handed nothing in as well; a name that a spreadsheet would run has an apostrophe.
    assert len(rows) == 8 and rows["week04", "王小明"] == "0.0"
    assert rows["week04", "'=cmd, Jr."] == "70.0" and rows["week04", "ada"] == "80.0" and rows["week04", ATTACKER] == "0.0"


def test_nothing_of_the_attacker_is_outside_its_folder(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 20 and ATTACKER not in str(path.relative_to(root)):
            assert b"forged" not in path.read_bytes(), path
    assert not list(root.rglob("x.py"))


def test_what_a_ta_opens_is_inert(root: Path) -> None:
    paths = sorted((root / "autograded" / ATTACKER).rglob("*.ipynb"))
    assert len(paths) == 4
    for path in paths:
        page, _ = HTMLExporter(template_name="basic").from_filename(str(path))
        assert "pwned" in page, "the payload is there, as text"
        assert_inert(page)


def test_grading_again_runs_nothing_again_and_keeps_the_tas_scores(root: Path) -> None:
    with Gradebook(nbcourse.database(root)) as book:
        grade = book.find_grade("review", "code", "week04", "ada")
        grade.manual_score, grade.needs_manual_grade = 13, False
        book.find_comment("review", "code", "week04", "ada").manual_comment = "Clear: **scaling** is computed once."
        book.db.commit()
    before = (root / "results/week04/results.jsonl").read_bytes(), (root / "results/week04/notebooks.jsonl").read_bytes()
    run(root, "nbgrader", "autograde", "week04", "--force")
    assert before == (
        (root / "results/week04/results.jsonl").read_bytes(),
        (root / "results/week04/notebooks.jsonl").read_bytes(),
    )
    assert grades(root, 4, "ada")["code/review"] == (None, 13, False)


def test_feedback_has_the_review_and_nothing_for_the_staff(root: Path) -> None:
    run(root, "nbgrader", "generate_feedback", "week04", "--force")
    page = (root / "feedback/ada/week04/code.html").read_text(encoding="utf-8")
    assert "<strong>scaling</strong> is computed once" in page and "13" in page
    for other in ("王小明", "=cmd, Jr.", ATTACKER):
        assert other not in page


def test_marks_and_a_regrade(root: Path, course: Course) -> None:
    """The judge had been wrong about one submission: shown first, then entered, and the TA's own score stays."""
    week = course.week(4)
    name, points = nbcourse.grade_id(week.core[0].id), week.core[0].points
    held = root / "results/week04/results.jsonl"
    found = semester.lines(held)
    for student in ("ada", "=cmd, Jr."):
        found[student]["key"] = "made by a check that was wrong"
        found[student]["tasks"][0]["score"] = 0
        found[student]["score"] -= points
    held.write_text("".join(json.dumps(line) + "\n" for line in found.values()), encoding="utf-8")
    with Gradebook(nbcourse.database(root), nbcourse.COURSE) as book:
        for student in ("ada", "=cmd, Jr."):
            book.find_grade(name, "code", "week04", student).auto_score = 0
        book.find_grade(name, "code", "week04", "=cmd, Jr.").manual_score = 3
        book.db.commit()
    before = run(root, "autograder", "marks", ".", "--student", "ada")
    said = run(root, "autograder", "regrade", ".", "--week", "4")
    assert f"{name} 0 -> {points}" in said and "(a TA's 3 stands)" in said and "nothing is entered yet" in said
    assert "2 of 3 change: 1 gain, 0 lose" in said
    assert grades(root, 4, "ada")[f"code/{name}"][0] == 0 and run(root, "autograder", "marks", ".", "--student", "ada") == before
    said = run(root, "autograder", "regrade", ".", "--week", "4", "--apply")
    assert "\nentered\n" in said and len(list((root / "results").glob("week04.before-*"))) == 1
    assert grades(root, 4, "ada")[f"code/{name}"][0] == points and grades(root, 4, "=cmd, Jr.")[f"code/{name}"] == (
        points,
        3,
        True,
    )
    assert grades(root, 4, "ada")["code/review"][1] == 13, "a review that was made stays"
    assert "nothing changes" in run(root, "autograder", "regrade", ".", "--week", "4")


def test_the_other_half_and_the_exports(root: Path, course: Course) -> None:
    """Reading, project, a team, an extension: the sum by hand, and the files for the school."""
    (root / "roster.csv").write_text(
        "student,name,email,canvas_id,moodle_id\n"
        'ada,"Lovelace, Ada ""Countess""",ada@x.edu,11,A1\n王小明,王小明,wang@x.edu,12,A2\n'
        '"=cmd, Jr.",=HYPERLINK(1),cmd@x.edu,13,A3\nmallory,Mallory,m@x.edu,14,A4\n',
        encoding="utf-8",
    )
    form = reading.load().criteria
    (root / "reading.csv").write_text(
        f"student,week,{','.join(c.id for c in form)}\nada,2,{','.join(str(c.points) for c in form)}\n", encoding="utf-8"
    )
    criteria = handbook.load().criteria
    half = ",".join(str(c.points / 2) for c in criteria.values())
    (root / "groups.csv").write_text("group,student,for\nred,ada,project\nred,王小明,project\n", encoding="utf-8")
    (root / "project.csv").write_text(f"student,group,{','.join(criteria)}\nada,,{half}\n,red,{half}\n", encoding="utf-8")
    lines = [json.loads(line) for line in run(root, "autograder", "marks", ".", "--json").splitlines() if line.startswith("{")]
    found = {line["student"]: line for line in lines}
    assert list(found) == ["ada", "王小明", "=cmd, Jr.", ATTACKER]
    weeks = {week["week"]: week["score"] for week in found["ada"]["weeks"]}
    weekly, reading_part, project_part = (part["earned"] for part in found["ada"]["parts"])
    assert weekly == pytest.approx(sum(weeks.values()) / 2 * 0.3) and (reading_part, project_part) == (20, 25)
    own = [c for c in criteria.values() if c.individual]
    assert found["王小明"]["parts"][2]["earned"] == pytest.approx(25 - sum(c.points for c in own) / 4)
    assert len([text for text in found["王小明"]["pending"] if text.startswith("final project")]) == len(own)
    for kind, name in (("csv", "all.csv"), ("canvas", "canvas.csv"), ("moodle", "moodle.csv"), ("excel", "all.xlsx")):
        said = run(root, "autograder", "export", ".", "--format", kind, "--out", name)
        assert "provisional" in said and "Traceback" not in said
    with open(root / "canvas.csv", encoding="utf-8", newline="") as file:
        head, possible, *rows = csv.reader(file)
    assert [row[1] for row in rows] == ["11", "12", "13", "14"] and possible[-1] == "50" and len(head) == len(rows[0])
    assert rows[0][-2:] == ["20.00", "25.00"] and not [cell for row in rows for cell in row if cell.startswith("=")]


def test_a_student_is_graded_alone_and_a_mistake_is_one_line(root: Path) -> None:
    run(root, "nbgrader", "autograde", "week02", "--student", "ada", "--force")
    said = run(root, "nbgrader", "autograde", "week05", ok=False)
    assert "there is no assignment 'week05'" in said or "is not in the gradebook" in said or "nothing was handed in" in said
    assert "Traceback" not in said
