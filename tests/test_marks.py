"""Marks against sums done by hand, and properties that any mark has to have."""

from __future__ import annotations

import datetime
import json
import re
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbgrader.api import Gradebook

from autograder import UserError, cli, report
from autograder.manifest import Course, Text
from autograder.marking import marks, nbcourse, policy
from autograder.marking.marks import Criterion, Mark, rounded
from tests.conftest import ROOT

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
READING = [
    Criterion("summary", Text(en="Summary", zh="摘要"), Fraction(4)),
    Criterion("talk", Text(en="Talk", zh="讨论"), Fraction(6)),
]
PROJECT = [
    Criterion("report", Text(en="Report", zh="报告"), Fraction(60)),
    Criterion("code", Text(en="Repository", zh="仓库"), Fraction(30)),
    Criterion("peer", Text(en="Peer review", zh="同行评审"), Fraction(10), individual=True),
]


class Semester:
    """A course folder whose gradebook and tables a test fills."""

    def __init__(self, root: Path, course: Course, empty: Path) -> None:
        self.root, self.course = root, course
        nbcourse.write(root, course, [])
        shutil.copy(empty, root / "gradebook.db")
        self.write("marks.toml", "")
        self.book = Gradebook(nbcourse.database(root), nbcourse.COURSE)

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def submit(
        self,
        student: str,
        number: int,
        code: float | None = 70,
        notebook: float = 15,
        review: float | None = 15,
        at: str = "2026-03-01",
    ) -> None:
        """A submission with so many points in the first cell of each kind."""
        week = self.course.week(number)
        self.book.update_or_create_student(student)
        cells = {(nbcourse.CODE, nbcourse.grade_id(task.id)): task.points for task in week.core}
        cells |= {(week.folder, question.grade_id): question.points for question in week.questions}
        cells[nbcourse.CODE, nbcourse.REVIEW] = week.points.review
        if week.folder not in [assignment.name for assignment in self.book.assignments]:
            self.book.update_or_create_assignment(week.folder)
            for notebook_name, name in cells:
                self.book.update_or_create_notebook(notebook_name, week.folder)
                points = cells[notebook_name, name]
                self.book.update_or_create_grade_cell(name, notebook_name, week.folder, max_score=points, cell_type="code")
        self.book.update_or_create_submission(week.folder, student, timestamp=at)
        left = {nbcourse.CODE: code, week.folder: notebook}
        for (notebook_name, name), points in cells.items():
            grade = self.book.find_grade(name, notebook_name, week.folder, student)
            if name == nbcourse.REVIEW:
                grade.manual_score, grade.needs_manual_grade = review, review is None
                continue
            rest = left[notebook_name]
            grade.auto_score = None if rest is None else min(points, rest)
            left[notebook_name] = None if rest is None else rest - min(points, rest)
            grade.needs_manual_grade = False
        self.book.db.commit()

    def load(self, **options: Any) -> dict[str, Mark]:
        found = marks.load(self.root, self.course, now=NOW, reading=READING, project=PROJECT, **options)
        return {mark.person.student: mark for mark in found}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty gradebook: nbgrader takes seconds to make one."""
    path = tmp_path_factory.mktemp("empty") / "gradebook.db"
    Gradebook(f"sqlite:///{path}", nbcourse.COURSE).close()
    return path


@pytest.fixture
def semester(tmp_path: Path, course: Course, empty: Path) -> Iterator[Semester]:
    made = Semester(tmp_path / "course", course, empty)
    yield made
    made.book.close()


def weekly(mark: Mark) -> Fraction | None:
    return mark.parts[0].earned


def test_a_mark_by_hand(semester: Semester) -> None:
    semester.submit("ada", 1, 70, 15, 12)
    semester.submit("ada", 2, 35.5, 0, 15)
    semester.write("reading.csv", "student,week,summary,talk,comment\nada,1,4,6,\nada,week02,1.5,3,fine\n")
    semester.write("project.csv", "student,group,report,code,peer\nada,,51,24,7\n")
    mark = semester.load()["ada"]
    assert weekly(mark) == (Fraction(97) + Fraction("50.5")) / 2 * 30 / 100
    assert mark.parts[1].earned == (Fraction(1) + Fraction("0.45")) / 2 * 20
    assert mark.parts[2].earned == Fraction(82, 100) * 50
    assert mark.total == Fraction("22.125") + Fraction("14.5") + 41 and mark.out_of == 100 and mark.pending == ()
    assert rounded(mark.total) == "77.63"


def test_what_is_not_marked_yet_is_no_zero(semester: Semester) -> None:
    semester.submit("ada", 1, 70, 15, None)
    mark = semester.load()["ada"]
    assert mark.out_of == 30 and mark.parts[1].earned is None and mark.parts[2].earned is None
    assert mark.total == Fraction(85 * 30, 100) and mark.pending == ("week 1: review",)


def test_handed_in_but_not_graded_is_pending(semester: Semester) -> None:
    semester.submit("ada", 1)
    (semester.root / "submitted/bob/week01").mkdir(parents=True)
    mark = semester.load()["bob"]
    assert weekly(mark) == 0 and mark.pending == ("week 1: handed in, not graded yet",)


def test_a_task_that_the_judge_did_not_score_is_pending(semester: Semester) -> None:
    semester.submit("ada", 1, code=None)
    assert semester.load()["ada"].pending == ("week 1: code",)


def test_who_hands_nothing_in_has_zero_and_is_told(semester: Semester) -> None:
    semester.submit("ada", 1)
    semester.write("roster.csv", "student,name\nbob,Bob\nada,Ada\n")
    found = semester.load()
    assert list(found) == ["bob", "ada"], "the order of roster.csv"
    assert found["bob"].weeks[0].notes == ("nothing handed in",) and weekly(found["bob"]) == 0 and not found["bob"].pending


@pytest.mark.parametrize(
    ("received", "kept"),
    [
        ("2026-03-08 16:00", 1), ("2026-03-08 16:10", 1),
        ("2026-03-08 16:16", Fraction(9, 10)), ("2026-03-09 16:00", Fraction(9, 10)),
        ("2026-03-09 16:01", Fraction(8, 10)), ("2026-03-11 16:00", Fraction(7, 10)), ("2026-03-11 16:01", 0),
    ],
)  # fmt: skip
def test_late(semester: Semester, received: str, kept: Fraction) -> None:
    semester.submit("ada", 1, 70, 15, 5, at=received)
    late = "[late]\ngrace_minutes = 15\npercent_per_day = 10\nmax_days = 3\n"
    semester.write("marks.toml", f"{late}[due]\nweek01 = 2026-03-09T00:00:00+08:00\n")
    week = semester.load()["ada"].weeks[0]
    assert (week.raw, week.score) == (90, 90 * kept)
    if kept != 1:
        assert f"{rounded((1 - kept) * 100)} % taken off" in " ".join(week.notes)


def test_without_a_policy_nothing_is_taken_off(semester: Semester) -> None:
    semester.submit("ada", 1, at="2026-05-01")
    semester.write("marks.toml", "[due]\nweek01 = 2026-03-09T00:00:00+08:00\n")
    week = semester.load()["ada"].weeks[0]
    assert week.score == 100 and "nothing taken off" in week.notes[-1]


def test_an_extension_moves_the_due_date_of_one_student(semester: Semester) -> None:
    for student in ("ada", "bob"):
        semester.submit(student, 1, at="2026-03-10 12:00")
    semester.write("marks.toml", "[late]\npercent_per_day = 25\n[due]\nweek01 = 2026-03-09T00:00:00Z\n")
    semester.write("extensions.csv", "student,week,due,reason\nada,1,2026-03-11T00:00+08:00,ill\n")
    found = semester.load()
    assert found["ada"].weeks[0].score == 100 and found["bob"].weeks[0].score == 50
    assert "extended" in found["ada"].weeks[0].notes[-1]


def test_an_extension_that_still_runs_is_no_zero(semester: Semester) -> None:
    semester.submit("ada", 1)
    semester.submit("bob", 2)
    semester.write("marks.toml", "[due]\nweek01 = 2026-03-09T00:00:00Z\n")
    semester.write("extensions.csv", "student,week,due\nbob,week01,2026-06-02T00:00Z\n")
    bob = semester.load()["bob"]
    assert not bob.weeks[0].counts and weekly(bob) == 30 and len(bob.pending) == 1


def test_excused_does_not_count(semester: Semester) -> None:
    semester.submit("ada", 1)
    semester.submit("bob", 1)
    semester.submit("bob", 2, 0, 0, 0)
    semester.write("extensions.csv", "student,week,due\nada,week02,excused\n")
    semester.write("reading.csv", "student,week,summary,talk\nada,1,4,6\nada,2,excused,\nbob,1,4,6\n")
    found = semester.load()
    assert weekly(found["ada"]) == 30 and weekly(found["bob"]) == 15
    assert found["ada"].parts[1].earned == 20 and found["bob"].parts[1].earned == 10


def test_a_week_that_is_not_due_does_not_count(semester: Semester) -> None:
    semester.submit("ada", 1)
    semester.submit("ada", 2, 0, 0, 0)
    semester.write("marks.toml", "[due]\nweek02 = 2026-07-01T00:00:00Z\n")
    assert [week.number for week in semester.load()["ada"].weeks] == [1]
    semester.write("marks.toml", "[weekly]\nweeks = [2]\n")
    assert [week.number for week in semester.load()["ada"].weeks] == [2]


def test_the_lowest_is_dropped_after_lateness(semester: Semester) -> None:
    for number, code in ((1, 70), (2, 60), (3, 40)):
        semester.submit("ada", number, code, at="2026-03-12" if number == 1 else "2026-03-01")
    semester.submit("bob", 1)
    late = "[late]\npercent_per_day = 100\n[due]\nweek01 = 2026-03-09T00:00:00Z\n"
    semester.write("marks.toml", f"[weekly]\ndrop_lowest = 1\n{late}")
    found = semester.load()
    assert [week.counts for week in found["ada"].weeks] == [False, True, True]
    assert weekly(found["ada"]) == Fraction(90 + 70, 2) * 30 / 100
    semester.write("marks.toml", "[weekly]\ndrop_lowest = 9\n")
    assert weekly(semester.load()["ada"]) == 30, "one stays, the best"


def test_a_team_has_its_best_submission(semester: Semester) -> None:
    semester.submit("ada", 1, 20, at="2026-03-01")
    semester.submit("bob", 1, 70, at="2026-03-10")
    semester.submit("cy", 1, 10)
    semester.write("groups.csv", "group,student,for\nred,ada,\nred,bob,\nred,cy,project\n")
    semester.write("marks.toml", "[late]\npercent_per_day = 10\n[due]\nweek01 = 2026-03-09T00:00:00Z\n")
    found = semester.load()
    assert found["ada"].weeks[0].score == found["bob"].weeks[0].score == 90
    assert found["ada"].weeks[0].notes[-1] == "handed in by bob, of the same group"
    assert not any("bob" in note for note in found["bob"].weeks[0].notes) and found["cy"].weeks[0].score == 40


def test_a_teams_project_and_what_is_each_students_own(semester: Semester) -> None:
    for student in ("ada", "bob", "cy"):
        semester.submit(student, 1)
    semester.write("groups.csv", "group,student,for\nred,ada,project\nred,bob,project\n")
    semester.write("project.csv", "student,group,report,code,peer\n,red,50,20,\nada,,,,9\nbob,,55,,0\ncy,,60,30,10\n")
    found = semester.load()
    assert [found[name].parts[2].earned for name in ("ada", "bob", "cy")] == [Fraction(79, 2), Fraction(75, 2), 50]
    assert found["ada"].group == "red" and found["cy"].group == ""
    semester.write("project.csv", "student,group,report,code,peer\n,red,50,20,8\n")
    found = semester.load()
    assert found["ada"].pending == ("final project: Peer review",), "never from the group's row"
    assert found["cy"].parts[2].earned == 0 and found["cy"].pending


def test_a_tas_score_goes_before_the_judges(semester: Semester, course: Course) -> None:
    semester.submit("ada", 1, 0)
    name = nbcourse.grade_id(course.week(1).core[0].id)
    grade = semester.book.find_grade(name, nbcourse.CODE, "week01", "ada")
    grade.manual_score, grade.extra_credit = 3, 0.5
    semester.book.db.commit()
    assert semester.load()["ada"].weeks[0].raw == Fraction("33.5")
    assert semester.load(scores={("ada", "week01"): {(nbcourse.CODE, name): 7}})["ada"].weeks[0].raw == Fraction("33.5")
    other = nbcourse.grade_id(course.week(1).core[1].id)
    assert semester.load(scores={("ada", "week01"): {(nbcourse.CODE, other): 7}})["ada"].weeks[0].raw == Fraction("40.5")


def test_extra_credit_ends_at_100(semester: Semester) -> None:
    semester.submit("ada", 1, review=40)
    assert semester.load()["ada"].weeks[0].raw == 100


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("extensions.csv", "student,week,due\nadda,1,excused\n", "extensions.csv, line 2: there is no student 'adda'"),
        ("extensions.csv", "student,week,due\nada,13,excused\n", "line 2: there is no week '13'"),
        ("extensions.csv", "student,week,due\nada,1,tomorrow\n", "due must be excused, or a time with its offset"),
        ("extensions.csv", "student,week,due\nada,1,2026-03-12T00:00\n", "due must be excused, or a time with its offset"),
        ("extensions.csv", "student,week,due\nada,1,2026-03-08T00:00Z\n", "line 2: due lies before the due date"),
        ("extensions.csv", "student,week,due\nada,1,excused\n\nada,week01,excused\n", "line 4: 'ada' has two rows"),
        ("groups.csv", "group,student\nred,ada\nblue,ada\n", "line 3: 'ada' is in two groups"),
        ("groups.csv", "group,student,for\nred,ada,exam\n", "for must be project, a week"),
        ("groups.csv", "team,student\nred,ada\n", "has no column 'group'"),
        ("reading.csv", "student,week,summary,talk\nada,1,4,7\n", "line 2: talk must be a number from 0 to 6"),
        ("reading.csv", "student,week,summary,talk\nada,1,nan,1\n", "summary must be a number"),
        ("reading.csv", "student,week,summary,talk\nada,1,-1,1\n", "summary must be a number"),
        ("reading.csv", 'student,week,summary,talk\nada,1,"1,5",1\n', "such as 1.5, not '1,5'"),
        ("reading.csv", "student,week,summary\nada,1,4\n", "has no column 'talk'"),
        ("reading.csv", "student,week,summary,talk,points\nada,1,4,1,1\n", "unknown column 'points'"),
        ("reading.csv", "student,week,summary,talk,comment\nada,1,4,1,fine, really\n", "line 2: 6 cells under 5 columns"),
        ("project.csv", "student,group,report,code,peer\nada,red,1,1,1\n", "a student or a group, and not both"),
        ("project.csv", "student,group,report,code,peer\n,red,1,1,1\n", "groups.csv has no group 'red'"),
        ("project.csv", "student,group,report,code,peer\nada,,1,1,1\nada,,1,1,1\n", "has two rows"),
        ("roster.csv", "student,name\nada,A\nada,B\n", "line 3: 'ada' is listed twice"),
        ("roster.csv", 'student,name\nada,"A\n', "line 2: unexpected end of data"),
        ("roster.csv", "", "is empty: its first line must be student"),
        ("marks.toml", "[weekly]\ndrop_lowest = -1\n", "[weekly]: drop_lowest must be a whole number"),
        ("marks.toml", "[weekly]\ndrop_lowest = true\n", "[weekly]: drop_lowest must be a whole number"),
        ("marks.toml", "[weekly]\nweeks = [1, 40]\n", "different weeks from 1 to 12"),
        ("marks.toml", "[weekly]\ndrop_lowst = 1\n", "unknown setting drop_lowst"),
        ("marks.toml", "[later]\n", "unknown table [later]"),
        ("marks.toml", "[late]\nmax_days = 2\n", "percent_per_day is missing"),
        ("marks.toml", "[due]\nweek01 = 2026-03-08T23:59:00\n", "a time with its offset"),
        ("marks.toml", "[due]\nweek01 = 2026-03-08\n", "a time with its offset"),
        ("marks.toml", "[due\n", "cannot be read"),
    ],
)
def test_a_mistake_is_one_line(semester: Semester, name: str, text: str, said: str) -> None:
    semester.submit("ada", 1)
    if name != "marks.toml":
        semester.write("marks.toml", "[due]\nweek01 = 2026-03-09T00:00:00Z\n")
    semester.write(name, text)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        semester.load()
    assert "\n" not in str(error.value)


def test_the_tables_as_spreadsheets_write_them(semester: Semester) -> None:
    semester.submit("王, 小明", 1)
    head = "student,week,summary,talk,comment,,\r\n"
    (semester.root / "reading.csv").write_bytes(
        b"\xef\xbb\xbf" + f'{head}"王, 小明",1,4,6,"a ""good""\r\none",,\r\n,,,,,,\r\n'.encode()
    )
    assert semester.load()["王, 小明"].parts[1].earned == 20
    (semester.root / "reading.csv").write_bytes("student,week,summary,talk\n王,1,4,6\n".encode("gb18030"))
    with pytest.raises(UserError, match="not UTF-8: save it as"):
        semester.load()


def test_the_template_of_the_policy_is_the_default(tmp_path: Path, course: Course) -> None:
    (tmp_path / "marks.toml").write_text(policy.TEMPLATE, encoding="utf-8")
    assert policy.read(tmp_path / "marks.toml", course) == policy.Policy()
    # What is commented out there is valid as well.
    text = re.sub(r"^# (?=[\[a-z])", "", policy.TEMPLATE.split("\n", 1)[1], flags=re.MULTILINE)
    (tmp_path / "marks.toml").write_text(text, encoding="utf-8")
    found = policy.read(tmp_path / "marks.toml", course)
    assert found.weeks == (1, 2, 3) and found.late == (datetime.timedelta(minutes=15), 10, 5) and "week01" in found.due


@settings(max_examples=200)
@given(st.fractions(min_value=-1000, max_value=1000), st.integers(1, 6))
def test_rounding(value: Fraction, places: int) -> None:
    shown = rounded(value, places)
    assert abs(Fraction(shown) - value) <= Fraction(1, 2 * 10**places)
    assert rounded(Fraction(shown), places) == shown and "e" not in shown.lower() and not shown.endswith(".")
    assert rounded(-value, places).lstrip("-") == shown.lstrip("-"), "halves go away from zero on both sides"


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory, course: Course, empty: Path) -> Callable[[], Semester]:
    made = Semester(tmp_path_factory.mktemp("big") / "course", course, empty)
    for number in range(1, 7):
        made.submit("ada", number, 70 / number, 15, number, at=f"2026-03-{2 * number:02d}")
        made.submit("bob", number, 11 * number, 3, None)
    return lambda: made


@settings(max_examples=40, deadline=None)
@given(drop=st.integers(0, 7), percent=st.integers(0, 100), most=st.none() | st.integers(0, 9), day=st.integers(1, 28))
def test_what_every_mark_has_to_have(big: Callable[[], Semester], drop: int, percent: int, most: int | None, day: int) -> None:
    semester = big()
    due = "".join(f"week{n:02d} = 2026-03-{day:02d}T00:00:00Z\n" for n in range(1, 7))
    limit = "" if most is None else f"max_days = {most}\n"
    semester.write("marks.toml", f"[weekly]\ndrop_lowest = {drop}\n[late]\npercent_per_day = {percent}\n{limit}[due]\n{due}")
    for mark in semester.load().values():
        counted = [week for week in mark.weeks if week.counts]
        assert len(counted) == max(1, 6 - drop)
        assert weekly(mark) == sum(week.score for week in counted) / len(counted) * Fraction(30, 100)
        assert all(0 <= week.score <= week.raw <= 100 for week in mark.weeks)
        lowest = min(week.score for week in counted)
        assert all(week.score <= lowest for week in mark.weeks if not week.counts)
        assert mark.total == sum(part.earned for part in mark.parts if part.earned is not None)


def test_what_the_command_prints(semester: Semester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    semester.submit("ada", 1, review=None)
    semester.submit("=王\x1b[31m", 1, 20)
    assert cli.main(["marks", str(semester.root)]) == 0
    table = capsys.readouterr().out
    assert "=王?[31m" in table and "25.5 / 30  provisional" in table and "1 provisional" in table and "\x1b" not in table
    assert cli.main(["marks", str(semester.root), "--student", "ada", "--lang", "zh"]) == 0
    text = capsys.readouterr().out
    assert "第 1 周" in text and "待评：代码评审" in text and "25.5 / 30" in text
    assert cli.main(["marks", str(semester.root), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["student"] for line in lines] == ["=王\x1b[31m", "ada"] and lines[1]["total"] == 25.5
    assert cli.main(["marks", str(semester.root), "--student", "eve"]) == 2
    assert "there is no student 'eve'" in capsys.readouterr().err


def test_no_gradebook_is_one_line(tmp_path: Path, course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["marks", str(tmp_path)]) == 2
    assert "no course folder: make one with `autograder nbgrader" in capsys.readouterr().err
    nbcourse.write(tmp_path / "course", course, [])
    assert cli.main(["marks", str(tmp_path / "course")]) == 2
    assert "no gradebook" in capsys.readouterr().err
    (tmp_path / "course/gradebook.db").write_bytes(b"no database at all, but long enough to be looked at" * 99)
    assert cli.main(["marks", str(tmp_path / "course")]) == 2
    said = capsys.readouterr().err
    assert "cannot be read" in said and said.count("\n") == 1


def test_the_document_names_every_setting_and_table() -> None:
    text = (ROOT / "docs/marks.md").read_text(encoding="utf-8")
    for name in ("roster.csv", "groups.csv", "extensions.csv", "reading.csv", "project.csv", "marks.toml", "excused"):
        assert name in text
    for name in re.findall(r"^# (\w+) =|^(\w+) =", policy.TEMPLATE, flags=re.MULTILINE):
        assert "".join(name) in text, name


def test_the_report_adds_up(semester: Semester) -> None:
    semester.submit("ada", 1, 23)
    mark = semester.load()["ada"]
    text = report.mark_lines(mark, "en")
    assert "weekly code: 15.9 / 30" in text and "total: 15.9 / 30" in text and "code 23 of 70" in text
