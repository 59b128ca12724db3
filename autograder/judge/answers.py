"""Scores the JSON answers of an executed notebook against a week's key, `solutions/weekNN/answers.toml`.

A notebook is a student's file: it is read with limits, as data, and nothing in it is run. A key has a table for each question:

    [q1]
    number = 18432         # or numbers = [...], text = "b", true = true, between = [0.2, 0.4]
    rtol = 1e-3            # relative tolerance of number(s); without it they are compared exactly

    [[q1.wrong]]           # known wrong answers and what they tell
    number = 36864
    en = "Each layer was counted for two matrices."
    zh = "..."
"""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autograder.intake import MAX_NOTEBOOK
from autograder.manifest import Question, Week
from course.labs.core import MIME, ROOT

MAX_BYTES = MAX_NOTEBOOK
_MAX_LENGTH = 1000  # of a list


@dataclass(frozen=True, slots=True)
class Score:
    """What one question earned.

    Attributes:
        status: "passed", "failed", "unattempted" (no answer in the notebook).
        answer: the answer as it was handed in, None if there is none.
        misconception: (en, zh) when the answer is a known wrong one.
    """

    question: Question
    status: str
    points: int
    answer: Any = None
    misconception: tuple[str, str] | None = None


class UnreadableNotebook(ValueError):
    """The file is not a notebook; the text is one line for the student."""


def read(path: Path) -> dict[str, Any]:
    """The last answer to each question in a notebook's outputs, by question id.

    Raises:
        UnreadableNotebook: if the file is too large or not a notebook.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableNotebook(f"{path.name} is larger than {MAX_BYTES >> 20} MiB: clear its outputs and run it again")
    try:
        return of(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnreadableNotebook(f"{path.name} is not a Jupyter notebook") from None


def of(notebook: Any) -> dict[str, Any]:
    """The last answer to each question in the outputs of a notebook that is already JSON, by question id."""
    outputs = [output for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]
    found = [output["data"][MIME] for output in outputs if MIME in output.get("data", {})]
    answers = [item for item in found if isinstance(item, dict) and item.get("kind") == "answer"]
    return {item["id"]: item.get("value") for item in answers if isinstance(item.get("id"), str)}


def found(notebook: Any) -> dict[str, Any]:
    """As `of`; nothing of a notebook that has another form."""
    try:
        return of(notebook)
    except (KeyError, TypeError, AttributeError):
        return {}


def key(week: Week) -> dict[str, dict[str, Any]]:
    """The week's key, by grade_id."""
    path = ROOT / "solutions" / week.folder / "answers.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def right(keys: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """An answer that a key takes, by grade_id."""
    found = {}
    for name, entry in keys.items():
        kind = next(kind for kind in ("number", "numbers", "between", "text", "true") if kind in entry)
        found[name] = sum(entry[kind]) / 2 if kind == "between" else entry[kind]
    return found


def score(week: Week, answers: dict[str, Any], keys: dict[str, dict[str, Any]] | None = None) -> list[Score]:
    """The score of each question that the judge can mark (written ones are the TA's).

    Raises:
        ValueError: if the key lacks a question.
    """
    keys = key(week) if keys is None else keys
    scores = []
    for question in week.questions:
        if question.written:
            continue
        if question.grade_id not in keys:
            raise ValueError(f"solutions/{week.folder}/answers.toml has no [{question.grade_id}]")
        if question.id not in answers:
            scores.append(Score(question, "unattempted", 0))
            continue
        value, entry = answers[question.id], keys[question.grade_id]
        if matches(value, entry):
            scores.append(Score(question, "passed", question.points, value))
        else:
            told = next(((w["en"], w["zh"]) for w in entry.get("wrong", []) if matches(value, w)), None)
            scores.append(Score(question, "failed", 0, value, told))
    return scores


def matches(value: Any, entry: dict[str, Any]) -> bool:
    """Whether a value is what a table of the key asks for.

    Raises:
        ValueError: if the table has no known kind.
    """
    rtol = entry.get("rtol", 0.0)
    if "number" in entry:
        return _near(value, entry["number"], rtol)
    if "numbers" in entry:
        wanted = entry["numbers"]
        if not isinstance(value, list) or len(value) > _MAX_LENGTH or len(value) != len(wanted):
            return False
        return all(_near(got, want, rtol) for got, want in zip(value, wanted, strict=True))
    if "between" in entry:
        low, high = entry["between"]
        return _number(value) and bool(low <= value <= high)
    if "text" in entry:
        return isinstance(value, str) and value.strip().casefold() == entry["text"].casefold()
    if "true" in entry:
        return value is entry["true"]
    raise ValueError(f"a key needs number, numbers, between, text or true, not {', '.join(entry)}")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _near(value: Any, wanted: float, rtol: float) -> bool:
    return _number(value) and abs(value - wanted) <= rtol * abs(wanted)
