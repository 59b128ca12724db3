"""The course mark of each student, as exact fractions, with every line that it comes from (docs/marks.md).

Read of a course folder that `autograder nbgrader` made: the gradebook for the weeks, and roster.csv, groups.csv, extensions.csv,
reading.csv, project.csv and marks.toml, all of which may be missing.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from autograder import UserError
from autograder.manifest import Course, Lang, Text, Week
from autograder.marking import gradebook, nbcourse, policy, tables
from autograder.marking.gradebook import Contents, Submission
from autograder.marking.tables import Row

EXCUSED = "excused"  # in a table: this does not count for this student


class MarksError(UserError):
    """A mark cannot be computed; the text is one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Person:
    """A row of roster.csv; what the school's systems call a student."""

    student: str
    name: str = ""
    email: str = ""
    canvas_id: str = ""
    sis_id: str = ""
    sis_login: str = ""
    section: str = ""
    moodle_id: str = ""


@dataclass(frozen=True, slots=True)
class WeekMark:
    """One week of a student: what counts of its 100 points, after lateness, and why.

    Attributes:
        raw: before lateness.
        standing: "counts"; "ungraded", handed in and 0 for now; or why the week is no part of the mean: "dropped", "excused", or
            "open", where the student's own due date is yet to come.
        pending: what still waits for somebody, such as "code review".
    """

    number: int
    raw: Fraction
    score: Fraction
    notes: tuple[str, ...] = ()
    standing: Literal["counts", "ungraded", "dropped", "excused", "open"] = "counts"
    pending: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the week is part of the mean."""
        return self.standing in ("counts", "ungraded")


@dataclass(frozen=True, slots=True)
class Part:
    """One of the three parts of the mark.

    Attributes:
        earned: of `weight` points of the course mark; None if nothing of it is marked yet.
        lines: the explanation.
    """

    name: str
    weight: int
    earned: Fraction | None
    lines: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """A student's mark: `total` of `out_of` points; `out_of` is 100 once every part has been marked."""

    person: Person
    weeks: tuple[WeekMark, ...]
    parts: tuple[Part, ...]
    group: str = ""

    @property
    def pending(self) -> tuple[str, ...]:
        """What still waits for somebody; the mark is provisional while anything does."""
        return tuple(text for part in self.parts for text in part.pending)

    @property
    def total(self) -> Fraction:
        """The sum of what has been earned."""
        return sum((part.earned for part in self.parts if part.earned is not None), Fraction(0))

    @property
    def out_of(self) -> int:
        """The weight of the parts that have been marked."""
        return sum(part.weight for part in self.parts if part.earned is not None)


@dataclass(frozen=True, slots=True)
class Criterion:
    """A column of reading.csv or project.csv.

    Attributes:
        individual: whether each student of a team has a score of their own.
    """

    id: str
    title: Text
    points: Fraction
    individual: bool = False


def load(
    root: Path,
    course: Course,
    lang: Lang = "en",
    *,
    now: datetime.datetime | None = None,
    scores: Mapping[tuple[str, str], Mapping[tuple[str, str], float]] | None = None,
    reading: Sequence[Criterion] | None = None,
    project: Sequence[Criterion] | None = None,
) -> list[Mark]:
    """The mark of every student, in the order of roster.csv, those whom it lacks after them.

    Args:
        root: the course folder.
        now: what is not due by then does not count yet.
        scores: judge's scores that go before the gradebook's, by (student, assignment), then (notebook, cell).
        reading, project: the criteria; by default those of the course.

    Raises:
        UserError: if a table, marks.toml or the gradebook cannot be read, or they contradict each other.
    """
    book = gradebook.read(root)
    for key, changed in (scores or {}).items():
        if key in book.submissions:
            book.submissions[key] = _with(book.submissions[key], changed)
    return _Class(root, course, lang, book, now or datetime.datetime.now(datetime.UTC), reading, project).marks()


def rounded(value: Fraction, places: int = 2) -> str:
    """A decimal of at most so many places, halves away from zero, without zeros at the end."""
    whole, part = divmod(math.floor(abs(value) * 10**places + Fraction(1, 2)), 10**places)
    text = f"{whole}.{part:0{places}d}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 and text != "0" else text


def roster(root: Path) -> list[Person]:
    """The rows of roster.csv in a course folder.

    Raises:
        TableError: if it cannot be read, or lists a student twice.
    """
    found: dict[str, Person] = {}
    for row in tables.read(root / "roster.csv", ["student"]):
        student = row["student"]
        if not student or student in found:
            raise row.error(f"{student!r} is listed twice: keep one" if student else "the student's id is missing")
        found[student] = Person(student, **{name: row[name] for name in tables.ROSTER[1:]})
    return list(found.values())


