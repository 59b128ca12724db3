"""Three hints a task, in both languages, from a nudge to close to code: course/weekNN/hints.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

from autograder import UserError
from autograder.manifest import Task, Week

ROOT = Path(__file__).parents[1]
STAGES = 3
LANGUAGES = ("en", "zh")


class HintError(UserError):
    """A file of hints is missing or malformed; the text names it."""


def of(week: Week, task: Task, lang: str = "en") -> list[str]:
    """A task's three hints.

    Args:
        lang: "en" or "zh".

    Raises:
        HintError: if the week's hints lack the task, or are malformed.
    """
    place = f"course/{week.folder}/hints.toml"
    try:
        found = tomllib.loads((ROOT / place).read_text(encoding="utf-8"))[task.id][lang]
    except FileNotFoundError:
        raise HintError(f"{place} is missing: week {week.number} has no hints yet") from None
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise HintError(f"{place}: task {task.id}, {lang}: {type(error).__name__}: {error}") from None
    if not isinstance(found, list) or len(found) != STAGES or not all(isinstance(hint, str) and hint for hint in found):
        raise HintError(f"{place}: task {task.id}, {lang}: {STAGES} hints are needed")
    return found
