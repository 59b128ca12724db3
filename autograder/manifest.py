"""The course manifest, ``course/course.toml``, as typed, checked and immutable data.

The dataclasses below are the schema: a field is a key, its annotation is the rule for the value, and
``__post_init__`` holds the rules that join several fields. A new week is data and needs no change here.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from autograder import ROOT

_Schema = TypeVar("_Schema")
Lang = Literal["en", "zh"]

MAX_CORE_TASKS = 4
MAX_CORE_MINUTES = 150
SUBMISSION_LIMITS = ("file_kib", "files", "total_kib")


class ManifestError(ValueError):
    """The manifest, or a question to it, is wrong. The message is one line: the place and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


@dataclass(frozen=True, slots=True)
class Rule:
    """What the annotation of a field asks of its value."""

    test: Callable[[Any], bool]
    must: str


def _between(low: int, high: int) -> Rule:
    return Rule(lambda value: low <= value <= high, f"be an integer from {low} to {high}")


def _like(pattern: str, must: str) -> Rule:
    return Rule(lambda value: re.fullmatch(pattern, value) is not None, must)


# One printable line, because texts become table cells, headings and gradebook entries.
Line = Annotated[
    str,
    Rule(
        lambda v: v != "" and v.isprintable() and v == v.strip(),
        "be one line of text, neither empty nor padded",
    ),
]
Percent = Annotated[int, _between(0, 100)]
Hours = Annotated[int, _between(0, 40)]
Scale = Annotated[int, _between(1, 5)]
Module = Annotated[str, _like(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", "be a module's name")]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One line in both languages; inline Markdown."""

    en: Line
    zh: Line

    def of(self, lang: Lang) -> str:
        """The line in one language."""
        return self.en if lang == "en" else self.zh


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """A list of lines in both languages, item by item the same."""

    en: tuple[Line, ...]
    zh: tuple[Line, ...]

    def __post_init__(self) -> None:
        _require(len(self.en) > 0, "en must have at least one item")
        counts = f"en has {len(self.en)} items but zh has {len(self.zh)}"
        _require(len(self.en) == len(self.zh), f"{counts}; write each item in both languages")

    def of(self, lang: Lang) -> tuple[str, ...]:
        """The list in one language."""
        return self.en if lang == "en" else self.zh


@dataclass(frozen=True, slots=True, kw_only=True)
class HoursPerWeek:
    """Expected hours of a student's week."""

    lecture: Hours
    lab: Hours
    homework: Hours


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the course is and for whom."""

    title: Text
    audience: Text
    hours_per_week: HoursPerWeek
    prerequisites: Texts


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeWeights:
    """Shares of the course mark, in percent."""

    weekly_code: Percent
    reading_discussion: Percent
    final_project: Percent

    def __post_init__(self) -> None:
        total = self.weekly_code + self.reading_discussion + self.final_project
        _require(total == 100, f"the three weights must sum to 100, not {total}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one task in the sandbox (the first four) and of one submission (``SUBMISSION_LIMITS``)."""

    cpu_seconds: Annotated[int, _between(1, 600)]
    wall_seconds: Annotated[int, _between(1, 3600)]
    memory_mib: Annotated[int, _between(64, 65536)]
    tmp_mib: Annotated[int, _between(1, 4096)]
    file_kib: Annotated[int, _between(1, 12288)]
    files: Annotated[int, _between(1, 1000)]
    total_kib: Annotated[int, _between(1, 12288)]  # the sandbox has 16 MiB for them

    def __post_init__(self) -> None:
        # A wall clock shorter than the CPU limit would blame a student for a busy machine.
        _require(self.wall_seconds >= self.cpu_seconds, "wall_seconds must not be less than cpu_seconds")
        _require(self.total_kib >= self.file_kib, "total_kib must not be less than file_kib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """How the 100 points of a week are divided."""

    code: Percent
    notebook: Percent
    review: Percent

    def __post_init__(self) -> None:
        total = self.code + self.notebook + self.review
        _require(total == 100, f"code, notebook and review must sum to 100, not {total}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One graded task. ``limits`` is complete: the task's own over the week's over the course's."""

    id: Annotated[str, _like(r"[1-9][0-9]?\.[1-9][0-9]?", 'be the week and the task, such as "4.2"')]
    title: Text
    points: Percent
    minutes: Annotated[int, _between(1, 600)]
    stretch: bool = False
    difficulty: Scale
    importance: Scale
    lecture: Annotated[
        str,
        _like(
            r"course/week[0-9]{2}/lecture\.md#[a-z0-9]+(-[a-z0-9]+)*",
            'be a lecture section, such as "course/week04/lecture.md#merge"',
        ),
    ]
    limits: Limits = field(metadata={"inherits": True})

    def __post_init__(self) -> None:
        _require(not (self.stretch and self.points), f"points of a stretch task must be 0, not {self.points}")
        _require(self.stretch or self.points > 0, "points of a core task must be positive, not 0")

    @property
    def week(self) -> int:
        """The number of the task's week: 4 for "4.2"."""
        return int(self.id.split(".")[0])

    @property
    def number(self) -> int:
        """The number of the task in its week: 2 for "4.2"."""
        return int(self.id.split(".")[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One graded cell of a week's notebook: an answer in JSON that the judge scores, or a written one for the TA."""

    id: Annotated[str, _like(r"[1-9][0-9]?\.q[1-9]", 'be the week and the question, such as "4.q1"')]
    title: Text
    points: Annotated[int, _between(1, 100)]
    written: bool = False

    @property
    def grade_id(self) -> str:
        """Its name inside the notebook: "q1" for "4.q1"."""
        return self.id.split(".")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One row of the rubric by which TAs mark the code review; ``text`` says what earns its points."""

    id: Annotated[str, _like(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", 'be a short name in lower case, such as "comments"')]
    title: Text
    points: Annotated[int, _between(1, 100)]
    text: Text


Rubric = Annotated[
    tuple[Criterion, ...],
    Rule(lambda v: len({one.id for one in v}) == len(v), "give each criterion an id of its own"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """One week. A week without tasks is one whose exercises are not written yet.

    ``review`` is the week's own rubric, or else the course's. It is no part of the repr, by which results are known to be
    of the same exercises: rewording the rubric grades nobody again.
    """

    number: Annotated[int, _between(1, 99)]
    title: Text
    objectives: Texts
    topics: Texts
    practice: Text
    points: Points
    stub: Annotated[str, _like(r"[a-z][a-z0-9_]*\.py", 'be a Python file name without a folder, such as "lora_linear.py"')]
    hidden_packages: tuple[Module, ...]
    preload: tuple[Module, ...]
    review: Rubric = field(metadata={"inherits": True}, repr=False)
    limits: Limits = field(metadata={"inherits": True})
    tasks: tuple[Task, ...] = field(default=(), metadata={"key": "task"})
    questions: tuple[Question, ...] = field(default=(), metadata={"key": "question"})

    def __post_init__(self) -> None:
        both = {name.split(".")[0] for name in self.preload} & set(self.hidden_packages)
        _require(not both, f"preload and hidden_packages must not both name {', '.join(sorted(both))}")
        ids = [task.id for task in self.tasks]
        for task in self.tasks:
            once, own = ids.count(task.id) == 1, task.week == self.number
            _require(once, f"task {task.id} is listed {ids.count(task.id)} times; give each task its own id")
            _require(own, f"task {task.id} must have an id of week {self.number}, such as {self.number}.1")
            for name in SUBMISSION_LIMITS:
                same = getattr(task.limits, name) == getattr(self.limits, name)
                _require(same, f"task {task.id}, limits: {name} is of a submission; set it for the week")
        total, wanted = sum(one.points for one in self.review), self.points.review
        hint = "give this week its own [[week.review]] where the course's does not fit"
        _require(total == wanted, f"points of review must sum to {wanted} (points.review), not {total}; {hint}")
        if self.questions:
            ids = [question.id for question in self.questions]
            for name in ids:
                own, once = int(name.split(".")[0]) == self.number, ids.count(name) == 1
                _require(own and once, f"question {name} must have an id of its own, such as {self.number}.q{len(ids)}")
            total = sum(question.points for question in self.questions)
            wanted = self.points.notebook
            _require(total == wanted, f"points of questions must sum to {wanted} (points.notebook), not {total}")
        if self.tasks:
            core, points = len(self.core), sum(task.points for task in self.core)
            minutes, code = sum(task.minutes for task in self.core), self.points.code
            _require(core <= MAX_CORE_TASKS, f"core tasks must be at most {MAX_CORE_TASKS}, not {core}")
            _require(points == code, f"points of core tasks must sum to {code} (points.code), not {points}")
            most = f"at most {MAX_CORE_MINUTES}"
            _require(minutes <= MAX_CORE_MINUTES, f"minutes of core tasks must sum to {most}, not {minutes}")

    @property
    def folder(self) -> str:
        """The name of the week's folders: "week04"."""
        return f"week{self.number:02d}"

    @property
    def core(self) -> tuple[Task, ...]:
        """The tasks that carry points."""
        return tuple(task for task in self.tasks if not task.stretch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The whole manifest; ``sha256`` is the digest of the file's bytes, in hexadecimal."""

    schema: Annotated[int, Rule(lambda value: value == 1, "be 1, the schema that this version reads")]
    about: About = field(metadata={"key": "course"})
    grade: GradeWeights
    limits: Limits
    review: Rubric
    weeks: tuple[Week, ...] = field(metadata={"key": "week"})
    sha256: str = field(default="", metadata={"key": None})

    def __post_init__(self) -> None:
        _require(len(self.weeks) > 0, "a course must have at least one [[week]]")
        numbers = [week.number for week in self.weeks]
        for place, number in enumerate(numbers, start=1):
            fault = "is listed twice" if numbers.count(number) > 1 else f"stands in place {place}"
            _require(number == place, f"week {number} {fault}; number the weeks 1, 2, 3, ... in order")

    def week(self, number: int) -> Week:
        """The week of that number.

        Raises:
            ManifestError: there is no such week; the message says which exist.
        """
        for week in self.weeks:
            if week.number == number:
                return week
        raise ManifestError(f"there is no week {number}; the course has weeks 1 to {len(self.weeks)}")

    def task(self, task_id: str) -> Task:
        """The task of that id, such as "4.2".

        Raises:
            ManifestError: there is no such task; the message says which the week has.
        """
        tasks = {task.id: task for week in self.weeks for task in week.tasks}
        if task_id not in tasks:
            week = task_id.partition(".")[0]
            known = [known for known in tasks if known.partition(".")[0] == week] or tasks or ["no tasks yet"]
            raise ManifestError(f"there is no task {task_id}; there are {', '.join(known)}")
        return tasks[task_id]


def load(path: Path | None = None) -> Course:
    """Reads and checks a manifest.

    Args:
        path: the file; by default ``course/course.toml`` of this repository.

    Raises:
        ManifestError: the file is missing, is not TOML, or breaks a rule.
    """
    return parse(*_bytes(path or ROOT / "course" / "course.toml", "give a manifest"))


def parse(data: bytes, name: str = "course/course.toml") -> Course:
    """Checks a manifest that is already in memory; ``name`` is the file that messages name.

    Raises:
        ManifestError: the bytes are not TOML, or break a rule.
    """
    return dataclasses.replace(_parsed(Course, data, name), sha256=hashlib.sha256(data).hexdigest())


def read(cls: type[_Schema], path: Path) -> _Schema:
    """Reads and checks another TOML file of the course; its schema is a dataclass in the manner of this module's.

    Raises:
        ManifestError: the file is missing, is not TOML, or breaks a rule.
    """
    return _parsed(cls, *_bytes(path, "get the course's files again"))


def _bytes(path: Path, remedy: str) -> tuple[bytes, str]:
    """A file's bytes, and its name for messages."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
    try:
        return path.read_bytes(), name
    except OSError as error:
        raise ManifestError(f"{name}: cannot be read ({error.strerror}); {remedy}") from None


def _parsed(cls: type[_Schema], data: bytes, name: str) -> _Schema:
    try:
        raw = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, an endless number, endless nesting
        raise ManifestError(f"{name}: is not valid TOML ({error}); correct the file") from None
    found: _Schema = _table(cls, raw, (name,), {})
    return found


def table(cls: type[_Schema], raw: object, *place: str) -> _Schema:
    """Builds a dataclass of this kind from a table of another TOML file, by the same rules; ``place`` begins with the file.

    Raises:
        ManifestError: the table breaks a rule.
    """
    if type(raw) is not dict:
        raise _error(place, f"must be a table, not {_show(raw)}")
    made: _Schema = _table(cls, raw, place, {})
    return made


def _table(cls: Any, raw: dict[str, Any], place: tuple[str, ...], outer: dict[str, Any]) -> Any:
    """Builds a dataclass from a table; ``outer`` holds the fields already read of the table around it."""
    hints, specs = _fields(cls)
    for key in raw:  # before missing keys: a misspelt key is the better news
        if key not in specs:
            near = difflib.get_close_matches(key, specs, 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(specs)}"
            raise _error(place, f"unknown key {_show(key)}; {hint}")
    values: dict[str, Any] = {}
    for key, spec in specs.items():
        given = raw.get(key)
        if spec.metadata.get("inherits") and isinstance(given, dict) and dataclasses.is_dataclass(outer[spec.name]):
            given = dataclasses.asdict(outer[spec.name]) | given
        if given is None and spec.metadata.get("inherits"):
            values[spec.name] = outer[spec.name]
        elif given is not None:
            values[spec.name] = _value(hints[spec.name], given, place, key, values)
        elif spec.default is dataclasses.MISSING:
            raise _error(place, f"{key} is missing; add it")
    try:
        return cls(**values)
    except ValueError as error:  # a rule that joins fields
        raise _error(place, str(error)) from None


@functools.cache
def _fields(cls: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The annotations of a dataclass, and its fields by the key that a file has for them."""
    specs = {spec.metadata.get("key", spec.name): spec for spec in dataclasses.fields(cls)}
    specs.pop(None, None)
    return get_type_hints(cls, include_extras=True), specs


def _value(hint: Any, raw: Any, place: tuple[str, ...], key: str, outer: dict[str, Any]) -> Any:
    """Checks one value against the annotation of its field. ``type`` and not isinstance: true is not 1."""
    kind, *rules = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if dataclasses.is_dataclass(kind):
        if type(raw) is not dict:
            raise _error(place, f"{key} must be a table, not {_show(raw)}")
        return _table(kind, raw, (*place, key), outer)
    if get_origin(kind) is tuple:
        if type(raw) is not list:
            raise _error(place, f"{key} must be a list, not {_show(raw)}")
        item = get_args(kind)[0]
        if dataclasses.is_dataclass(item):
            names = [(place, f"{key} {_name(item, entry, i)}") for i, entry in enumerate(raw, start=1)]
        else:
            names = [((*place, key), f"item {i}") for i in range(1, len(raw) + 1)]
        items = tuple(_value(item, entry, *name, outer) for entry, name in zip(raw, names, strict=True))
        for rule in rules:
            if not rule.test(items):
                raise _error(place, f"{key} must {rule.must}")
        return items
    if type(raw) is not kind or not all(rule.test(raw) for rule in rules):
        must = rules[0].must if rules else "be true or false"
        raise _error(place, f"{key} must {must}, not {_show(raw)}")
    return raw


def _name(cls: Any, raw: Any, index: int) -> str:
    """A week or a task by its own first field where it has one, else by its place in the list."""
    own = raw.get(dataclasses.fields(cls)[0].name) if isinstance(raw, dict) else None
    text = _show(own).strip('"') if type(own) in (int, str) else ""
    return text if re.fullmatch(r"[0-9.]{1,5}|[a-z][a-z0-9_-]{0,29}", text) else f"in place {index}"


def _show(value: object) -> str:
    """A value of any TOML type, short enough for a message."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if type(value) is int and value.bit_length() > 64:
        return "a very large integer"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _error(place: tuple[str, ...], message: str) -> ManifestError:
    """Joins a message to its place: the file, then the tables around the value."""
    return ManifestError(": ".join(filter(None, (place[0], ", ".join(place[1:]), message))))
