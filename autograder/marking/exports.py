"""Marks in the files that schools keep them in: CSV, Excel, and what Canvas and Moodle import.

What the two platforms take was read from their importers: lib/gradebook_importer.rb of instructure/canvas-lms, and
grade/import/csv/classes/load_data.php of moodle/moodle with the page "Grade import" of its documentation. See docs/exports.md.
"""

from __future__ import annotations

import csv
import io
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from openpyxl import Workbook
from openpyxl.cell import Cell as ExcelCell
from openpyxl.styles import Alignment, Font
from openpyxl.utils import get_column_letter

from autograder import UserError
from autograder.intake import clean
from autograder.manifest import Course, Lang, Text
from autograder.marking.marks import Mark, Person, WeekMark, rounded
from autograder.report import columns
from autograder.results import replace, spreadsheet_safe

Format = Literal["csv", "excel", "canvas", "moodle"]
FORMATS: tuple[Format, ...] = ("csv", "excel", "canvas", "moodle")
Cell = str | int | Decimal | None

# What an instructor keeps in a course folder; an --out of the same name is a slip that would cost a semester.
_KEPT = ("roster.csv", "groups.csv", "extensions.csv", "reading.csv", "project.csv", "received.csv")
_TITLES = "exports.toml"
_WIDEST = 60  # of a column of a sheet
_WORDS = {
    "student": Text(en="Student", zh="学生"),
    "name": Text(en="Name", zh="姓名"),
    "email": Text(en="E-mail", zh="邮箱"),
    "section": Text(en="Section", zh="班级"),
    "week": Text(en="Week {}", zh="第 {} 周"),
    "weekly_code": Text(en="Weekly code", zh="每周编程作业"),
    "reading_discussion": Text(en="Reading and discussion", zh="文献阅读与讨论"),
    "final_project": Text(en="Final project", zh="期末项目"),
    "total": Text(en="Total", zh="总分"),
    "out_of": Text(en="Out of", zh="满分"),
    "status": Text(en="Status", zh="状态"),
    "waits": Text(en="Waits for", zh="待完成"),
    "final": Text(en="final", zh="已定"),
    "provisional": Text(en="provisional", zh="暂定"),
    "unmarked": Text(en="{}: not marked yet", zh="{}：尚未评分"),
    "marks": Text(en="Marks", zh="成绩"),
    "weeks": Text(en="Weeks", zh="各周"),
    "explanation": Text(en="Explanation", zh="说明"),
    "which_week": Text(en="Week", zh="周次"),
    "before": Text(en="Before lateness", zh="扣迟交分前"),
    "score": Text(en="Score", zh="得分"),
    "counts": Text(en="Counts", zh="是否计入"),
    "yes": Text(en="yes", zh="是"),
    "no": Text(en="no", zh="否"),
    "notes": Text(en="Notes", zh="备注"),
    "part": Text(en="Part", zh="组成"),
    "line": Text(en="How it comes about", zh="计算过程"),
}


class ExportError(UserError):
    """Nothing was written; the text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: how many students, how many had to be left out, and what the user has to know, a line each."""

    students: int
    left_out: int
    notes: tuple[str, ...]


def write(
    root: Path, marks: Sequence[Mark], course: Course, kind: Format, out: Path, week: int | None = None, lang: Lang = "en"
) -> Written:
    """Write the marks of a class to a file, which is there whole or not at all.

    Args:
        root: the course folder, whose exports.toml may name the columns for Canvas and Moodle.
        week: only this week's score, instead of the whole mark.

    Raises:
        ExportError: the file cannot be written, there is nothing to write, or the platform could not tell students apart.
    """
    _check(root, out, ".xlsx" if kind == "excel" else ".csv")
    if not marks:
        raise ExportError(f"{root} has no students: list them in roster.csv")
    view = _View(course, marks, week, lang)
    if kind in ("csv", "excel"):
        data = _csv(view) if kind == "csv" else _excel(view)
        written = Written(len(marks), 0, tuple(view.provisional(marks)))
    else:
        data, written = _platform(root, view, kind)
    _replace(out, data)
    return written


