"""The final project, ``course/project.toml``, as typed data; its folder's template; its tables in the handbook."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from autograder import ROOT, UserError, manifest
from autograder.manifest import Lang, Line, Rule, Text

LEVELS = ("full", "good", "weak", "none")
TEMPLATE = ROOT / "course" / "project_template"
EXAMPLES = ROOT / "course" / "project_examples"
PAGES: dict[Lang, Path] = {"en": ROOT / "docs" / "project.md", "zh": ROOT / "docs" / "project.zh.md"}

Id = Annotated[
    str, Rule(lambda v: re.fullmatch(r"[a-z]+(_[a-z]+)*", v) is not None, 'be small letters and _, such as "report_cost"')
]
Points = Annotated[int, Rule(lambda v: 1 <= v <= 100, "be an integer from 1 to 100")]
Count = Annotated[int, Rule(lambda v: 1 <= v <= 100_000, "be an integer from 1 to 100000")]
Share = Annotated[int, Rule(lambda v: 0 <= v <= 100, "be an integer from 0 to 100")]
Week = Annotated[int, Rule(lambda v: 1 <= v <= 99, "be an integer from 1 to 99")]


class ProjectError(UserError):
    """A template cannot be written, or a project folder not read; the text is one line that says what to do."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Percent of a criterion's points at each level."""

    full: Share
    good: Share
    weak: Share
    none: Share

    def __post_init__(self) -> None:
        falling = 100 == self.full > self.good > self.weak > self.none == 0
        _require(falling, "the shares must fall from 100 at full to 0 at none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The least and the most words of a report, by its language."""

    en: tuple[Count, ...]
    zh: tuple[Count, ...]

    def __post_init__(self) -> None:
        for name, pair in (("en", self.en), ("zh", self.zh)):
            _require(len(pair) == 2 and pair[0] < pair[1], f"{name} must be the least and the most, such as [1500, 5000]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a project folder may have, and must."""

    file_mib: Count
    total_mib: Count
    files: Count
    video_minutes: tuple[Count, ...]
    words: Words
    seeds: Count
    references: Count

    def __post_init__(self) -> None:
        pair = self.video_minutes
        _require(len(pair) == 2 and pair[0] < pair[1], "video_minutes must be the least and the most, such as [3, 8]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section that a page must have, under a heading with this title."""

    id: Id
    title: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The files of a project, and the sections of two of them."""

    files: tuple[Line, ...]
    python: Line
    readme: tuple[Section, ...]
    report: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Milestone:
    """What is due in a week."""

    week: Week
    title: Text
    due: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One row of the rubric, with what earns each level. ``individual``: marked for each student, not for the team."""

    id: Id
    title: Text
    points: Points
    individual: bool = False
    full: Text
    good: Text
    weak: Text
    none: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectPart:
    """One of the parts; the points of its criteria sum to its own."""

    id: Id
    title: Text
    points: Points
    criteria: tuple[Criterion, ...] = field(metadata={"key": "criterion"})

    def __post_init__(self) -> None:
        total = sum(criterion.points for criterion in self.criteria)
        _require(total == self.points, f"points of criteria must sum to {self.points}, not {total}")
        for criterion in self.criteria:
            own = criterion.id.startswith(f"{self.id}_")
            _require(own, f"criterion {criterion.id} must have an id that begins with {self.id}_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The whole file. Marks of a project are out of 100."""

    schema: Annotated[int, Rule(lambda value: value == 1, "be 1, the schema that this version reads")]
    shares: Shares
    limits: Limits
    folder: Folder
    milestones: tuple[Milestone, ...] = field(metadata={"key": "milestone"})
    parts: tuple[ProjectPart, ...] = field(metadata={"key": "part"})

    def __post_init__(self) -> None:
        total = sum(part.points for part in self.parts)
        _require(total == 100, f"points of the parts must sum to 100, not {total}")
        for what, ids in (
            ("part", [part.id for part in self.parts]),
            ("criterion", [criterion.id for part in self.parts for criterion in part.criteria]),
            ("section", [section.id for section in self.folder.readme]),
            ("section", [section.id for section in self.folder.report]),
        ):
            twice = sorted({name for name in ids if ids.count(name) > 1})
            _require(not twice, f"{what} {', '.join(twice)} is listed twice; give each its own id")
        weeks = [milestone.week for milestone in self.milestones]
        _require(weeks == sorted(weeks), "milestones must be in the order of their weeks")

    @property
    def criteria(self) -> dict[str, Criterion]:
        """Every criterion by its id, in the order of the file."""
        return {criterion.id: criterion for part in self.parts for criterion in part.criteria}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleMark:
    """The marks that an example earned on one criterion, and why."""

    criterion: Id
    points: Annotated[int, Rule(lambda v: 0 <= v <= 100, "be an integer from 0 to 100")]
    why: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A calibrated example: ``marks.toml`` beside an excerpt of a report."""

    title: Text
    marks: tuple[ExampleMark, ...] = field(metadata={"key": "mark"})


def load(path: Path | None = None) -> Project:
    """Reads and checks the project's file, by default ``course/project.toml``.

    Raises:
        ManifestError: the file is missing, is not TOML, or breaks a rule.
    """
    return manifest.read(Project, path or ROOT / "course" / "project.toml")


def examples(project: Project) -> dict[str, Example]:
    """The calibrated examples by the names of their folders, best first.

    Raises:
        ManifestError: a file breaks a rule, or marks what the rubric has not.
    """
    found: dict[str, Example] = {}
    for path in EXAMPLES.glob("*/marks.toml"):
        example, name = manifest.read(Example, path), path.relative_to(ROOT).as_posix()
        ids = [mark.criterion for mark in example.marks]
        for mark in example.marks:
            criterion = project.criteria.get(mark.criterion)
            if criterion is None or ids.count(mark.criterion) > 1:
                raise manifest.ManifestError(f"{name}: {mark.criterion} must be a criterion of course/project.toml, once")
            if mark.points > criterion.points:
                raise manifest.ManifestError(f"{name}: {mark.criterion} has {criterion.points} points at most, not {mark.points}")
        found[path.parent.name] = example
    return dict(sorted(found.items(), key=lambda item: -sum(mark.points for mark in item[1].marks)))


def write_template(folder: Path, lang: Lang) -> list[str]:
    """Write a project folder to start from; returns the names of its files.

    Raises:
        ProjectError: if something is there already, or the folder cannot be written.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ProjectError(f"{folder} is not empty: name a new folder; nothing of yours is overwritten")
    try:
        for source in (TEMPLATE / "common", TEMPLATE / lang):
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise ProjectError(f"{folder} cannot be written ({error.strerror}): name a folder where you may write") from None
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pages() -> dict[Path, str]:
    """The handbook's pages, with their tables as the project's file makes them.

    Raises:
        ManifestError: if course/project.toml or an example breaks a rule.
        ProjectError: if a page is missing.
    """
    project = load()
    if missing := [path.name for path in PAGES.values() if not path.is_file()]:
        raise ProjectError(f"docs/{missing[0]} is missing: get it back with git")
    return {path: page(path.read_text(encoding="utf-8"), project, lang) for lang, path in PAGES.items()}


_WORDS = {
    "part": Text(en="Part", zh="部分"),
    "points": Text(en="Points", zh="分值"),
    "individual": Text(en="of which each student's own", zh="其中个人得分"),
    "criterion": Text(en="Criterion", zh="评分项"),
    "own": Text(en="own", zh="个人"),
    "total": Text(en="Total", zh="合计"),
    "week": Text(en="Week", zh="周次"),
    "milestone": Text(en="Milestone", zh="节点"),
    "due": Text(en="What is due", zh="提交内容"),
    "full": Text(en="Full", zh="优"),
    "good": Text(en="Good", zh="良"),
    "weak": Text(en="Weak", zh="弱"),
    "none": Text(en="None", zh="无"),
    "why": Text(en="Why", zh="理由"),
}


def page(text: str, project: Project, lang: Lang) -> str:
    """The handbook with its tables made anew: each stands between ``<!-- table NAME -->`` and ``<!-- end -->``.

    Raises:
        ManifestError: if a table's name is not known.
    """
    tables = _tables(project, lang)

    def fill(match: re.Match[str]) -> str:
        if match[1] not in tables:
            raise manifest.ManifestError(f"{PAGES[lang].name}: there is no table {match[1]}; there are {', '.join(tables)}")
        return f"<!-- table {match[1]} -->\n{tables[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- table ([\w-]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def _tables(project: Project, lang: Lang) -> dict[str, str]:
    word = {key: text.of(lang) for key, text in _WORDS.items()}
    parts = [
        (part.title.of(lang), str(part.points), str(sum(c.points for c in part.criteria if c.individual)))
        for part in project.parts
    ]
    due = [(str(m.week), m.title.of(lang), m.due.of(lang)) for m in project.milestones]
    found = {
        "parts": _table((word["part"], word["points"], word["individual"]), parts),
        "milestones": _table((word["week"], word["milestone"], word["due"]), due),
    }
    shares = [f"{word[level]} ({getattr(project.shares, level)} %)" for level in LEVELS]
    for part in project.parts:
        rows = []
        for c in part.criteria:
            name = f"{c.title.of(lang)} (`{c.id}`{', ' + word['own'] if c.individual else ''})"
            rows.append((name, str(c.points), *(getattr(c, level).of(lang) for level in LEVELS)))
        found[f"rubric-{part.id}"] = _table((word["criterion"], word["points"], *shares), rows)
    for name, example in examples(project).items():
        marks = [(project.criteria[m.criterion], m) for m in example.marks]
        rows = [(c.title.of(lang), f"{m.points} / {c.points}", m.why.of(lang)) for c, m in marks]
        rows.append((word["total"], f"{sum(m.points for _, m in marks)} / {sum(c.points for c, _ in marks)}", ""))
        found[f"marks-{name}"] = _table((word["criterion"], word["points"], word["why"]), rows)
    return found


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [[re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row] for row in (head, tuple("---" for _ in head), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
