"""Feedback pages, one Markdown file a student, made from results alone. What a student wrote is only ever quoted."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autograder import bank, texts
from autograder.intake import clean
from autograder.judge import scoring
from autograder.judge.check import CheckInfo
from autograder.judge.runner import reference_stub
from autograder.manifest import Lang, Week
from autograder.results import Result


def write_pages(folder: Path, results: Iterable[Result], week: Week, lang: Lang = "en") -> None:
    """Write `<student>.md` for every result, and remove pages of students who are not among them."""
    folder.mkdir(exist_ok=True)
    words = Words(week, lang)
    pages = set()
    for result in results:
        name = page_name(result["student"])
        pages.add(name)
        (folder / name).write_text(page(result, words), encoding="utf-8", errors="replace")
    for stale in folder.glob("*.md"):
        if stale.name not in pages:
            stale.unlink()


class Words:
    """A week's words in one language; made once for all pages."""

    def __init__(self, week: Week, lang: Lang = "en") -> None:
        self.week, self.lang = week, lang
        self.texts = texts.of(week)
        self.misconceptions = bank.translations(week, reference_stub(week)) if lang == "zh" else {}

    def t(self, en: str, zh: str) -> str:
        return zh if self.lang == "zh" else en

    def status(self, status: str) -> str:
        names = {"wrong": "failed", "unattempted": "not attempted"}
        return self.t(names.get(status, status), texts.STATUS_ZH.get(status, status))

    def misconception(self, task: str, text: str) -> str:
        return self.misconceptions.get((task, text), text)


def page_name(student: str) -> str:
    """A file name for a student's page: the folder's name where it is plain, else with a hash behind it."""
    plain = re.sub(r"[^\w.\- ]", "_", student)
    if plain == student and not student.startswith((".", " ", "-")) and len(student.encode()) <= 200:
        return f"{student}.md"
    digest = hashlib.sha256(student.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{plain.lstrip('. -')[:40]}-{digest}.md"


def page(result: Result, words: Words) -> str:
    """One student's page."""
    t, week = words.t, words.week
    title = week.title.of(words.lang)
    lines = [t(f"# Week {week.number}: {title}", f"# 第 {week.number} 周：{title}"), ""]
    student = _plain(result["student"])
    if result["status"] == "ungraded":
        lines += [t(f"{student}: not graded yet, and not through your fault.", f"{student}：尚未评分，原因不在你。"), ""]
        return "\n".join([*lines, *_quote(result["message"]), ""])
    score, most = f"{result['score']:g}", result["max_score"]
    lines += [t(f"{student}: **{score} of {most} points**", f"{student}：**{score} / {most} 分**"), ""]
    if result["isolation"] != "bwrap":
        lines += [t("Graded with reduced isolation.", "评分时隔离级别较低。"), ""]
    if result["message"]:
        lines += [
            t("Your submission could not be run:", "你的提交无法运行："),
            "",
            *_quote(texts.refusal(result["message"], words.lang)),
            "",
        ]
    for notice in result["notices"]:
        lines += _quote(texts.refusal(notice, words.lang))
    if receipt := result.get("submission"):
        lines += ["", t(f"Receipt of what was marked: `{receipt[:16]}`.", f"评分所依据文件的回执：`{receipt[:16]}`。")]
    titles = {task.id: task for task in week.tasks}
    lines += ["", t("| task | | points | |", "| 任务 | | 得分 | |"), "|---|---|---|---|"]
    for task in result["tasks"]:
        title = titles[task["id"]].title.of(words.lang) if task["id"] in titles else ""
        stretch = t("stretch, no points", "拓展任务，不计分")
        points = f"{task['score']:g} / {task['max_score']}" if task["max_score"] else stretch
        lines.append(f"| {task['id']} | {title} | {points} | {t(task['status'], words.status(task['status']))} |")
    for task in [] if result["message"] else result["tasks"]:
        left_out = not task["max_score"] and task["status"] == "unattempted"  # nobody has to do a stretch task
        if task["checks"] and task["status"] != "passed" and not left_out:
            manifest = titles[task["id"]]
            lecture = texts.lecture(manifest.lecture, words.lang)
            lines += ["", f"## {task['id']} {manifest.title.of(words.lang)}", "", *_task(task, lecture, words)]
    return "\n".join([*lines, ""])


def _task(task: dict[str, Any], lecture: str, words: Words) -> list[str]:
    t = words.t
    lines: list[str] = []
    likely = t("Likely misunderstanding:", "可能的误解：")
    if task["misconception"]:
        lines += [f"**{likely}** {_plain(words.misconception(task['id'], task['misconception']))}", ""]
    if task["status"] == "unattempted":
        text = t(
            "Not attempted: the stub's NotImplementedError is still there. Read",
            "未尝试：模板中的 NotImplementedError 仍在。请读",
        )
        return [*lines, f"{text} {lecture}{t('.', '。')}"]
    weights = sum(check["weight"] for check in task["checks"])
    for check in task["checks"]:
        stated = words.texts.property(check["name"], check["property"], words.lang)
        gate = t(", decides the task", "，决定本任务") if check["gate"] else ""
        lines.append(f"- **{words.status(check['status'])}** ({check['weight']:g}{gate}){t(':', '：')} {stated}")
        if check["status"] not in ("passed", "unattempted"):
            info = CheckInfo(task["id"], check["weight"], check["gate"], "basic")
            if stake := scoring.stake(info, weights, task["max_score"], words.lang):
                lines += ["", f"  {stake}"]
            lines += ["", *("  " + line for line in _quote(words.texts.message(check["message"], words.lang))), ""]
            if check["misconception"] and check["misconception"] != task["misconception"]:
                lines += [f"  {likely} {_plain(words.misconception(task['id'], check['misconception']))}", ""]
    command = f"`autograder check {task['id']}`"
    where = t(
        f"Read {lecture}; {command} runs these checks on your machine.", f"请读 {lecture}；{command} 在本机运行这些检查项。"
    )
    return [*lines, "", where]


def _quote(text: str) -> list[str]:
    """Text of a student's in a fence that it cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *(clean(line) for line in text.splitlines()), fence]


def _plain(text: str) -> str:
    """Text in running Markdown, none of it markup."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~<>-])", r"\\\1", html.escape(clean(text), quote=False))
