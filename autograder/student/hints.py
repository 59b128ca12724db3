"""Three hints a task, in both languages, from a nudge to close to code: course/weekNN/hints.toml."""

from __future__ import annotations

import tomllib

from autograder import ROOT, UserError, texts
from autograder.manifest import Lang, Task, Week

STAGES = 3
LANGUAGES = ("en", "zh")


class HintError(UserError):
    """A file of hints is missing or malformed; the text names it."""


def of(week: Week, task: Task, lang: Lang = "en", failing: str | None = None) -> list[str]:
    """A task's three hints.

    Args:
        lang: "en" or "zh".
        failing: the check that fails: the first hint is then its own, where there is one.

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
    own = texts.of(week).hint(failing, lang) if failing else None
    return [own or found[0], *found[1:]]
