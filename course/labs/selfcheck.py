"""The self-check of week 0: short exercises, told at once whether they are right, and at the end what to revise.

Nothing here is graded, so the answers stand in the open, in `course/week00/selfcheck.toml`, with the mistakes that it knows.
"""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from autograder.judge.answers import matches
from course.labs import core, plots
from course.labs.core import ROOT, language, say

RIGHT, WRONG = "right", "wrong"
_done: dict[str, str] = {}  # exercise: RIGHT or WRONG, the last try counts


@cache
def book() -> dict[str, Any]:
    """Topics, and exercises with their answers, hints and known mistakes."""
    return tomllib.loads((ROOT / "course" / "week00" / "selfcheck.toml").read_text(encoding="utf-8"))


def check(name: str, value: Any) -> None:
    """Say whether an answer is right, and what may have gone wrong where it is not.

    Args:
        name: of the exercise, such as "matrices.rank".
        value: a number, a text, True or False, or an array, whose entries are compared row by row. `...` or None: no answer yet.
    """
    exercise = book()["exercise"][name]
    if value is ... or value is None:
        _done.pop(name, None)
        print(say(f"{name}: no answer yet", f"{name}：尚未作答"))
        return
    plain = _plain(value)
    right = matches(plain, exercise)
    _done[name] = RIGHT if right else WRONG
    if right:
        print(say(f"{name}: right", f"{name}：正确"))
        return
    known = next((wrong for wrong in exercise.get("wrong", []) if matches(plain, wrong)), exercise["hint"])
    print(say(f"{name}: not yet. {known['en']}", f"{name}：不对。{known['zh']}"))


def summary() -> Figure:
    """Print what to revise and where; returns the plot of right answers by topic."""
    lang = "zh" if language() == "zh" else "en"
    names = list(book()["exercise"])
    counts = {}
    for topic, about in book()["topic"].items():
        own = [name for name in names if name.startswith(f"{topic}.")]
        right = sum(_done.get(name) == RIGHT for name in own)
        counts[topic] = (right, len(own))
        if right < len(own):
            print(f"{about['title'][lang]}: {right} / {len(own)}. {about['revise'][lang]}")
    if all(right == asked for right, asked in counts.values()):
        print(say("All right: you are ready for week 1.", "全部正确：可以开始第 1 周了。"))
    core.record("selfcheck", counts=counts, exercises=names)
    fig = plots.bars(
        list(counts),
        {"right": [right for right, _ in counts.values()], "asked": [asked for _, asked in counts.values()]},
        xlabel="topic",
        ylabel="exercises",
        title="Where you are",
    )
    most = max(asked for _, asked in counts.values())
    fig.axes[0].set(yticks=range(most + 1), ylim=(0, most + 1.5))  # room for the legend
    return fig


def _plain(value: Any) -> Any:
    """The value as a key has it: a list is flat, and rounding errors about zero are zero."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, str):
        return value
    array = np.round(np.asarray(value, dtype=float), 9) + 0.0
    return array.item() if array.ndim == 0 else array.ravel().tolist()
