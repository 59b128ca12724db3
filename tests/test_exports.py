"""Exports: what is written is what was marked, nothing in it runs, and the importers of Canvas and Moodle can read it."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nbgrader.api import Gradebook

from autograder.cli import main
from autograder.manifest import Course, Lang
from autograder.marking import exports, marks, nbcourse
from autograder.marking.exports import ExportError, Format, Written
from autograder.marking.marks import Mark, Part, Person, WeekMark
from autograder.results import spreadsheet_safe
from tests.conftest import ROOT

FORMULA = tuple("=+-@|%\uff1d\uff0b\uff0d\uff20")
NASTY = (
    "=HYPERLINK(\"http://x\",\"y\")", "+1", "-2+3", "@SUM(A1)", "  =1", "\t=1", "\n=1", "=1\r\n=2", "|calc", "%x", "\uff1d1",
    "Li, Ada", 'Ada "the" L', "李雷", "a\\\",100,", "\\", "'", "'=1", "\ufeff=1", "\0=1", "\x1b[2J", "\udce9\ud800", "\ufffe",
    "\u202egnp", "#N/A", "1e5", "007", "TRUE", "http://x", "Points Possible", "  Points Possible",
    ";;;;;;;;;", "", " ", "\r", "\u2028",
)  # fmt: skip
TEXT = st.one_of(st.sampled_from(NASTY), st.text(st.characters(), max_size=12))
slow = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def a_week(number: int, score: Fraction | int, **more: Any) -> WeekMark:
    return WeekMark(number, Fraction(score), Fraction(score), **more)


def a_mark(
    person: Person,
    weeks: Sequence[WeekMark] = (),
    earned: Sequence[Fraction | int | None] = (25, 15, 40),
    pending: Sequence[str] = (),
) -> Mark:
    names = ("weekly_code", "reading_discussion", "final_project")
    parts = tuple(
        Part(name, weight, None if points is None else Fraction(points), (f"line of {name}",), tuple(pending) if not i else ())
        for i, (name, weight, points) in enumerate(zip(names, (30, 20, 50), earned, strict=True))
    )
    return Mark(person, tuple(weeks), parts)


def ada(**more: str) -> Person:
    return Person("ada", **({"name": "Ada L", "email": "ada@x.edu", "canvas_id": "11", "moodle_id": "m1"} | more))


def bob(**more: str) -> Person:
    return Person("bob", **({"name": "Bob", "email": "bob@x.edu", "canvas_id": "12", "moodle_id": "m2"} | more))


class Exporter:
    """Writes a class and reads the file back."""

    def __init__(self, root: Path, course: Course) -> None:
        self.root, self.course = root, course

    def __call__(self, kind: Format, *found: Mark, week: int | None = None, lang: Lang = "en") -> list[list[str]]:
        self.written = self.write(kind, *found, week=week, lang=lang)
        text = self.out(kind).read_bytes().decode("utf-8-sig" if kind == "csv" else "utf-8")
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))

    def write(self, kind: Format, *found: Mark, week: int | None = None, lang: Lang = "en") -> Written:
        return exports.write(self.root, found, self.course, kind, self.out(kind), week, lang)

    def out(self, kind: Format) -> Path:
        return self.root / ("out.xlsx" if kind == "excel" else "out.csv")


@pytest.fixture
def export(tmp_path: Path, course: Course) -> Exporter:
    return Exporter(tmp_path, course)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0.00"),
        (Fraction(1, 3), "0.33"), (Fraction(1, 8), "0.13"), (Fraction(5, 1000), "0.01"), (Fraction(2, 3), "0.67"),
        (Fraction(1005, 1000), "1.01"),
        (Fraction(100), "100.00"), (Fraction(10**20), f"{10**20}.00"), (Fraction(4999, 10**6), "0.00"),
    ],
)  # fmt: skip
def test_points_have_two_decimals_and_halves_go_up(value: Fraction, text: str) -> None:
    assert str(exports.points(value)) == text


@given(st.fractions(0, 10**6))
def test_points_are_at_most_half_a_hundredth_away(value: Fraction) -> None:
    written = exports.points(value)
    assert re.fullmatch(r"\d+\.\d\d", str(written))
    assert Fraction(-1, 200) < Fraction(written) - value <= Fraction(1, 200)


def test_csv_has_everything_under_names_for_programs(export: Exporter) -> None:
    weeks = [a_week(1, Fraction(200, 3)), a_week(4, 90, pending=("review",))]
    head, first, second = export(
        "csv", a_mark(ada(section="A"), weeks, (Fraction(61, 3), None, 0), ["week 4: review"]), a_mark(bob())
    )
    assert head == [
        "student", "name", "email", "section", "week01", "week04", "weekly_code", "reading_discussion", "final_project", "total",
        "out_of", "status", "waits",
    ]  # fmt: skip
    waits = "week 4: review; Reading and discussion: not marked yet"
    assert first == [
        "ada", "Ada L", "ada@x.edu", "A", "66.67", "90.00", "20.33", "", "0.00", "20.33", "80", "provisional", waits,
    ]  # fmt: skip
    assert second == ["bob", "Bob", "bob@x.edu", "", "", "", "25.00", "15.00", "40.00", "80.00", "100", "final", ""]
    assert export.written == Written(2, 0, ("1 of 2 are provisional, such as ada (week 4: review)",))
    data = export.out("csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbfstudent,") and data.count(b"\n") == data.count(b"\r\n") == 3


def test_nothing_marked_is_empty_and_not_zero(export: Exporter) -> None:
    row = dict(zip(*export("csv", a_mark(bob(), (), (None, None, None))), strict=True))
    assert (row["weekly_code"], row["total"], row["out_of"], row["status"]) == ("", "", "0", "provisional")


def test_a_week_alone(export: Exporter) -> None:
    weeks = [a_week(3, 10), a_week(4, 80, pending=("review",))]
    head, first, second = export("csv", a_mark(ada(), weeks), a_mark(bob(), [a_week(3, 0)]), week=4)
    assert head == ["student", "name", "email", "section", "week04", "out_of", "status", "waits"]
    assert first[4:] == ["80.00", "100", "provisional", "review"] and second[4:] == ["", "100", "", ""]


def test_a_week_that_is_excused_or_waits_is_no_zero_and_a_dropped_one_keeps_its_score(export: Exporter) -> None:
    excused, dropped, missed = a_week(1, 0, standing="excused"), a_week(2, 0, standing="dropped"), a_week(3, 0)
    ungraded = a_week(4, 0, standing="ungraded", pending=("handed in",))
    row = dict(zip(*export("csv", a_mark(ada(), [excused, dropped, missed, ungraded])), strict=True))
    assert [row[f"week0{number}"] for number in (1, 2, 3, 4)] == ["", "0.00", "0.00", ""]


def test_canvas_is_told_who_is_excused(export: Exporter) -> None:
    marks = [a_mark(ada(), [a_week(4, 0, standing="excused")]), a_mark(bob(), [a_week(4, 80)])]
    assert [row[-1] for row in export("canvas", *marks, week=4)[2:]] == ["EX", "80.00"]


def test_headings_in_chinese(export: Exporter) -> None:
    head, row = export("csv", a_mark(ada(), [a_week(4, 80)]), lang="zh")
    assert head[4:] == ["第 4 周", "每周编程作业", "文献阅读与讨论", "期末项目", "总分", "满分", "状态", "待完成"]
    assert row[-2] == "已定"


def tidy(text: str) -> str:
    """What is kept of a text: this is `plain`'s promise, said another way."""
    bad = {*map(chr, [*range(0x20), *range(0x7F, 0xA0), 0xFFFE, 0xFFFF, *range(0xFDD0, 0xFDF0), *range(0xD800, 0xE000)])}
    bad |= set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    parts = re.split("[\t\n\x0b\x0c\r\x85\u2028\u2029]+", text)
    return "".join("\ufffd" if c in bad else c for c in " ".join(parts))


