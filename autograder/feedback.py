"""Feedback pages, one Markdown file a student, made from results alone. What a student wrote is only ever quoted."""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path
from typing import Any

from autograder.intake import clean
from autograder.manifest import Week
from autograder.results import Result

_MARKS = {"passed": "passed", "wrong": "failed", "unattempted": "not attempted"}


def write_pages(folder: Path, results: list[Result], week: Week) -> None:
    """Write `<student>.md` for every result, and remove pages of students who are not among them."""
    folder.mkdir(exist_ok=True)
    pages = {page_name(result["student"]): page(result, week) for result in results}
    for stale in folder.glob("*.md"):
        if stale.name not in pages:
            stale.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8", errors="replace")


def page_name(student: str) -> str:
    """A file name for a student's page: the folder's name where it is plain, else with a hash behind it."""
    plain = re.sub(r"[^\w.\- ]", "_", student)
    if plain == student and not student.startswith((".", " ", "-")) and len(student.encode()) <= 200:
        return f"{student}.md"
    digest = hashlib.sha256(student.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{plain.lstrip('. -')[:40]}-{digest}.md"


def page(result: Result, week: Week) -> str:
    """One student's page."""
    lines = [f"# Week {week.number}: {week.title.en}", ""]
    if result["status"] == "ungraded":
        lines += [f"{_plain(result['student'])}: not graded yet, and not through your fault.", ""]
        return "\n".join([*lines, *_quote(result["message"]), ""])
    lines += [f"{_plain(result['student'])}: **{result['score']:g} of {result['max_score']} points**", ""]
    if result["isolation"] != "bwrap":
        lines += ["Graded with reduced isolation.", ""]
    if result["message"]:
        lines += ["Your submission could not be run:", "", *_quote(result["message"]), ""]
    for notice in result["notices"]:
        lines += _quote(notice)
    if receipt := result.get("submission"):
        lines += ["", f"Receipt of what was marked: `{receipt[:16]}`."]
    titles = {task.id: task for task in week.tasks}
    lines += ["", "| task | | points | |", "|---|---|---|---|"]
    for task in result["tasks"]:
        title = titles[task["id"]].title.en if task["id"] in titles else ""
        points = f"{task['score']:g} / {task['max_score']}" if task["max_score"] else "stretch, no points"
        lines.append(f"| {task['id']} | {title} | {points} | {task['status']} |")
    for task in [] if result["message"] else result["tasks"]:
        left_out = not task["max_score"] and task["status"] == "unattempted"  # nobody has to do a stretch task
        if task["checks"] and task["status"] != "passed" and not left_out:
            lines += ["", f"## {task['id']} {titles[task['id']].title.en}", "", *_task(task, titles[task["id"]].lecture)]
    return "\n".join([*lines, ""])


def _task(task: dict[str, Any], lecture: str) -> list[str]:
    lines: list[str] = []
    if task["misconception"]:
        lines += [f"**Likely misunderstanding:** {_plain(task['misconception'])}", ""]
    if task["status"] == "unattempted":
        return [*lines, f"Not attempted: the stub's NotImplementedError is still there. Read {lecture}."]
    for check in task["checks"]:
        gate = ", decides the task" if check["gate"] else ""
        status = _MARKS.get(check["status"], check["status"])
        lines.append(f"- **{status}** ({check['weight']:g}{gate}): {check['property']}")
        if check["status"] not in ("passed", "unattempted"):
            lines += ["", *("  " + line for line in _quote(check["message"])), ""]
            if check["misconception"] and check["misconception"] != task["misconception"]:
                lines += [f"  Likely misunderstanding: {_plain(check['misconception'])}", ""]
    return [*lines, "", f"Read {lecture}; `autograder check {task['id']}` runs these checks on your machine."]


def _quote(text: str) -> list[str]:
    """Text of a student's in a fence that it cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}text", *(clean(line) for line in text.splitlines()), fence]


def _plain(text: str) -> str:
    """Text in running Markdown, none of it markup."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~<>-])", r"\\\1", html.escape(clean(text), quote=False))
