"""What the commands of students share: the language that they speak, what "4.2" means, and where things are."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from autograder import ROOT, UserError
from autograder.manifest import Course, Lang, Task, Week


def language() -> Lang:
    """The language to speak: AUTOGRADER_LANG where it is en or zh, else what the locale says; the default of every --lang."""
    chosen = os.environ.get("AUTOGRADER_LANG", "").strip().lower()
    if chosen in ("en", "zh"):
        return "zh" if chosen == "zh" else "en"
    locale = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), "")
    return "zh" if locale.lower().startswith("zh") else "en"


def add_language(parser: argparse.ArgumentParser, of: str = "of what is printed") -> None:
    """Give a command --lang."""
    told = f"{of} (default: AUTOGRADER_LANG, else the locale)"
    parser.add_argument("--lang", choices=("en", "zh"), default=language(), help=told)


def what(course: Course, text: str) -> tuple[Week, list[Task]]:
    """The week and tasks that "4" or "4.2" means.

    Raises:
        UserError: if it means none.
    """
    found = re.fullmatch(r"(?:week)?0?([1-9][0-9]?)(?:\.0?([1-9][0-9]?))?", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise UserError(f'"{text}" is neither a week, such as 4, nor a task, such as 4.2')
    number, task = found.groups()
    week = course.week(int(number))
    if not week.tasks:
        raise UserError(f"week {week.number} has no tasks yet")
    return week, [course.task(f"{week.number}.{int(task)}")] if task else list(week.tasks)


def weeks_here(course: Course) -> list[Week]:
    """The weeks whose checks this copy of the course has: a students' copy may have some only."""
    return [week for week in course.weeks if week.tasks and (ROOT / "autograder" / "checks" / week.folder).is_dir()]


def stub_path(week: Week) -> Path:
    return ROOT / "exercises" / week.folder / week.stub


def shown(path: Path) -> str:
    """A path from where the user stands, with the separators of the system."""
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive on Windows
        return str(path)
