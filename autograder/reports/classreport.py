"""The class report: one page, made from the results of a run alone, that says what the class misunderstood.

A submission that could not be run (no file, a syntax error) says nothing about any check, and a check that was not
attempted is not a failed one: rates and correlations are those of the submissions that ran and attempted.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from autograder import bank, results, texts
from autograder.intake import clean
from autograder.judge import scoring
from autograder.judge.check import CheckInfo
from autograder.judge.runner import reference_stub
from autograder.judge.scoring import Outcome
from autograder.manifest import Course, Lang, Week
from autograder.reports import feedback, plots
from autograder.results import Result

WEAK = 0.2  # below this a check is usually said not to discriminate
_TAUGHT = 3
_BARS = 10
_BINS = 14
FILES: dict[Lang, str] = {"en": "report.html", "zh": "report.zh.html"}
_STATUSES = {
    **{name: (name, texts.STATUS_ZH[name]) for name in ("passed", "partial", "failed", "error", "timeout", "unattempted")},
    "unrunnable": ("not run", "无法运行"),
}
_REMARKS = {
    "negative": (
        "negative: those who fail it are the better ones; look at the check",
        "负区分度：未通过者反而较好；请查看该检查项",
    ),
    "weak": ("hardly discriminates", "几乎没有区分度"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One check, over those who attempted it.

    Attributes:
        text: the property that it holds a submission to.
        discrimination: see `discrimination`.
    """

    task: str
    name: str
    text: str
    weight: float
    gate: bool
    tried: int
    passed: int
    discrimination: float | None

    @property
    def kind(self) -> str:
        """negative (by more than two standard errors), weak or good; empty where discrimination is undefined."""
        if self.discrimination is None:
            return ""
        if self.discrimination < -2 / math.sqrt(self.tried - 1):
            return "negative"
        return "weak" if self.discrimination < WEAK else "good"