def points(value: Fraction) -> Decimal:
    """A score with two decimals, halves rounded up."""
    return Decimal(rounded(value)).quantize(Decimal("0.01"))


def plain(text: str) -> str:
    """A text as one line that every file format can hold and nothing turns round.

    Line breaks and tabs become a space; control characters, overrides of the writing direction and what is no character
    (a file name that is not UTF-8 arrives with some) become U+FFFD.
    """
    return _ODD.sub("\ufffd", _BREAKS.sub(" ", text))


_BREAKS = re.compile("[\t-\r\x85\u2028\u2029]+")
_ODD = re.compile("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of marks; `most` is what it can hold, None where it is text."""

    key: str
    title: str
    value: Callable[[Mark], Cell]
    most: int | None = None
    excused: Callable[[Mark], bool] = lambda mark: False


class _View:
    """What is exported of a class: the whole mark or one week, in one language."""

    def __init__(self, course: Course, marks: Sequence[Mark], week: int | None, lang: Lang) -> None:
        self.marks, self.week, self.lang = marks, week, lang
        self.parts = [entry.name for entry in fields(course.grade)]
        numbers = sorted({w.number for mark in marks for w in mark.weeks})
        if week is not None:
            if week not in numbers:
                raise ExportError(f"week {week} counts for nobody yet: `autograder marks` shows which weeks do")
            numbers = [week]
        self.weeks = [self._of_week(number) for number in numbers]

    def word(self, key: str, *values: object) -> str:
        """A word in the language of the export."""
        return _WORDS[key].of(self.lang).format(*values)

    def items(self) -> list[_Column]:
        """What a platform keeps as an assignment each: the parts of the mark, which add up to it, or the one week."""
        if self.week is not None:
            return self.weeks
        return [self._of_part(place, key) for place, key in enumerate(self.parts)]

    def columns(self) -> list[_Column]:
        """Every column of the table of marks."""
        texts = [self._of_person(key) for key in ("student", "name", "email", "section")]
        ends = [
            _Column("status", self.word("status"), self.status),
            _Column("waits", self.word("waits"), lambda mark: "; ".join(self.waits(mark))),
        ]
        if self.week is not None:
            out_of = _Column("out_of", self.word("out_of"), lambda mark: self.weeks[0].most)
            return [*texts, *self.weeks, out_of, *ends]
        sums = [
            _Column("total", self.word("total"), lambda mark: points(mark.total) if mark.out_of else None),
            _Column("out_of", self.word("out_of"), lambda mark: mark.out_of),
        ]
        return [*texts, *self.weeks, *self.items(), *sums, *ends]

    def waits(self, mark: Mark) -> list[str]:
        """What the mark, or the week's score, still waits for."""
        if self.week is not None:
            return [text for w in mark.weeks if w.number == self.week for text in w.pending]
        unmarked = [
            self.word("unmarked", self.word(key))
            for key, part in zip(self.parts, mark.parts, strict=True)
            if part.earned is None and not part.pending
        ]
        return list(dict.fromkeys([*mark.pending, *unmarked]))

    def status(self, mark: Mark) -> str:
        """final or provisional; empty for who has nothing in the week."""
        if self.week is not None and all(w.number != self.week for w in mark.weeks):
            return ""
        return self.word("provisional" if self.waits(mark) else "final")

    def provisional(self, marks: Sequence[Mark]) -> list[str]:
        """A line on how many of these are provisional, and why one is; none if all are final."""
        found = [mark for mark in marks if self.waits(mark)]
        if not found:
            return []
        example = f"{clean(found[0].person.student)} ({clean(self.waits(found[0])[0])})"
        return [f"{len(found)} of {len(marks)} are provisional, such as {example}"]

    def _of_person(self, key: str) -> _Column:
        return _Column(key, self.word(key), lambda mark: str(getattr(mark.person, key)))

    def _of_week(self, number: int) -> _Column:
        def value(mark: Mark) -> Cell:
            return next((_score(w) for w in mark.weeks if w.number == number), None)

        def excused(mark: Mark) -> bool:
            return any(w.number == number and w.standing == "excused" for w in mark.weeks)

        return _Column(f"week{number:02d}", self.word("week", number), value, 100, excused)  # 100: the manifest sees to it

    def _of_part(self, place: int, key: str) -> _Column:
        def value(mark: Mark) -> Cell:
            earned = mark.parts[place].earned
            return None if earned is None else points(earned)

        return _Column(key, self.word(key), value, self.marks[0].parts[place].weight)


def _score(week: WeekMark) -> Cell:
    """A week's score; None, rather than 0, where a student was excused, has until later, or handed in what nobody graded yet."""
    return None if week.standing in ("excused", "open", "ungraded") else points(week.score)


# CSV and Excel


def _csv(view: _View) -> bytes:
    columns = view.columns()
    head = [column.key if view.lang == "en" else column.title for column in columns]
    rows = [[column.value(mark) for column in columns] for mark in view.marks]
    # Without the mark at its beginning Excel takes the file for one in the system's old encoding.
    return b"\xef\xbb\xbf" + _table([head, *rows])


def _table(rows: Iterable[Sequence[Cell]], none: str = "") -> bytes:
    def text(cell: Cell) -> str:
        return none if cell is None else spreadsheet_safe(plain(cell)) if isinstance(cell, str) else str(cell)

    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows([text(cell) for cell in row] for row in rows)
    return out.getvalue().encode()


def _excel(view: _View) -> bytes:
    book = Workbook()
    book.remove(book.worksheets[0])
    word = view.word
    columns = view.columns()
    rows: list[list[Cell]] = [[column.value(mark) for column in columns] for mark in view.marks]
    _sheet(book, word("marks"), [column.title for column in columns], rows)
    numbers = {view.week} if view.week is not None else {w.number for mark in view.marks for w in mark.weeks}
    rows = [
        [
            mark.person.student, mark.person.name, w.number, points(w.raw), _score(w), word("yes" if w.counts else "no"),
            "; ".join(w.notes), "; ".join(w.pending),
        ]
        for mark in view.marks for w in mark.weeks if w.number in numbers
    ]  # fmt: skip
    heads = [word(key) for key in ("student", "name")]
    more = [word(key) for key in ("which_week", "before", "score", "counts", "notes", "waits")]
    _sheet(book, word("weeks"), [*heads, *more], rows)
    if view.week is None:
        rows = [
            [mark.person.student, mark.person.name, word(key), line]
            for mark in view.marks for key, part in zip(view.parts, mark.parts, strict=True) for line in part.lines
        ]  # fmt: skip
        _sheet(book, word("explanation"), [*heads, word("part"), word("line")], rows)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _sheet(book: Workbook, title: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    sheet = book.create_sheet(title)
    for place, heading in enumerate(head):
        column = [row[place] for row in rows]
        widest = max(map(_width, [heading, *column]))
        for number, value in enumerate([heading, *column], 1):
            if value is None or value == "":
                continue
            cell = sheet.cell(number, place + 1)
            if isinstance(value, str):
                _put_text(cell, value)
            else:
                cell.value = value
                cell.number_format = "0.00" if isinstance(value, Decimal) else "0"
            if widest > _WIDEST:  # a style costs more time than a cell: only where it is needed
                cell.alignment = Alignment(wrap_text=True)
        first = sheet.cell(1, place + 1)
        first.font = Font(name="Calibri", size=11, bold=True)
        if any(isinstance(value, int | Decimal) for value in column):
            first.alignment = Alignment(horizontal="right")
        sheet.column_dimensions[get_column_letter(place + 1)].width = min(widest, _WIDEST) + 3
    sheet.freeze_panes = "C2"  # the headings, and who it is
    sheet.auto_filter.ref = sheet.dimensions
    sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "landscape", 0  # one page wide, for who prints it
    sheet.sheet_properties.pageSetUpPr.fitToPage = True
    sheet.print_title_rows = "1:1"


def _put_text(cell: ExcelCell, text: str) -> None:
    text = plain(text)
    cell.value = text
    cell.data_type = "s"  # and not a formula or an error, which openpyxl makes of "=1" and "#N/A"
    if spreadsheet_safe(text) != text:
        cell.quotePrefix = True  # or who edits the cell would set it free


def _width(value: Cell) -> int:
    """How many columns of a terminal's a text takes: a Chinese character takes two."""
    return 0 if value is None else columns(str(value))


# Canvas and Moodle


@dataclass(frozen=True, slots=True)
class _Roll:
    """Whom a platform can match, with the cells that say who it is; what the others lack, and what mends it."""

    heads: tuple[str, ...]
    found: list[tuple[Mark, tuple[str, ...]]]
    lacks: str
    mend: str


# Canvas drops a column whose heading holds one of these, and looks for students under the others.
_CANVAS_OWN = re.compile("(Current|Final) (Score|Points|Grade)|Override (Score|Grade|Status)")
_CANVAS_RESERVED = (
    "Student", "LastName", "FirstName", "ID", "SIS User ID", "SIS Login ID", "Section", "Integration ID", "Root Account",
)  # fmt: skip


def _platform(root: Path, view: _View, kind: Format) -> tuple[bytes, Written]:
    roll = _canvas(view.marks) if kind == "canvas" else _moodle(view.marks)
    students = [mark for mark, _ in roll.found]
    known = {mark.person.student for mark in students}
    left_out = [mark.person.student for mark in view.marks if mark.person.student not in known]
    example = clean(left_out[0]) if left_out else ""
    lacking = f"{len(left_out)} of {len(view.marks)} students have no {roll.lacks}, such as {example}: {roll.mend}"
    if not students:
        raise ExportError(lacking)
    notes = view.provisional(students)
    items = []
    for item in view.items():
        if any(item.value(mark) is not None for mark in students):
            items.append(item)
        else:  # an empty column would take away what stands in the platform
            notes.append(f"{item.key} is left out: nothing of it is marked yet")
    if not items:
        raise ExportError("nothing of it is marked yet: there is nothing to import")
    titles = _titles(root, kind, view.parts)
    heads = [titles.get(item.key, item.title) for item in items]
    if len(set(heads)) < len(heads):
        raise ExportError(f"{root / _TITLES}: two columns have the same title: give each its own")
    rows: list[list[Cell]] = [[*roll.heads, *heads]]
    if kind == "canvas":
        rows.append(["    Points Possible", *[""] * (len(roll.heads) - 1), *(item.most for item in items)])
    for mark, cells in roll.found:
        scores = ["EX" if kind == "canvas" and item.excused(mark) else item.value(mark) for item in items]
        rows.append([*cells, *scores])
    # In Moodle an empty cell under a new item would be a grade; a dash is what it writes itself for none.
    data = _table(rows, none="" if kind == "canvas" else "-")
    return data, Written(len(students), len(left_out), (*notes, *([f"left out: {lacking}"] if left_out else [])))


def _canvas(marks: Sequence[Mark]) -> _Roll:
    """Canvas matches a row by ID, then by SIS User ID, then by SIS Login ID, and else by the name, which tells nobody apart."""
    found = [(mark, ids) for mark in marks if any(ids := _canvas_ids(mark.person))]
    for place, column in enumerate(("canvas_id", "sis_id", "sis_login")):
        _differ(column, [(mark, ids[place]) for mark, ids in found])
    return _Roll(
        ("Student", "ID", "SIS User ID", "SIS Login ID", "Section"),
        # A row whose name holds "Points Possible" is none of a student's for Canvas.
        [(m, (_label(m.person).replace("Points Possible", "Points-Possible"), *ids, m.person.section)) for m, ids in found],
        "identifier that Canvas can match",
        "fill canvas_id, sis_id or sis_login in roster.csv (docs/exports.md says what they may hold)",
    )


def _canvas_ids(person: Person) -> tuple[str, str, str]:
    # Canvas takes the digits that an ID begins with for the whole, and mends "1.2.3" and "1,5" into other numbers.
    number = person.canvas_id if re.fullmatch("[1-9][0-9]{0,19}", person.canvas_id) else ""
    sis, login = (
        "" if re.fullmatch("[0-9.,]+%?", text) and not text.isdigit() else text
        for text in (_usable(person.sis_id), _usable(person.sis_login))
    )
    return number, sis, login


def _moodle(marks: Sequence[Mark]) -> _Roll:
    """Moodle matches all rows by one column; it gives the grades of a row whose identifier is empty to the student before."""

    def identified(column: str) -> list[tuple[Mark, str]]:
        pairs = [(mark, _usable(getattr(mark.person, column))) for mark in marks]
        return [(mark, text) for mark, text in pairs if text not in ("", "0")]  # PHP takes "0" for empty

    column, head, found = max(
        (("moodle_id", "ID number", identified("moodle_id")), ("email", "Email address", identified("email"))),
        key=lambda choice: len(choice[2]),
    )
    _differ(column, found)
    return _Roll(
        (head, "Student"),
        [(mark, (text, _label(mark.person))) for mark, text in found],
        f"{column} that Moodle can match",
        f"fill {column} in roster.csv",
    )


def _usable(text: str) -> str:
    """An identifier that can be written as it is, or "": one that a spreadsheet would run may be neither written nor altered."""
    # PHP takes a backslash before a quote for an escape, and a cell with a comma ends in a quote.
    odd = '"' in text or text.endswith("\\") or text != text.strip() or not text.isprintable()
    return "" if odd or spreadsheet_safe(text) != text else text


def _differ(column: str, found: Iterable[tuple[Mark, str]]) -> None:
    seen: dict[str, str] = {}
    for mark, text in found:
        other = seen.setdefault(text.casefold(), mark.person.student)
        if text and other != mark.person.student:
            both = f"{clean(other)} and {clean(mark.person.student)}"
            raise ExportError(f"roster.csv: {both} have the same {column} {text!r}: correct one")


def _label(person: Person) -> str:
    """A name for people to read, without quotes and backslashes (see `_usable`)."""
    return plain(person.name or person.student).replace('"', "'").replace("\\", "/")


def _titles(root: Path, kind: Format, parts: Sequence[str]) -> dict[str, str]:
    """What exports.toml calls the columns for this platform, by column."""
    path = root / _TITLES
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read ({error}): correct it") from None
    table = raw.get(kind, {})
    if not set(raw) <= {"canvas", "moodle"} or not isinstance(table, dict):
        raise ExportError(f"{path}: it may have the tables [canvas] and [moodle], and nothing else")
    for key, title in table.items():
        if key not in parts and not re.fullmatch("week[0-9]{2}", key):
            raise ExportError(f"{path}, [{kind}]: unknown column {key}; there are week01 and on, {', '.join(parts)}")
        if not isinstance(title, str) or not _usable(title):
            raise ExportError(f'{path}, [{kind}]: {key} must be a title such as "Week 1", without quotes and not a formula')
        if kind == "canvas" and (title in _CANVAS_RESERVED or _CANVAS_OWN.search(title)):
            raise ExportError(f"{path}, [canvas]: {key} must not be {title!r}, which Canvas keeps for itself")
    return table


# Files


def _check(root: Path, out: Path, suffix: str) -> None:
    if os.path.isdir(out):
        raise ExportError(f"{out} is a folder: name a file in it, such as {out / f'marks{suffix}'}")
    if out.suffix.lower() != suffix:
        raise ExportError(f"{out} must end in {suffix}")
    if not os.path.isdir(out.parent):
        raise ExportError(f"the folder {out.parent} is not there: make it, or name another --out")
    if out.name in _KEPT and out.parent.resolve() == root.resolve():
        raise ExportError(f"{out.name} in {root} is a table of yours: name another --out, such as {out.with_name('marks.csv')}")


def _replace(out: Path, data: bytes) -> None:
    try:
        replace(out, [data])
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from None
