"""What students read: the list of readings, with how each was checked, and the form by which a week's reading is marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from autograder import ROOT
from autograder.authoring.syllabus import table
from autograder.manifest import Lang, Line, Rule, Text, read

FORM = ROOT / "course" / "reading_form.toml"
READINGS = ROOT / "course" / "readings.toml"
PAGES: dict[Lang, str] = {"en": "course/readings.md", "zh": "course/readings.zh.md"}
# Columns of reading.csv that are not criteria (docs/reading.md).
COLUMNS = ("student", "week", "comment")
MAX_REQUIRED = 2

_ONE = Rule(lambda value: value == 1, "be 1, the schema that this version reads")
_HEADER = "<!-- Generated from course/readings.toml by `autograder build`; edit that instead. -->"
_ROLES = {
    "required": Text(en="required", zh="必读"),
    "optional": Text(en="optional", zh="选读"),
    "background": Text(en="background", zh="背景"),
}
_CHECKED = {
    "text": Text(en="its own text or abstract page was read", zh="读过原文或其摘要页"),
    "record": Text(
        en="authors, year, title and identifier agree in other people's reference lists or the authors' repository",
        zh="作者、年份、标题和编号与他人的文献列表或作者的代码仓库一致",
    ),
    "link": Text(en="only its address is known; its text has not been read", zh="只知道地址，没有读到其内容"),
    "memory": Text(en="from memory, not verified", zh="凭记忆写出，未经核实"),
}
_WORDS = {
    "title": Text(en="Readings", zh="阅读材料"),
    "other": Text(en="[简体中文](readings.zh.md)", zh="[English](readings.md)"),
    "about": Text(
        en="How each entry was checked stands in the last column:",
        zh="最后一列说明每一条是怎样核对的：",
    ),
    "week": Text(en="Week {number}", zh="第 {number} 周"),
    "role": Text(en="Role", zh="要求"),
    "reading": Text(en="Reading", zh="材料"),
    "why": Text(en="Why read it", zh="为什么读"),
    "checked": Text(en="Checked", zh="核对"),
    "correction": Text(en="Corrected: {text}", zh="更正：{text}"),
    "colon": Text(en=": ", zh="："),
}
_SHORT = {
    "text": Text(en="text", zh="原文"),
    "record": Text(en="record", zh="记录"),
    "link": Text(en="link", zh="链接"),
    "memory": Text(en="memory", zh="记忆"),
}


def _like(pattern: str, must: str) -> Rule:
    return Rule(lambda value: re.fullmatch(pattern, value) is not None, must)


def _of(known: dict[str, Text]) -> Rule:
    return Rule(lambda value: value in known, f"be one of {', '.join(known)}")


Week = Annotated[int, Rule(lambda value: 1 <= value <= 99, "be a week's number")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One line of the marking form; `full`, `half` and `none` say what earns that share of its points."""

    id: Annotated[str, _like(r"[a-z][a-z0-9_]{0,29}", 'be lower-case letters, digits and _, such as "summary"')]
    title: Text
    points: Annotated[int, Rule(lambda value: 1 <= value <= 100, "be an integer from 1 to 100")]
    full: Text
    half: Text
    none: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingForm:
    """The marking form of a week's reading and discussion; the ids of its criteria are columns of reading.csv."""

    schema: Annotated[int, _ONE]
    criteria: tuple[Criterion, ...] = field(metadata={"key": "criterion"})

    def __post_init__(self) -> None:
        if not self.criteria:
            raise ValueError("a form must have at least one [[criterion]]")
        for name in (names := [criterion.id for criterion in self.criteria]):
            if name in COLUMNS:
                raise ValueError(f"criterion {name} has the name of another column of reading.csv; give it another id")
            if names.count(name) > 1:
                raise ValueError(f"criterion {name} is listed {names.count(name)} times; give each its own id")

    @property
    def points(self) -> int:
        """What a week's reading and discussion is worth."""
        return sum(criterion.points for criterion in self.criteria)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A paper, post, book or tool that a week refers to.

    Attributes:
        authors: as the lectures cite them.
        year: as the lectures cite it; 0 where there is none.
        also: other weeks that use it.
        checked: how the entry was verified, a key of `_CHECKED`.
        corrections: what earlier material of the course had wrong.
    """

    id: Annotated[str, _like(r"[a-z][a-z0-9-]{0,29}", 'be lower-case letters, digits and -, such as "hu-lora"')]
    authors: Line
    year: Annotated[int, Rule(lambda value: value == 0 or 1900 <= value <= 2100, "be a year, or 0 where there is none")]
    title: Line
    venue: Line = ""
    arxiv: Annotated[str, _like(r"[0-9]{4}\.[0-9]{4,5}", 'be an identifier without a version, such as "2106.09685"')] = ""
    url: Annotated[str, _like(r"https://[!-~]+", "be an https address")] = ""
    week: Week
    also: tuple[Week, ...] = ()
    role: Annotated[str, _of(_ROLES)]
    why: Text
    checked: Annotated[str, _of(_CHECKED)]
    corrections: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        if not (self.arxiv or self.url or self.venue):
            raise ValueError("one of arxiv, url and venue is needed to find it; add one")
        if self.week in self.also or len(set(self.also)) < len(self.also):
            raise ValueError("also must list other weeks than week, each once")

    def citation(self, lang: Lang) -> str:
        """The entry as a line of Markdown."""
        address = f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url
        title = f"[{self.title}]({address})" if address else self.title
        rest = [title, self.venue, f"arXiv:{self.arxiv}" if self.arxiv else ""]
        year = [str(self.year)] if self.year else []
        if lang == "zh":
            parts = [self.authors.replace(" et al.", " 等").replace(" and ", " 与 "), *year, *rest]
            return "，".join(part for part in parts if part)
        return ", ".join(part for part in [" ".join([self.authors, *year]), *rest] if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """All readings; every week up to the last has one or two that are required."""

    schema: Annotated[int, _ONE]
    readings: tuple[Reading, ...] = field(metadata={"key": "reading"})

    def __post_init__(self) -> None:
        for what in ("id", "arxiv", "url"):
            names = [getattr(reading, what) for reading in self.readings if getattr(reading, what)]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what} {name} is listed {names.count(name)} times; keep one entry, and name weeks in also")
        for week in range(1, max((reading.week for reading in self.readings), default=0) + 1):
            count = sum(reading.role == "required" for reading in self.of(week))
            if not 1 <= count <= MAX_REQUIRED:
                raise ValueError(f"week {week} must have 1 to {MAX_REQUIRED} required readings, not {count}")

    def of(self, week: int) -> tuple[Reading, ...]:
        """The readings that are given to a week, the required ones first."""
        order = list(_ROLES)
        return tuple(sorted((r for r in self.readings if r.week == week), key=lambda r: order.index(r.role)))


def load(path: Path = FORM) -> ReadingForm:
    """The marking form of a week's reading and discussion.

    Raises:
        ManifestError: the file is missing, is not TOML, or breaks a rule.
    """
    return read(ReadingForm, path)


def load_readings(path: Path = READINGS) -> Readings:
    """The list of readings.

    Raises:
        ManifestError: the file is missing, is not TOML, or breaks a rule.
    """
    return read(Readings, path)


def render(readings: Readings, lang: Lang) -> str:
    """The list of readings as a page, ending in one newline."""
    return "\n\n".join(_blocks(readings, lang)) + "\n"


def _blocks(readings: Readings, lang: Lang) -> Iterator[str]:
    word = {key: text.of(lang) for key, text in _WORDS.items()}
    yield _HEADER
    yield f"# {word['title']}"
    yield word["other"]
    yield word["about"]
    yield "\n".join(f"- {_SHORT[key].of(lang)}{word['colon']}{text.of(lang)}" for key, text in _CHECKED.items())
    for week in sorted({reading.week for reading in readings.readings}):
        yield "## " + word["week"].format(number=week)
        rows = []
        for reading in readings.of(week):
            notes = [reading.why.of(lang), *(word["correction"].format(text=text.of(lang)) for text in reading.corrections)]
            rows.append(
                (_ROLES[reading.role].of(lang), reading.citation(lang), " ".join(notes), _SHORT[reading.checked].of(lang))
            )
        yield table((word["role"], word["reading"], word["why"], word["checked"]), rows, right=())