@slow
@given(name=TEXT, section=TEXT, student=TEXT, why=TEXT)
def test_csv_runs_nothing_and_loses_nothing(export: Exporter, name: str, section: str, student: str, why: str) -> None:
    person = Person(student, name, section=section)
    head, row, second = export("csv", a_mark(person, [a_week(4, 80)], pending=[why]), a_mark(bob()))
    assert len(head) == len(row) == len(second) and row[4:10] == ["80.00", "25.00", "15.00", "40.00", "80.00", "100"]
    for cell, text in zip([*row[:2], row[3], row[-1]], [student, name, section, why], strict=True):
        assert not cell.lstrip(" \t\r\n\0").startswith(FORMULA)
        assert cell == spreadsheet_safe(tidy(text)) and cell.replace("'", "") == tidy(text).replace("'", "")


def sheets(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    book = openpyxl.load_workbook(path)
    return {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book}


def test_excel_holds_marks_weeks_and_the_explanation(export: Exporter) -> None:
    late = WeekMark(4, Fraction(90), Fraction(81), ("1 day late", "10 % taken off"))
    export.write("excel", a_mark(ada(), [a_week(1, Fraction(200, 3)), late], (Fraction(61, 3), None, 0)), a_mark(bob()))
    found = sheets(export.out("excel"))
    assert list(found) == ["Marks", "Weeks", "Explanation"]
    head, first, second = found["Marks"]
    assert head[4:9] == ("Week 1", "Week 4", "Weekly code", "Reading and discussion", "Final project")
    assert first[4:11] == (66.67, 81, 20.33, None, 0, 20.33, 80) and second[9:12] == (80, 100, "final")
    assert found["Weeks"][2] == ("ada", "Ada L", 4, 90, 81, "yes", "1 day late; 10 % taken off", None)
    assert found["Explanation"][1] == ("ada", "Ada L", "Weekly code", "line of weekly_code") and len(found["Explanation"]) == 7
    sheet = openpyxl.load_workbook(export.out("excel"))["Marks"]
    assert sheet.freeze_panes == "C2" and sheet["A1"].font.bold
    assert sheet["E2"].number_format == "0.00" and sheet["K2"].number_format == "0"


def test_excel_of_a_week_in_chinese_with_widths_for_chinese(export: Exporter) -> None:
    export.write("excel", a_mark(ada(name="欧阳" * 6), [a_week(3, 1), a_week(4, 80)]), week=4, lang="zh")
    found = sheets(export.out("excel"))
    assert list(found) == ["成绩", "各周"] and [row[2] for row in found["各周"]] == ["周次", 4]
    sheet = openpyxl.load_workbook(export.out("excel"))["成绩"]
    assert sheet.column_dimensions["B"].width == 27 and sheet.column_dimensions["A"].width == 7


@settings(parent=slow, max_examples=60)
@given(name=TEXT, why=TEXT)
def test_excel_has_only_numbers_and_text(export: Exporter, name: str, why: str) -> None:
    week = WeekMark(4, Fraction(80), Fraction(80), (why,))
    export.write("excel", a_mark(Person("=s", name), [week], pending=[why]))
    path = export.out("excel")
    with zipfile.ZipFile(path) as archive:
        assert not [entry for entry in archive.namelist() if "vba" in entry.lower() or "external" in entry.lower()]
        for entry in archive.namelist():
            if entry.startswith("xl/worksheets/"):
                elements = list(ET.fromstring(archive.read(entry)).iter())
                tags = {element.tag.rpartition("}")[2] for element in elements}
                assert "c" in tags and not tags & {"f", "hyperlink", "hyperlinks"}
                types = {element.get("t") for element in elements if element.tag.endswith("}c")}
                assert types <= {"inlineStr", "s", "n"}
    book = openpyxl.load_workbook(path)
    cell, score = book["Marks"]["B2"], book["Marks"]["E2"]
    assert (cell.value or "") == tidy(name) and cell.data_type == ("s" if name else "n")
    assert (score.value, score.data_type) == (80, "n")
    assert bool(cell.quotePrefix) == (spreadsheet_safe(tidy(name)) != tidy(name))
    assert book["Marks"]["A2"].quotePrefix and not book["Marks"]["A1"].quotePrefix


# Canvas: the rules of lib/gradebook_importer.rb, read from there.

RESERVED = ("Current Score", "Current Points", "Current Grade", "Final Score", "Final Points", "Final Grade", "Override")


def canvas(rows: list[list[str]]) -> dict[tuple[str, str, str], dict[str, str]]:
    """The scores that Canvas would enter, by (ID, SIS User ID, SIS Login ID)."""
    head, possible, *students = rows
    assert "Student" in head[0] and "ID" in head[1]
    assert re.search(r"SIS\s+User\s+ID", head[2]) and re.search(r"SIS\s+Login\s+ID", head[3]) and "Section" in head[4]
    assert "Points Possible" in possible[0] and not any(possible[1:5])
    assert len(set(head)) == len(head) and not any(word in title for word in RESERVED for title in head[5:])
    found = {}
    for row in students:
        assert len(row) == len(head) and "Points Possible" not in row[0]  # or the row is taken for that one
        assert any(row[1:4]), "Canvas would go by the name"
        found[row[1], row[2], row[3]] = dict(zip(head[5:], row[5:], strict=True))
    # The separator is guessed from the first three lines, so that they must be rows.
    return found


def test_canvas_gets_the_parts_that_add_up_to_the_mark(export: Exporter) -> None:
    rows = export("canvas", a_mark(ada(sis_id="S1", sis_login="ada"), [a_week(4, 80)], (25, None, 40)), a_mark(bob()))
    assert rows[0] == [
        "Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Weekly code", "Reading and discussion", "Final project",
    ]  # fmt: skip
    assert rows[1] == ["    Points Possible", "", "", "", "", "30", "20", "50"]
    assert canvas(rows) == {
        ("11", "S1", "ada"): {"Weekly code": "25.00", "Reading and discussion": "", "Final project": "40.00"},
        ("12", "", ""): {"Weekly code": "25.00", "Reading and discussion": "15.00", "Final project": "40.00"},
    }
    assert export.out("canvas").read_bytes().startswith(b"Student,ID,")  # no byte order mark


def test_canvas_of_a_week_with_a_title_of_the_instructor(export: Exporter) -> None:
    (export.root / "exports.toml").write_text(
        '[canvas]\nweek04 = "第 4 周 (12345)"\n\n[moodle]\nweek04 = "M"\n', encoding="utf-8"
    )
    rows = export("canvas", a_mark(ada(), [a_week(4, 80)]), week=4)
    assert canvas(rows) == {("11", "", ""): {"第 4 周 (12345)": "80.00"}} and rows[1][5] == "100"
    assert export("moodle", a_mark(ada(), [a_week(4, 80)]), week=4)[0] == ["ID number", "Student", "M"]


def test_a_part_of_which_nothing_is_marked_takes_nothing_away(export: Exporter) -> None:
    for kind in ("canvas", "moodle"):
        rows = export(kind, a_mark(ada(), (), (25, None, None)), a_mark(bob(), (), (None, None, None)))
        assert rows[0][-1] == "Weekly code"
        assert "final_project is left out: nothing of it is marked yet" in export.written.notes
        with pytest.raises(ExportError, match="nothing of it is marked yet"):
            export(kind, a_mark(bob(), (), (None, None, None)))
        nobody = Person("x")  # whose marks are not in the file
        assert export(kind, a_mark(nobody), a_mark(ada(), (), (25, None, None)))[0][-1] == "Weekly code"


@pytest.mark.parametrize("canvas_id", ["", "12abc", "0", "-1", "=1", "1.5", "١٢"])
def test_canvas_leaves_out_whom_it_would_have_to_guess(export: Exporter, canvas_id: str) -> None:
    for others in ({}, {"sis_id": "=1"}, {"sis_id": "1.2.3"}, {"sis_login": '+86"'}, {"sis_id": "a\x00b"}, {"sis_login": "1,5"}):
        rows = export("canvas", a_mark(ada()), a_mark(bob(canvas_id=canvas_id, **others), pending=["x"]))
        assert list(canvas(rows)) == [("11", "", "")]
        assert export.written.left_out == 1 and export.written.students == 1
        (note,) = export.written.notes
        assert note.startswith(
            "left out: 1 of 2 students have no identifier that Canvas can match, such as bob: fill canvas_id, "
        )
    assert list(canvas(export("canvas", a_mark(bob(canvas_id=canvas_id, sis_id="007", sis_login="b.ob"))))) == [
        ("", "007", "b.ob")
    ]
    with pytest.raises(ExportError, match=r"1 of 1 students .* in roster\.csv"):
        export("canvas", a_mark(bob(canvas_id=canvas_id)))


# Moodle: the rules of grade/import/csv, read from there.


def moodle(rows: list[list[str]], column: str) -> dict[str, dict[str, str | None]]:
    """The grades that Moodle would enter, by the identifier; None clears."""
    head, *students = rows
    assert head[:2] == [column, "Student"]
    found: dict[str, dict[str, str | None]] = {}
    for row in students:
        assert len(row) == len(head) and row[0].strip() not in ("", "0"), "the grades would go to the student before"
        for value in row[2:]:
            assert value == "-" or (re.fullmatch(r"\d+\.\d\d", value) and float(value) <= 100)
        found[row[0]] = {title: None if value == "-" else value for title, value in zip(head[2:], row[2:], strict=True)}
    return found


def test_moodle_goes_by_its_id_number(export: Exporter) -> None:
    rows = export("moodle", a_mark(ada(), (), (25, None, 40)), a_mark(bob()))
    assert moodle(rows, "ID number") == {
        "m1": {"Weekly code": "25.00", "Reading and discussion": None, "Final project": "40.00"},
        "m2": {"Weekly code": "25.00", "Reading and discussion": "15.00", "Final project": "40.00"},
    }


def test_moodle_goes_by_the_address_where_more_students_have_one(export: Exporter) -> None:
    found = [a_mark(ada(moodle_id="")), a_mark(bob(moodle_id="0"))]
    assert list(moodle(export("moodle", *found), "Email address")) == ["ada@x.edu", "bob@x.edu"]
    assert list(moodle(export("moodle", a_mark(ada()), a_mark(bob(moodle_id="=x", email=""))), "ID number")) == ["m1"]
    assert export.written.notes == (
        "left out: 1 of 2 students have no moodle_id that Moodle can match, such as bob: fill moodle_id in roster.csv",
    )
    with pytest.raises(ExportError, match="fill moodle_id in roster"):
        export("moodle", a_mark(Person("x")))


@slow
@given(name=TEXT, section=TEXT, sis=TEXT, login=TEXT, email=TEXT, number=TEXT)
@example(name="Li,\\", section="", sis="x", login="", email="", number="m2")
@example(name="", section="", sis="x", login="", email="", number="m,\\")
def test_no_name_or_identifier_breaks_an_import(
    export: Exporter, name: str, section: str, sis: str, login: str, email: str, number: str
) -> None:
    odd = a_mark(Person("odd", name, email, number, sis, login, section, number))
    rows = export("canvas", a_mark(ada()), odd)
    found = canvas(rows)
    assert found[("11", "", "")] == {"Weekly code": "25.00", "Reading and discussion": "15.00", "Final project": "40.00"}
    for ids in set(found) - {("11", "", "")}:
        assert all(written in ("", given) for written, given in zip(ids, (number, sis, login), strict=True))
    # Ruby reads three lines, one by one, to find the separator; PHP takes a backslash before a quote for an escape.
    lines = export.out("canvas").read_text("utf-8").splitlines()
    assert len(lines) == len(rows) and all(len(next(csv.reader([line]))) == 8 for line in lines)
    cells = [cell for row in rows for cell in row]
    rows = export("moodle", a_mark(ada()), odd)
    moodle(rows, "ID number" if len(rows) == 2 or rows[2][0] == number else "Email address")
    assert not re.search(r'\\"', export.out("moodle").read_text("utf-8"))
    cells += [cell for row in rows for cell in row if cell != "-"]
    assert not [cell for cell in cells if cell.lstrip(" \t\r\n\0").startswith(FORMULA)]


def test_two_students_with_one_identifier_are_told_apart_or_refused(export: Exporter) -> None:
    for kind, column in (("canvas", "canvas_id"), ("canvas", "sis_login"), ("moodle", "moodle_id")):
        with pytest.raises(ExportError, match=f"ada and bob have the same {column} '9'"):
            export(kind, a_mark(ada(**{column: "9"})), a_mark(bob(**{column: "9"})))  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="the same email"):  # MySQL's comparison knows no case
        export("moodle", a_mark(ada(moodle_id="", email="A@x")), a_mark(bob(moodle_id="", email="a@X")))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[canvas", "cannot be read"),
        ("x = 1", "may have the tables"),
        ("canvas = 1", "may have the tables"),
        ("[canvas]\nweek4 = 'x'", "unknown column week4"),
        ("[canvas]\nweek04 = 4", "must be a title"),
        ("[canvas]\nweek04 = ' '", "must be a title"),
        ("[canvas]\nweek04 = '=1'", "must be a title"),
        ('[canvas]\nweek04 = """a\nb"""', "must be a title"),
        ("[canvas]\nweekly_code = 'Section'", "keeps for itself"),
        ("[canvas]\nweekly_code = 'Unposted Final Grade'", "keeps for itself"),
        ("[canvas]\nweekly_code = 'Final project'", "two columns have the same title"),
    ],
)
def test_titles_that_cannot_be_used_are_told_in_one_line(export: Exporter, text: str, told: str) -> None:
    (export.root / "exports.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match=told) as error:
        export("canvas", a_mark(ada()))
    assert "exports.toml" in str(error.value) and "\n" not in str(error.value)
    assert not export.out("canvas").exists()


def test_files_that_must_not_be_written_are_not(export: Exporter, course: Course) -> None:
    found, root = [a_mark(ada())], export.root
    (root / "roster.csv").write_text("student\nada\n")
    for out, told in (
        (root, "is a folder: name a file in it"),
        (root / "no" / "x.csv", "is not there: make it"),
        (root / "x.txt", "must end in .csv"),
        (root / "roster.csv", "is a table of yours"),
        (root / ".." / root.name / "roster.csv", "is a table of yours"),
        (root / ("x" * 300 + ".csv"), "cannot be written: File name too long"),
    ):
        with pytest.raises(ExportError, match=told):
            exports.write(root, found, course, "csv", out)
    with pytest.raises(ExportError, match=r"must end in \.xlsx"):
        exports.write(root, found, course, "excel", root / "x.csv")
    with pytest.raises(ExportError, match="no students"):
        export("csv")
    with pytest.raises(ExportError, match="week 7 counts for nobody yet"):
        export("csv", *found, week=7)
    assert [path.name for path in root.iterdir()] == ["roster.csv"]
    assert (root / "roster.csv").read_text() == "student\nada\n"


def test_a_write_that_fails_leaves_the_old_file(export: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    export("csv", a_mark(ada()))
    before = export.out("csv").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports.os, "fsync", full)
    with pytest.raises(ExportError, match="No space left"):
        export("csv", a_mark(bob()))
    assert export.out("csv").read_bytes() == before and [path.name for path in export.root.iterdir()] == ["out.csv"]


def test_the_marks_of_a_course_folder(export: Exporter, course: Course) -> None:
    root = export.root / "course"
    nbcourse.write(root, course, [course.week(4)], "en", None, "bwrap")
    with Gradebook(nbcourse.database(root), nbcourse.COURSE) as book, book.db.no_autoflush:
        book.add_assignment("week04")
        book.add_notebook("code", "week04")
        book.add_grade_cell("t1", "code", "week04", max_score=70, cell_type="code")
        book.add_student("eve")
        book.add_submission("week04", "eve")
        book.find_grade("t1", "code", "week04", "eve").auto_score = 35
        book.db.commit()
    (root / "marks.toml").write_text("[weekly]\nweeks = [4]\n")
    (root / "roster.csv").write_text("student,name,email\r\nada,=李雷,ada@x.edu\r\n", encoding="utf-8-sig")
    found = marks.load(root, course, "en", reading=[], project=[])
    _, first, second = export("csv", *found)
    assert first[:8] == ["ada", "'=李雷", "ada@x.edu", "", "0.00", "0.00", "", ""]
    assert second[:1] + second[4:11] == ["eve", "50.00", "15.00", "", "", "15.00", "30", "provisional"]
    assert export("moodle", *found)[1:] == [["ada@x.edu", "'=李雷", "0.00"]] and export.written.left_out == 1


def test_the_titles_of_the_handbook_can_be_used(export: Exporter) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "exports.md").read_text(encoding="utf-8"), re.DOTALL)
    (export.root / "exports.toml").write_text(text, encoding="utf-8")
    assert export("canvas", a_mark(ada()))[0][5] == "Weekly code (12346)"
    assert export("moodle", a_mark(ada(), [a_week(4, 80)]), week=4)[0][2] == "Week 4: injection"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [a_mark(ada(), [a_week(4, 80)]), a_mark(bob(canvas_id="", name="=1"), [a_week(4, 60)], pending=["\x1b[2Jreview"])]
    monkeypatch.setattr(marks, "load", lambda root, course, lang: found, raising=False)
    out = str(tmp_path / "marks.csv")
    assert main(["export", str(tmp_path), "--format", "csv", "--out", out]) == 0
    told = capsys.readouterr()
    assert told.out == f"2 students in {out}\n"
    assert told.err == "autograder: 1 of 2 are provisional, such as bob (?[2Jreview)\n"
    assert main(["export", str(tmp_path), "--format", "canvas", "--week", "4", "--out", out]) == 1
    assert "left out: 1 of 2 students" in capsys.readouterr().err
    assert "第 4 周" not in Path(out).read_text("utf-8")
    assert main(["export", str(tmp_path), "--format", "moodle", "--week", "4", "--out", out, "--lang", "zh"]) == 0
    assert Path(out).read_text("utf-8") == "ID number,Student,第 4 周\nm1,Ada L,80.00\nm2,'=1,60.00\n"
    assert main(["export", str(tmp_path), "--format", "csv", "--week", "40", "--out", out]) == 2
    assert "Traceback" not in capsys.readouterr().err
