"""What a student sees of a run of checks, as a page for rich: on a terminal, in a pipe, in JupyterLab, as a picture."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autograder import texts
from autograder.intake import clean, printable
from autograder.judge import scoring
from autograder.manifest import Lang, Week
from autograder.screen import Screen

if TYPE_CHECKING:
    from rich.console import RenderableType

    from autograder.judge.runner import TaskRun
    from autograder.judge.scoring import Outcome

_STYLES = {"passed": "bold green", "unattempted": "dim", "partial": "bold yellow"}
_BAR = 30
_PIPE = 1000  # columns


def page(week: Week, runs: Sequence[TaskRun], path: Path, lang: Lang = "en") -> RenderableType:
    """All that a run of checks says.

    Args:
        runs: of some of the week's tasks.
        path: the file that was checked.
    """
    zh = lang == "zh"
    where = "在本进程中检查，未隔离，不计分" if zh else "in this process, not isolated, no marks"
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    parts: list[RenderableType] = [Text.assemble(clean(str(path)), (f" ({where})", "dim")), ""]
    words = texts.of(week)
    for run in runs:
        parts += [*_task(run, words, lang), ""]
    parts.append(_total(runs, lang))
    return Group(*parts)


def console(file: IO[str] | None = None) -> Console:
    """Where pages go: rich's console, which colours for a terminal only; in a pipe nothing is wrapped."""
    file = file or sys.stdout
    if hasattr(file, "reconfigure"):
        file.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    made = Console(file=file, highlight=False)
    if not made.is_terminal and not made.is_jupyter and "COLUMNS" not in os.environ:
        made.width = _PIPE
    return made


def say(shown: RenderableType) -> None:
    """Print a page to where standard output goes, or into a notebook's cell."""
    made = console()
    if made.is_terminal or made.is_jupyter:
        made.print(shown)
        return
    with made.capture() as captured:
        made.print(shown)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def earned(runs: Sequence[TaskRun]) -> float:
    """The points of these tasks."""
    return sum(scoring.share(run.outcomes) * run.task.points for run in runs if run.outcomes)


def _task(run: TaskRun, words: texts.Texts, lang: Lang) -> Iterator[RenderableType]:
    zh, task, outcomes = lang == "zh", run.task, run.outcomes
    status = scoring.status(outcomes) if outcomes else "no checks in this tier"
    shown = texts.STATUS_ZH.get(status, "该层级没有检查项") if zh else status
    points = f"{earned([run]):.4g}"
    if task.stretch:
        worth = "拓展任务，不计分" if zh else "stretch, no points"
    else:
        worth = f"{points} / {task.points} 分" if zh else f"{points} of {task.points} points"
    title = task.title.zh if zh else task.title.en
    yield Text.assemble(
        (f"{task.id}  {title}", "bold"), "：" if zh else ": ",
        (shown, _STYLES.get(status, "bold red")), "，" if zh else ", ", worth,
    )  # fmt: skip
    lecture = texts.lecture(task.lecture, lang)
    if status == "unattempted":
        yield _in(5, f"尚未尝试；先读 {lecture}" if zh else f"not attempted yet; read {lecture}")
        return
    if run.unloadable:
        yield _in(5, words.message(run.unloadable, lang), "red")
        return
    told: set[str] = set()
    for outcome in outcomes:
        yield from _check(run, outcome, words, lang, told)
    if status != "passed" and outcomes:
        more = f"autograder hint {task.id}"
        yield Text.assemble(
            "     ", ("阅读 " if zh else "read "), (lecture, "cyan"), ("；提示：" if zh else "; a hint: "), (more, "cyan")
        )


def _check(run: TaskRun, outcome: Outcome, words: texts.Texts, lang: Lang, told: set[str]) -> Iterator[RenderableType]:
    zh, kind = lang == "zh", outcome.kind
    mark, style = {"passed": ("ok  ", "green"), "wrong": ("FAIL", "bold red")}.get(kind, (kind.upper(), "bold red"))
    summary = words.property(outcome.name, outcome.summary, lang)
    yield _hanging(Text(f"{mark} ", "dim" if kind == "unattempted" else style), Text(summary), 5)
    if kind in ("passed", "unattempted"):
        return
    if stake := scoring.stake(outcome.info, sum(o.info.weight for o in run.outcomes), run.task.points, lang):
        yield _in(10, stake, "yellow")
    message, misconception = outcome.message, (outcome.misconception_zh if zh else None) or outcome.misconception
    if misconception in told:  # the same mistake, seen once more: where, without the numbers
        message = "\n".join(line for line in message.split("\n") if not line.startswith("  "))
    yield _in(10, words.message(message, lang))
    if misconception in told:
        yield _in(10, "同一个误解" if zh else "the same misunderstanding", "dim")
    if misconception and misconception not in told:
        told.add(misconception)
        head = Text("可能的误解：" if zh else "likely misunderstanding: ", "bold magenta")
        yield Padding(Text.assemble(head, misconception), (0, 0, 0, 10))


def _total(runs: Sequence[TaskRun], lang: Lang) -> RenderableType:
    zh, total = lang == "zh", sum(run.task.points for run in runs)
    if not total:
        one = len(runs) == 1
        return Text("拓展任务不计分" if zh else "a stretch task has no points" if one else "stretch tasks have no points")
    points = earned(runs)
    text = f"{points:.4g} / {total} 分" if zh else f"{points:.4g} of {total} points"
    return Text.assemble(*Screen().bar(points / total, 0, _BAR), "  ", (text, "bold"))


def _in(indent: int, text: str, style: str = "") -> RenderableType:
    """A block of text; what a student's code said in it is no markup and no control sequence."""
    lines = [(len(line) - len(line.lstrip()), printable(line.strip())) for line in text.split("\n")]
    return Group(*(Padding(Text(line, style, overflow="fold"), (0, 0, 0, indent + own)) for own, line in lines))


def _hanging(head: Text, body: Text, indent: int) -> RenderableType:
    """`head` before `body`, whose further lines stand under its first."""
    grid = Table.grid()
    grid.add_column(width=head.cell_len + indent)
    grid.add_column()
    grid.add_row(Text.assemble(" " * indent, head), body)
    return grid
