"""What the commands print: plain text for a terminal or a pipe."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.intake import clean
from autograder.judge import scoring
from autograder.judge.runner import TaskRun
from autograder.manifest import Week
from autograder.screen import columns as columns
from autograder.screen import fill as fill

if TYPE_CHECKING:
    from fractions import Fraction

    from autograder.grading.engine import Summary
    from autograder.manifest import Lang
    from autograder.marking.marks import Mark

_ROWS = 40


def print_check(week: Week, runs: list[TaskRun], path: Path, lang: Lang = "en") -> int:
    """A student's own check; returns the exit status."""
    from autograder import show

    show.say(show.page(week, runs, path, lang))
    # Stretch tasks decide only where nothing else was asked for.
    decisive = [run for run in runs if not run.task.stretch] or runs
    return 0 if all(run.outcomes and scoring.share(run.outcomes) == 1 for run in decisive) else 1


def print_github(runs: list[TaskRun]) -> None:
    """For GitHub Actions: the points as annotations, in the words that GitHub Classroom had for them, and a table as summary."""
    core = [run for run in runs if not run.task.stretch]
    points, total = round(sum(map(_points, core)), 2), sum(run.task.points for run in core)
    print(f"::notice title=Autograding complete::Points {points:g}/{total}")
    print(f"::notice title=Autograding report::{json.dumps({'totalPoints': points, 'maxPoints': total})}")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if not summary:
        return
    lines = [f"Points {points:g} of {total}: feedback, no mark.", "", "| task | | points | |", "|---|---|---|---|"]
    for run in runs:
        worth = "stretch, no points" if run.task.stretch else f"{_points(run):.4g} of {run.task.points}"
        status = scoring.status(run.outcomes) if run.outcomes else ""
        lines.append(f"| {run.task.id} | {run.task.title.en} | {worth} | {status} |")
    told = dict.fromkeys(f"- {run.task.id}: {o.misconception}" for run in runs for o in run.outcomes if o.misconception)
    lines += ["", "Likely misunderstandings:", "", *told] if told else []
    with open(summary, "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n\n")


def _points(run: TaskRun) -> float:
    return run.task.points * scoring.share(run.outcomes) if run.outcomes else 0.0


def print_class(summary: Summary, week: Week, out: Path) -> None:
    """The class's table and where the results are."""
    results = summary.results
    tasks = [t.id for t in week.tasks]
    names = {r["student"]: clean(r["student"])[:30] for r in results}
    width = max([7, *map(columns, names.values())])
    print(f"{'student':<{width}}  {'score':>7}  " + "  ".join(f"{t:>11}" for t in tasks))
    for result in results[:_ROWS]:
        score = "-" if result["status"] == "ungraded" else f"{result['score']:g}/{result['max_score']}"
        cells = {t["id"]: t["status"] for t in result["tasks"]}
        row = "  ".join(f"{cells.get(t, '-'):>11}" for t in tasks)
        note = f"  {clean(result['message'])}" if result["message"] else ""
        name = names[result["student"]]
        print(f"{name}{' ' * (width - columns(name))}  {score:>7}  {row}{note}")
    if len(results) > _ROWS:
        print(f"... and {len(results) - _ROWS} more")
    for line in summary.lines:
        print(line)
    for result in results:
        for notice in result["notices"]:
            print(f"{clean(result['student'])}: {notice}")
    scores = [r["score"] for r in results if r["status"] == "graded"]
    print()
    if scores:
        maximum = results[0]["max_score"]
        print(f"{len(scores)} graded, median {statistics.median(scores):g} of {maximum}, full marks {scores.count(maximum)}")
    if ungraded := [r for r in results if r["status"] == "ungraded"]:
        print(f"{len(ungraded)} NOT graded, through no fault of theirs: run the same command again")
    if results and results[0]["isolation"] != "bwrap":
        print("reduced isolation: level process")
    print(f"{summary.reused} kept from an earlier run; {summary.seconds:.1f} s")
    print(f"results: {out}/results.jsonl   grades: {out}/grades.csv   feedback: {out}/feedback/")
    print(f"what the class misunderstood: {out}/report.html")


def mark_lines(mark: Mark, lang: Lang) -> str:
    """A student's mark with every line that it comes from."""
    from autograder.marking.marks import rounded

    zh = lang == "zh"
    lines = [clean("  ".join(filter(None, (mark.person.student, mark.person.name, mark.group and f"[{mark.group}]"))))]
    for part in mark.parts:
        earned = "-" if part.earned is None else rounded(part.earned)
        lines += [f"  {part.name}: {earned} / {part.weight}", *(f"    {clean(line)}" for line in part.lines)]
    total = f"{rounded(mark.total)} / {mark.out_of}"
    lines.append(f"  {'总分' if zh else 'total'}: {total}{_standing(mark, zh)}")
    lines += [f"    {clean(text)}" for text in mark.pending]
    return "\n".join(lines)


def marks_table(marks: list[Mark], lang: Lang) -> str:
    """The class, a line a student."""
    from autograder.marking.marks import rounded

    zh = lang == "zh"
    if not marks:
        return "roster.csv 与成绩册中还没有学生" if zh else "no students yet, neither in roster.csv nor in the gradebook"
    rows = [
        ["学生" if zh else "student", *(f"{part.name} ({part.weight})" for part in marks[0].parts), "总分" if zh else "total"]
    ]
    for mark in marks:
        parts = ["-" if part.earned is None else rounded(part.earned) for part in mark.parts]
        rows.append([clean(mark.person.student)[:30], *parts, f"{rounded(mark.total)} / {mark.out_of}"])
    widths = [max(columns(row[column]) for row in rows) for column in range(len(rows[0]))]
    notes = ["", *(_standing(mark, zh) for mark in marks)]
    lines = []
    for (name, *numbers), note in zip(rows, notes, strict=True):
        cells = [fill(name, widths[0]), *(fill(n, width, right=True) for n, width in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join(cells) + note)
    waiting = sum(bool(mark.pending) for mark in marks)
    if waiting:
        lines.append(
            f"{waiting} 份成绩尚未确定，原因见 --explain" if zh else f"{waiting} provisional; --explain says what they wait for"
        )
    return "\n".join(lines)


def mark_json(mark: Mark) -> dict[str, Any]:
    """A mark as JSON; numbers that are not finite decimals are given to six places."""

    def number(value: Fraction | None) -> float | None:
        return None if value is None else round(float(value), 6)

    return {
        "student": mark.person.student,
        "name": mark.person.name,
        "group": mark.group,
        "total": number(mark.total),
        "out_of": mark.out_of,
        "pending": list(mark.pending),
        "parts": [
            {"name": p.name, "weight": p.weight, "earned": number(p.earned), "lines": list(p.lines)} for p in mark.parts
        ],
        "weeks": [
            {"week": w.number, "raw": number(w.raw), "score": number(w.score), "counts": w.counts, "notes": list(w.notes)}
            for w in mark.weeks
        ],
    }  # fmt: skip


def _standing(mark: Mark, zh: bool) -> str:
    return ("  未确定" if zh else "  provisional") if mark.pending else ""