@dataclass(slots=True)
class Gap:
    """What some students share: a misunderstanding, or a failure that none explains.

    Attributes:
        text: the misunderstanding, or the property that their submissions lack.
        students: by name, each once.
        recognised: whether it is a misunderstanding.
    """

    task: str
    text: str
    recognised: bool
    students: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task: how many have which status; statuses are those of a result, and "unrunnable"."""

    id: str
    counts: Counter[str]
    failing: int  # students with a check that failed
    recognised: int  # of these, told a misunderstanding
    different: int  # misunderstandings

    @property
    def tried(self) -> int:
        return self.counts.total() - self.counts["unattempted"] - self.counts["unrunnable"]


@dataclass(frozen=True)
class Class:
    """All that the page says of a class."""

    results: list[Result]
    graded: list[Result]
    unrunnable: set[str]
    tasks: list[TaskRow]
    items: list[Item]
    misunderstandings: list[Gap]  # the most frequent first
    unexplained: list[Gap]  # a check each: failed, with no misunderstanding told in its task
    teach: list[Gap]
    failing: set[str]  # students with a check that failed

    @property
    def scores(self) -> list[float]:
        return [result["score"] for result in self.graded]

    @property
    def reached(self) -> int:
        """How many of the failing share what is to be taught again."""
        return len({student for gap in self.teach for student in gap.students})


def discrimination(passed: Sequence[bool], rest: Sequence[float]) -> float | None:
    """The corrected item-total correlation of a check: point-biserial, with the score that is had without it.

    Returns:
        From -1 to 1; None where it is undefined: all passed, none did, or all have the same rest.
    """
    if len(set(passed)) < 2 or np.ptp(rest) < 1e-6:
        return None
    return float(np.corrcoef(passed, rest)[0, 1])


def analyse(found: list[Result]) -> Class:
    """Count a class."""
    graded = [result for result in found if result["status"] == "graded"]
    ran = [result for result in graded if not result["message"]]
    ids = list(dict.fromkeys(task["id"] for result in graded for task in result["tasks"]))
    known: dict[tuple[str, str], Gap] = {}
    unknown: dict[tuple[str, str], Gap] = {}
    tried: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    checks: dict[tuple[str, str], dict[str, Any]] = {}
    failing: dict[str, set[str]] = {task: set() for task in ids}
    told: dict[str, set[str]] = {task: set() for task in ids}
    for result in ran:
        student = result["student"]
        for task in result["tasks"]:
            outcomes = [_outcome(task["id"], check) for check in task["checks"]]
            failed = {c["name"]: c for c in task["checks"] if c["status"] not in ("passed", "unattempted")}
            misunderstood = dict.fromkeys(c["misconception"] for c in failed.values() if c["misconception"])
            if failed:
                failing[task["id"]].add(student)
            if misunderstood:
                told[task["id"]].add(student)
            for text in misunderstood:
                known.setdefault((task["id"], text), Gap(task["id"], text, True)).students.append(student)
            for check in task["checks"]:
                key = task["id"], check["name"]
                checks.setdefault(key, check)
                if check["name"] in failed and not misunderstood:
                    unknown.setdefault(key, Gap(task["id"], check["property"], False)).students.append(student)
                if check["status"] != "unattempted":
                    others = [o for o in outcomes if o.name != check["name"]]
                    own = task["max_score"] * scoring.share(others) if others else 0.0
                    tried.setdefault(key, []).append((check["status"] == "passed", result["score"] - task["score"] + own))
    tasks = []
    for task_id in ids:
        counts = Counter(
            "unrunnable" if result["message"] else task["status"]
            for result in graded for task in result["tasks"] if task["id"] == task_id
        )  # fmt: skip
        different = sum(gap.task == task_id for gap in known.values())
        tasks.append(TaskRow(task_id, counts, len(failing[task_id]), len(told[task_id]), different))
    items = [
        Item(
            *key, c["property"], c["weight"], c["gate"], len(seen := tried.get(key, [])), sum(p for p, _ in seen),
            discrimination([p for p, _ in seen], [r for _, r in seen]),
        )
        for key, c in sorted(checks.items(), key=lambda entry: ids.index(entry[0][0]))
    ]  # fmt: skip
    # The largest first; among equals the task that carries more points, then the order of the course.
    points = {task["id"]: task["max_score"] for result in graded for task in result["tasks"]}

    def largest(gaps: Iterable[Gap]) -> list[Gap]:
        return sorted(gaps, key=lambda g: (-len(g.students), -points[g.task], ids.index(g.task), not g.recognised, g.text))

    unexplained = largest(unknown.values())
    # One a task: a class that stumbles over one thing fails many checks for it.
    first = {gap.task: gap for gap in reversed(unexplained)}
    teach = largest([*known.values(), *first.values()])[:_TAUGHT]
    return Class(
        results=found,
        graded=graded,
        unrunnable={result["student"] for result in graded if result["message"]},
        tasks=tasks,
        items=items,
        misunderstandings=largest(known.values()),
        unexplained=unexplained,
        # What few have beside what many have is not for the whole class.
        teach=[gap for gap in teach if 4 * len(gap.students) >= len(teach[0].students)],
        failing=set().union(*failing.values()),
    )


def write(folder: Path, course: Course, lang: Lang = "en") -> tuple[Path, list[str]]:
    """Make the page of an output folder; returns where it is, and what to teach again, a line each.

    Raises:
        RunError, ManifestError: with one line for the instructor.
    """
    run, found = results.read(folder)
    week = course.week(run["week"])
    page = _Page(analyse(found), run, week, lang)
    path = folder / FILES[lang]
    results.replace(path, page.render())
    return path, page.taught()


class _Page:
    """Words and pictures around a class's numbers."""

    def __init__(self, all_: Class, run: dict[str, Any], week: Week, lang: Lang) -> None:
        self.all, self.run, self.week, self.lang = all_, run, week, lang
        self.tasks = {task.id: task for task in week.tasks}
        self.rows = {row.id: row for row in all_.tasks}
        self.translations: dict[tuple[str, str], str] = {}
        if lang == "zh":
            self.translations = bank.translations(week, reference_stub(week))
            words = texts.of(week)
            known = [item for item in all_.items if item.name in words.checks]
            self.translations |= {(item.task, item.text): words.property(item.name, item.text, lang) for item in known}

    def render(self) -> str:
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        )  # fmt: skip
        environment.filters |= {"clean": clean, "code": _code, "percent": _percent, "number": _number, "students": self.students}
        return environment.get_template("classreport.html").render(
            t=self.t, lang=self.lang, all=self.all, run=self.run, week=self.week, page=self,
            statuses={name: self.t(*words) for name, words in _STATUSES.items()},
            link=lambda student: f"feedback/{quote(feedback.page_name(student))}",
        )  # fmt: skip

    def t(self, en: str, zh: str) -> str:
        return zh if self.lang == "zh" else en

    def students(self, count: int) -> str:
        return self.t(f"{count} student{'s' * (count != 1)}", f"{count} 名学生")

    def title(self, task: str) -> str:
        title = self.tasks[task].title.of(self.lang).replace("`", "") if task in self.tasks else ""
        return f"{task} {title}".strip()

    def lecture(self, task: str) -> str:
        return texts.lecture(self.tasks[task].lecture, self.lang) if task in self.tasks else ""

    def text(self, gap: Gap | Item) -> str:
        """A gap's text, or an item's, in the page's language."""
        return self.translations.get((gap.task, gap.text), gap.text)

    def language(self, gap: Gap | Item) -> str:
        """That of the text: a misunderstanding that the bank no longer has, or a check that is gone, stays English."""
        return self.lang if (gap.task, gap.text) in self.translations else "en"

    def taught(self) -> list[str]:
        lines = []
        for gap in self.all.teach:
            text = self.text(gap)
            if not gap.recognised:
                text = self.t(f"Cause not recognised; this does not hold: {text}", f"原因未能识别；以下性质不成立：{text}")
            lines.append(f"{text} ({self.students(len(gap.students))}, {self.title(gap.task)}, {self.lecture(gap.task)})")
        return lines

    def summary(self) -> dict[str, str]:
        """Median, quartiles and full marks, as shown."""
        low, median, high = np.percentile(self.all.scores, [25, 50, 75])
        return {"low": _number(low), "median": _number(median), "high": _number(high), "full": str(self.full())}

    def full(self) -> int:
        return [result["score"] == result["max_score"] for result in self.all.graded].count(True)

    def maximum(self) -> float:
        return max(float(result["max_score"]) for result in self.all.graded)

    def hardest(self) -> TaskRow:
        """The task with the most students who failed a check."""
        return max(self.all.tasks, key=lambda row: row.failing)

    def bins(self) -> tuple[list[float], list[int]]:
        """Edges and counts of the histogram; the last bin includes full marks."""
        step = max(1, math.ceil(self.maximum() / _BINS))
        edges = [float(step * i) for i in range(max(1, math.ceil(self.maximum() / step)) + 1)]
        return edges, [int(count) for count in np.histogram(self.all.scores, edges)[0]]

    def histogram(self) -> str:
        t, edges, counts = self.t, *self.bins()
        s = self.summary()
        return plots.histogram(
            edges, counts, float(np.median(self.all.scores)), x=t("score (points)", "得分（分）"), y=t("students", "学生人数"),
            marked=t(f"median {s['median']}", f"中位数 {s['median']}"), title=t("Histogram of scores", "得分直方图"),
            description=t(
                f"Half of the scores lie between {s['low']} and {s['high']} points; the median is {s['median']}, "
                f"{s['full']} have full marks.",
                f"一半的得分在 {s['low']} 到 {s['high']} 分之间；中位数 {s['median']} 分，{s['full']} 人满分。",
            ),
        )  # fmt: skip

    def stacks(self) -> str:
        rows = []
        for row in self.all.tasks:
            rate = _percent(row.counts["passed"], row.tried)
            remark = self.t(f"{rate} of {row.tried} passed", f"{row.tried} 人中 {rate} 通过")
            remark = remark if row.tried else self.t("nobody attempted it", "无人作答")
            label = plots.shortened(self.title(row.id), plots.COLUMNS - 3 - plots.columns(remark))
            rows.append((label, remark, row.counts))
        return plots.stacks(
            rows, len(self.all.graded), {name: self.t(*words) for name, words in _STATUSES.items()},
            x=self.t("share of the graded submissions (%)", "占已评分提交的比例（%）"),
            title=self.t("Status per task", "各任务状态"),
            description="; ".join(f"{label}: {remark}" for label, remark, _ in rows),
        )  # fmt: skip

    def ranking(self) -> str:
        rows = [
            (f"{place}. {gap.task} {self.text(gap).replace('`', '')}", len(gap.students))
            for place, gap in enumerate(self.all.misunderstandings[:_BARS], 1)
        ]
        return plots.ranking(
            rows, x=self.t("students", "学生人数"), title=self.t("Most frequent misunderstandings", "最常见的误解"),
            description="; ".join(f"{label}: {count}" for label, count in rows),
        )  # fmt: skip

    def kinds(self) -> dict[str, str]:
        return {
            "good": self.t(f"{WEAK} or more", f"不低于 {WEAK}"),
            "weak": self.t(f"weak: below {WEAK}", f"较弱：低于 {WEAK}"),
            "negative": self.t("clearly negative", "明显为负"),
        }

    def scatter(self) -> str:
        points = [(100 * i.passed / i.tried, i.discrimination, i.kind) for i in self.all.items if i.discrimination is not None]
        counts = Counter(kind for _, _, kind in points)
        return plots.scatter(
            points, self.kinds(), WEAK, x=self.t("pass rate among those who attempted it (%)", "作答者的通过率（%）"),
            y=self.t("discrimination (correlation, −1 to 1)", "区分度（相关系数，−1 到 1）"),
            title=self.t("Difficulty and discrimination of the checks", "检查项的难度与区分度"),
            description="; ".join(f"{words}: {counts[kind]}" for kind, words in self.kinds().items()),
        )  # fmt: skip

    def note(self, item: Item) -> str:
        """What is to be said of a check's discrimination."""
        if item.kind in ("negative", "weak"):
            return self.t(*_REMARKS[item.kind])
        if item.kind:
            return ""
        if not item.tried:
            return self.t("nobody attempted it", "无人作答")
        if item.passed in (0, item.tried):
            return self.t("everyone passed", "全部通过") if item.passed else self.t("nobody passed", "无人通过")
        return self.t("all have the same score otherwise", "其余得分全部相同")


def _outcome(task: str, check: dict[str, Any]) -> Outcome:
    return Outcome(check["name"], "", CheckInfo(task, check["weight"], check["gate"], "basic"), check["status"])


def _code(text: str) -> str:
    """HTML of a text with `code` in backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _percent(part: int, whole: int) -> str:
    """Never rounded to all or to nothing."""
    if not whole:
        return "–"
    rounded = round(100 * part / whole)
    return f"{min(max(rounded, 1), 99) if 0 < part < whole else rounded}\u00a0%"


def _number(value: float, digits: int | None = None) -> str:
    text = f"{round(value, 2):g}" if digits is None else f"{value:.{digits}f}"
    return text.replace("-", "\u2212")