class _Class:
    """A class whose marks are computed; reads every table once."""

    def __init__(
        self,
        root: Path,
        course: Course,
        lang: Lang,
        book: Contents,
        now: datetime.datetime,
        reading: Sequence[Criterion] | None,
        project: Sequence[Criterion] | None,
    ) -> None:
        self.root, self.course, self.zh, self.book, self.now = root, course, lang == "zh", book, now
        self.lang: Lang = lang
        self.policy = policy.read(root / "marks.toml", course)
        handed_in = {(path.parent.name, path.name) for path in (root / "submitted").glob("*/week*") if path.is_dir()}
        self.ungraded = handed_in - set(book.submissions)
        people = {person.student: person for person in roster(root)}
        others = {*book.students, *(student for student, _ in handed_in)} - set(people)
        self.people = people | {student: Person(student) for student in sorted(others)}
        self.teams = self._teams()
        self.extensions = self._extensions()
        self.weeks = self._weeks()
        self.reading_form = reading if reading is not None else _reading_form()
        self.project_form = project if project is not None else _project_form()
        self.reading_rows = self._reading_rows()
        self.project_rows = self._project_rows()

    def marks(self) -> list[Mark]:
        grade, made = self.course.grade, []
        for student, person in self.people.items():
            weeks = self._dropped([self._week(student, week) for week in self.weeks])
            parts = (
                self._weekly(weeks, grade.weekly_code),
                self._reading(student, grade.reading_discussion),
                self._project(student, grade.final_project),
            )
            made.append(Mark(person, tuple(weeks), parts, self._team(student, "project") or ""))
        return made

    def _say(self, en: str, zh: str) -> str:
        return zh if self.zh else en

    # What the tables say

    def _known(self, row: Row) -> str:
        student = row["student"]
        if student not in self.people:
            raise row.error(f"there is no student {student!r}: correct it, or add a row to roster.csv")
        return student

    def _teams(self) -> dict[str, dict[str, str]]:
        """The team of each student by what it is for: "" for everything, "project", "week09"."""
        found: dict[str, dict[str, str]] = {}
        folders = {week.folder for week in self.course.weeks}
        for row in tables.read(self.root / "groups.csv", ["group", "student"], ["for"]):
            student, what = self._known(row), row["for"]
            if not row["group"]:
                raise row.error("the group is missing")
            if what and what != "project" and what not in folders:
                raise row.error(f"for must be project, a week such as week09, or empty for everything, not {what!r}")
            if what in found.setdefault(student, {}):
                raise row.error(f"{student!r} is in two groups: keep one")
            found[student][what] = row["group"]
        return found

    def _team(self, student: str, what: str) -> str | None:
        own = self.teams.get(student, {})
        return own.get(what, own.get(""))

    def _members(self, student: str, what: str) -> list[str]:
        team = self._team(student, what)
        if team is None:
            return [student]
        return [student, *(other for other in self.people if other != student and self._team(other, what) == team)]

    def _extensions(self) -> dict[tuple[str, str], datetime.datetime | None]:
        """The later due date by (student, week's folder); None: excused."""
        found: dict[tuple[str, str], datetime.datetime | None] = {}
        folders = {name: week.folder for week in self.course.weeks for name in (week.folder, str(week.number))}
        for row in tables.read(self.root / "extensions.csv", ["student", "week", "due"], ["reason"]):
            student, week = self._known(row), folders.get(row["week"])
            if week is None:
                raise row.error(f"there is no week {row['week']!r}")
            if (student, week) in found:
                raise row.error(f"{student!r} has two rows for {week}: keep one")
            if row["due"] == EXCUSED:
                found[student, week] = None
                continue
            try:
                due = datetime.datetime.fromisoformat(row["due"])
            except ValueError:
                due = None
            if due is None or due.tzinfo is None:
                raise row.error(
                    f"due must be {EXCUSED}, or a time with its offset such as 2026-03-10T23:59+08:00, not {row['due']!r}"
                )
            normal = self._due(week)
            if normal is not None and due < normal:
                raise row.error(f"due lies before the due date of {week} ({_time(normal)}): an extension is later")
            found[student, week] = due
        return found

    def _due(self, week: str) -> datetime.datetime | None:
        return self.policy.due.get(week) or self.book.due.get(week)

    def _weeks(self) -> list[Week]:
        if self.policy.weeks is not None:
            return [self.course.week(number) for number in self.policy.weeks]
        begun = {name for _, name in self.book.submissions} | {name for _, name in self.ungraded}
        due = {week.folder: self._due(week.folder) for week in self.course.weeks}
        return [week for week in self.course.weeks if week.folder in begun and (due[week.folder] or self.now) <= self.now]

    def _reading_rows(self) -> dict[str, dict[str, Row]]:
        """Rows of reading.csv by what they are for, then student."""
        found: dict[str, dict[str, Row]] = {}
        folders = {name: week.folder for week in self.course.weeks for name in (week.folder, str(week.number))}
        columns = [criterion.id for criterion in self.reading_form]
        for row in tables.read(self.root / "reading.csv", ["student", "week", *columns], ["comment"]):
            student, week = self._known(row), folders.get(row["week"])
            if week is None:
                raise row.error(f"there is no week {row['week']!r}")
            if student in found.setdefault(week, {}):
                raise row.error(f"{student!r} has two rows for {week}: keep one")
            found[week][student] = row
        return dict(sorted(found.items()))

    def _project_rows(self) -> dict[tuple[str, str], Row]:
        """Rows of project.csv by ("student" or "group", its name)."""
        found: dict[tuple[str, str], Row] = {}
        columns = [criterion.id for criterion in self.project_form]
        groups = {self._team(student, "project") for student in self.people}
        for row in tables.read(self.root / "project.csv", ["student", "group", *columns], ["comment"]):
            if bool(row["student"]) == bool(row["group"]):
                raise row.error("give a student or a group, and not both")
            if row["group"] and row["group"] not in groups:
                raise row.error(f"groups.csv has no group {row['group']!r}")
            key = ("group", row["group"]) if row["group"] else ("student", self._known(row))
            if key in found:
                raise row.error(f"the {key[0]} {key[1]!r} has two rows: keep one")
            found[key] = row
        return found

    # The weekly code

    def _week(self, student: str, week: Week) -> WeekMark:
        """A student's week: the best of what the team handed in."""
        members = self._members(student, week.folder)
        own = self.extensions.get((student, week.folder), ...)
        if own is None:
            note = self._say("excused: does not count", "免交，不计入")
            return WeekMark(week.number, Fraction(0), Fraction(0), (note,), "excused")
        due = self._due(week.folder)
        later = [when for member in members if (when := self.extensions.get((member, week.folder)))]
        found = {member: self._submission(member, week, due, later) for member in members}
        marks = {member: mark for member, mark in found.items() if mark is not None}
        waiting = any((member, week.folder) in self.ungraded for member in members)
        not_graded = (self._say("handed in, not graded yet", "已提交，尚未评分"),) if waiting else ()
        if marks:
            best = max(marks, key=lambda member: marks[member].score)
            notes = () if best == student else (self._say(f"handed in by {best}, of the same group", f"由同组的 {best} 提交"),)
            pending = [what for mark in marks.values() for what in mark.pending]
            chosen = marks[best]
            return replace(
                chosen, notes=(*chosen.notes, *notes, *not_graded), pending=tuple(dict.fromkeys([*pending, *not_graded]))
            )
        nothing = WeekMark(week.number, Fraction(0), Fraction(0))
        if waiting:
            return replace(nothing, notes=not_graded, standing="ungraded", pending=not_graded)
        if later and max(later) > self.now:
            extended = (self._say(f"not due until {_time(max(later))}", f"延期至 {_time(max(later))}"),)
            return replace(nothing, notes=extended, standing="open", pending=extended)
        return replace(nothing, notes=(self._say("nothing handed in", "未提交"),))

    def _submission(
        self, student: str, week: Week, due: datetime.datetime | None, later: list[datetime.datetime]
    ) -> WeekMark | None:
        found = self.book.submissions.get((student, week.folder))
        if found is None:
            return None
        if not found.maximum:
            raise MarksError(f"{week.folder} has no points in the gradebook: run `nbgrader generate_assignment {week.folder}`")
        notes, pending, raw = [], [], Fraction(0)
        for name, cells in self._kinds(found, week).items():
            score, most = sum((c.score for c in cells), Fraction(0)), sum((c.maximum for c in cells), Fraction(0))
            raw += score
            notes.append(self._say(f"{name} {rounded(score)} of {rounded(most)}", f"{name} {rounded(score)}/{rounded(most)}"))
            if any(cell.pending for cell in cells):
                pending.append(name)
        raw = min(raw / found.maximum, Fraction(1)) * 100
        kept, note = self._lateness(found, due, later)
        notes += [note] if note else []
        if pending:
            notes.append(self._say(f"waits: {', '.join(pending)}", f"待评：{'、'.join(pending)}"))
        return WeekMark(week.number, raw, raw * kept, tuple(notes), pending=tuple(pending))

    def _kinds(self, found: Submission, week: Week) -> dict[str, list[gradebook.Cell]]:
        names = (self._say("code", "代码"), self._say("review", "代码评审"), self._say("notebook", "笔记本"))
        kinds: dict[str, list[gradebook.Cell]] = {}
        for (notebook, name), cell in sorted(found.cells.items()):
            kind = 2 if notebook != nbcourse.CODE else 1 if name == nbcourse.REVIEW else 0
            kinds.setdefault(names[kind], []).append(cell)
        return {name: kinds[name] for name in names if name in kinds}

    def _lateness(self, found: Submission, due: datetime.datetime | None, later: list[datetime.datetime]) -> tuple[Fraction, str]:
        """The share that is kept, and the note about it."""
        if due is None or found.received is None:
            return Fraction(1), ""
        last = max([due + found.extension, *later])
        over = found.received - last
        if over <= datetime.timedelta():
            extended = self._say(f"due date extended to {_time(last)}", f"截止时间延至 {_time(last)}")
            return Fraction(1), extended if found.received > due else ""
        days = -(-over // datetime.timedelta(days=1))
        when = self._say(
            f"{days} day{'s' * (days != 1)} late: {_time(found.received)}, due {_time(last)}",
            f"迟交 {days} 天：{_time(found.received)} 提交，截止 {_time(last)}",
        )
        if self.policy.late is None:
            return Fraction(1), self._say(f"{when}; nothing taken off", f"{when}；不扣分")
        grace, percent, most = self.policy.late
        if over <= grace:
            return Fraction(1), self._say(f"{when}; within the grace period", f"{when}；在宽限期内")
        kept = Fraction(0) if most is not None and days > most else max(Fraction(0), 1 - percent * days / 100)
        taken = rounded((1 - kept) * 100)
        return kept, self._say(f"{when}; {taken} % taken off", f"{when}；扣 {taken}%")

    def _dropped(self, weeks: list[WeekMark]) -> list[WeekMark]:
        """The weeks with the lowest left out; one at least stays."""
        counted = [mark for mark in weeks if mark.counts]
        number = min(self.policy.drop_lowest, max(0, len(counted) - 1))
        low = sorted(counted, key=lambda mark: mark.score)[:number]
        note = self._say("dropped, the lowest", "最低分，不计入")
        return [
            replace(mark, notes=(*mark.notes, note), standing="dropped") if any(mark is other for other in low) else mark
            for mark in weeks
        ]

    def _weekly(self, weeks: list[WeekMark], weight: int) -> Part:
        title = self._say("weekly code", "每周代码")
        lines: list[str] = []
        pending: list[str] = []
        for mark in weeks:
            name = self._say(f"week {mark.number}", f"第 {mark.number} 周")
            score = rounded(mark.score) if mark.counts else "-"
            lines.append(f"{name:<8} {score:>6}  {self._say('; ', '；').join(mark.notes)}")
            pending += [f"{name}: {what}" for what in mark.pending]
        counted = [mark.score for mark in weeks if mark.counts]
        if not counted:
            return Part(title, weight, None, (*lines, self._say("no week counts yet", "尚无计入的周次")), tuple(pending))
        mean = sum(counted, Fraction(0)) / len(counted)
        earned = mean * weight / 100
        lines.append(
            self._say(
                f"mean of {len(counted)} week{'s' * (len(counted) != 1)}: {rounded(mean)} of 100, times {weight} %",
                f"{len(counted)} 周平均 {rounded(mean)}/100，乘以 {weight}%",
            )
        )
        return Part(title, weight, earned, tuple(lines), tuple(pending))

    # Reading and discussion, and the project

    def _cells(self, rows: Sequence[Row], form: Sequence[Criterion], pending: list[str], label: str) -> Fraction:
        """The sum of a row's scores; the first row that has one decides."""
        total = Fraction(0)
        for criterion in form:
            given = next((row for row in rows if row[criterion.id]), None)
            if given is None:
                pending.append(f"{label}: {criterion.title.of(self.lang)}")
            else:
                total += _score(given, criterion)
        return total

    def _reading(self, student: str, weight: int) -> Part:
        title = self._say("reading and discussion", "阅读与讨论")
        most = sum((criterion.points for criterion in self.reading_form), Fraction(0))
        shares: list[tuple[str, Fraction]] = []
        lines: list[str] = []
        pending: list[str] = []
        for folder, rows in self.reading_rows.items():
            number = int(folder.removeprefix("week"))
            name = self._say(f"week {number}", f"第 {number} 周")
            row = rows.get(student)
            if row is None:
                shares.append((name, Fraction(0)))
                lines.append(f"{name:<8} {0:>6}  {self._say('no row in reading.csv', 'reading.csv 中没有记录')}")
            elif any(row[criterion.id] == EXCUSED for criterion in self.reading_form):
                lines.append(f"{name:<8} {'-':>6}  {self._say('excused', '免交')}")
            else:
                score = self._cells([row], self.reading_form, pending, name)
                shares.append((name, score / most))
                lines.append(f"{name:<8} {rounded(score):>6}  {self._say('of', '满分')} {rounded(most)}")
        if not shares:
            return Part(title, weight, None, (*lines, self._say("nothing marked yet", "尚未评分")), tuple(pending))
        number = min(self.policy.reading_drop_lowest, len(shares) - 1)
        low, kept = sorted(shares, key=lambda item: item[1])[:number], sorted(shares, key=lambda item: item[1])[number:]
        if low:
            names = self._say(", ", "、").join(name for name, _ in low)
            lines.append(self._say(f"dropped, the lowest: {names}", f"去掉最低分：{names}"))
        mean = sum((share for _, share in kept), Fraction(0)) / len(kept)
        percent = rounded(mean * 100)
        lines.append(self._say(f"mean {percent} %, times {weight}", f"平均 {percent}%，乘以 {weight}"))
        return Part(title, weight, mean * weight, tuple(lines), tuple(pending))

    def _project(self, student: str, weight: int) -> Part:
        title = self._say("final project", "期末项目")
        team = self._team(student, "project")
        own, shared = self.project_rows.get(("student", student)), self.project_rows.get(("group", team or ""))
        if not self.project_rows:
            return Part(title, weight, None, (self._say("nothing marked yet", "尚未评分"),))
        if own is None and shared is None:
            line = self._say("no row in project.csv", "project.csv 中没有记录")
            return Part(title, weight, Fraction(0), (line,), (f"{title}: {line}",))
        lines: list[str] = []
        pending: list[str] = []
        total, most = Fraction(0), Fraction(0)
        for criterion in self.project_form:
            # What is each student's own never comes from the team's row.
            rows = [row for row in (own, None if criterion.individual and team else shared) if row is not None]
            score = self._cells(rows, [criterion], pending, title)
            whose = (
                ""
                if not shared or (own is not None and own[criterion.id])
                else self._say(f"  (group {team})", f"（小组 {team}）")
            )
            lines.append(
                self._say(
                    f"{rounded(score):>6} of {rounded(criterion.points):<4} {criterion.title.en}{whose}",
                    f"{rounded(score):>6}/{rounded(criterion.points):<4} {criterion.title.zh}{whose}",
                )
            )
            total, most = total + score, most + criterion.points
        lines.append(
            self._say(
                f"{rounded(total)} of {rounded(most)}, times {weight} %", f"共 {rounded(total)}/{rounded(most)}，乘以 {weight}%"
            )
        )
        return Part(title, weight, total / most * weight, tuple(lines), tuple(pending))


def _score(row: Row, criterion: Criterion) -> Fraction:
    text = row[criterion.id]
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text) or Fraction(text) > criterion.points:
        raise row.error(f"{criterion.id} must be a number from 0 to {rounded(criterion.points)} such as 1.5, not {text!r}")
    return Fraction(text)


def _with(found: Submission, changed: Mapping[tuple[str, str], float]) -> Submission:
    cells = dict(found.cells)
    for name, score in changed.items():
        if name in cells:
            old = cells[name]
            exact = gradebook.exact(score)
            cells[name] = gradebook.Cell(exact, old.manual, old.extra, old.maximum, old.waits)
    return Submission(found.received, found.extension, cells)


def _time(when: datetime.datetime) -> str:
    return when.isoformat(" ", "minutes")


def _reading_form() -> list[Criterion]:
    from autograder.authoring import reading

    return [Criterion(one.id, one.title, Fraction(one.points)) for one in reading.load().criteria]


def _project_form() -> list[Criterion]:
    from autograder.project import handbook

    found = handbook.load().criteria.items()
    return [Criterion(name, one.title, Fraction(one.points), one.individual) for name, one in found]
