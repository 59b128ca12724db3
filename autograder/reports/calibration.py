"""Calibration: submissions of three levels that TAs mark alone and then compare, before they mark a class.

bank/weekNN/calibration/ has strong.py, middling.py and weak.py, which all get full marks from the checks, and
calibration.toml, what each earns by every criterion of the week's rubric and why.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from autograder import UserError, bank
from autograder.authoring import syllabus
from autograder.judge.runner import ROOT
from autograder.manifest import Lang, ManifestError, Rule, Text, Week, load, table
from autograder.reports import review, sanitise
from autograder.reports.comments import Remark

Level = Literal["strong", "middling", "weak"]
LEVELS: tuple[Level, ...] = ("strong", "middling", "weak")
_TITLES: dict[Level, Text] = {
    "strong": Text(en="strong", zh="优秀"),
    "middling": Text(en="middling", zh="中等"),
    "weak": Text(en="weak", zh="薄弱"),
}


class CalibrationError(UserError):
    """A week's examples are missing or do not fit its rubric; the text is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Remark):
    """What one criterion earns, with the reason in both languages."""

    points: Annotated[int, Rule(lambda v: v >= 0, "be an integer of at least 0")]


@dataclass(frozen=True, slots=True)
class Example:
    """One submission: `source` is the stub file; `scores` has a score for each criterion of the week, by its id."""

    level: Level
    source: str
    scores: dict[str, Score]

    @property
    def points(self) -> int:
        """What it earns in all."""
        return sum(score.points for score in self.scores.values())


def folder(week: Week) -> Path:
    """Where the week's examples are, if it has any."""
    return bank.BANK / week.folder / "calibration"


def of(week: Week) -> list[Example]:
    """The week's examples in the order A, B, C of the pages, which says nothing of their level.

    Raises:
        CalibrationError: if the week has none, or a score does not fit the rubric.
        ManifestError: if calibration.toml is malformed.
    """
    place = f"autograder/bank/{week.folder}/calibration/calibration.toml"
    try:
        raw = tomllib.loads((folder(week) / "calibration.toml").read_text(encoding="utf-8"))
        sources = {level: (folder(week) / f"{level}.py").read_text(encoding="utf-8") for level in LEVELS}
    except FileNotFoundError as error:
        if folder(week).is_dir():
            raise CalibrationError(f"{error.filename} is missing") from None
        have = ", ".join(str(other.number) for other in load().weeks if folder(other).is_dir())
        raise CalibrationError(f"week {week.number} has no calibration examples; weeks {have} do") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{place}: cannot be read ({error}); correct the file") from None
    if set(raw) != set(LEVELS):
        raise CalibrationError(f"{place}: the tables are {', '.join(LEVELS)}, each with a table for every criterion")
    examples = [Example(level, sources[level], _scores(week, level, raw[level], place)) for level in LEVELS]
    return sorted(examples, key=lambda one: hashlib.sha256(f"{week.folder} {one.level}".encode()).digest())


def _scores(week: Week, level: str, raw: object, place: str) -> dict[str, Score]:
    wanted = {one.id: one.points for one in week.review}
    given = raw if isinstance(raw, dict) else {}
    if set(given) != set(wanted):
        raise CalibrationError(f"{place}: {level} must score {', '.join(wanted)}, the week's criteria, and no others")
    scores = {name: table(Score, given[name], place, level, name) for name in wanted}
    for name, score in scores.items():
        if score.points > wanted[name]:
            raise CalibrationError(f"{place}: {level}, {name}: at most {wanted[name]} points, not {score.points}")
    return scores


def page(week: Week, lang: Lang = "en", *, key: bool = False) -> str:
    """The examples to mark, with the rubric left blank; or else the key to them. Markdown.

    Raises:
        CalibrationError, ManifestError: as `of`.
    """
    zh, examples = lang == "zh", of(week)
    stub = (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")
    if zh:
        parts = [f"# 第 {week.number} 周：代码评审的校准{'（答案）' if key else ''}"]
        about = "三份提交都通过了全部检查，差别只在代码质量。请先独自评分，再看答案（`--key`）。"
        about_key = "分数是讨论的起点，不是标准答案：某一项相差 2 分以上时，请对照代码说明理由。"
    else:
        parts = [f"# Week {week.number}: calibration of the code review{', the key' if key else ''}"]
        about = (
            "All three pass every check; what differs is the code. Mark them by yourself before you look at the key (`--key`)."
        )
        about_key = (
            "These scores are where a discussion starts, not the truth: where you differ by 2 or more, argue from the code."
        )
    parts += [about_key] if key else [about, syllabus.rubric(week.review, lang)]
    for letter, example in zip("ABC", examples, strict=True):
        name = f"示例 {letter}" if zh else f"Example {letter}"
        if key:
            of_all = f"{example.points} / {week.points.review}"
            level = _TITLES[example.level].of(lang)
            parts.append(f"## {name}：{level}，{of_all}" if zh else f"## {name}: {level}, {of_all}")
            scored = [(one, example.scores[one.id]) for one in week.review]
            lines = [(one.title.of(lang), f"{got.points} / {one.points}", got.of(lang)) for one, got in scored]
            head = ("评分项", "得分", "理由") if zh else ("Criterion", "Points", "Why")
        else:
            parts += [f"## {name}", sanitise.fenced(review.difference(stub, example.source, week), "diff")]
            lines = [(one.title.of(lang), f"   / {one.points}", "") for one in week.review]
            head = ("评分项", "得分", "理由（指出行）") if zh else ("Criterion", "Points", "Why (name the line)")
        parts.append(syllabus.table(head, lines, right=(1,)))
    return "\n\n".join(parts) + "\n"
