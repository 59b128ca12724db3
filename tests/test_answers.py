"""Answers of a notebook are data: they are scored against a key, whatever the file holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from autograder.judge import answers
from autograder.manifest import Question, Text, Week

KEY = {
    "q1": {
        "number": 100,
        "rtol": 0.01,
        "wrong": [{"number": 200, "rtol": 0.01, "en": "Counted twice.", "zh": "重复计算。"}],
    },
    "q2": {"text": "b"},
}


@pytest.fixture
def asked(week: Week) -> Week:
    text = Text(en="a", zh="甲")
    questions = (
        Question(id="4.q1", title=text, points=6),
        Question(id="4.q2", title=text, points=4),
        Question(id="4.q3", title=text, points=5, written=True),
    )
    return dataclasses.replace(week, questions=questions)


def notebook(path: Path, *values: Any) -> Path:
    outputs = [{"output_type": "display_data", "data": {answers.MIME: value}} for value in values]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs}]}))
    return path


def test_scores(asked: Week, tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "a.ipynb",
        {"kind": "answer", "id": "4.q1", "value": 1},
        {"kind": "answer", "id": "4.q1", "value": 100.5},  # the last one counts
        {"kind": "record", "id": "4.q2", "value": "b"},  # not an answer
    )
    first, second = answers.score(asked, answers.read(path), KEY)
    assert (first.status, first.points) == ("passed", 6)
    assert (second.status, second.points, second.answer) == ("unattempted", 0, None)


def test_a_known_wrong_answer_is_told(asked: Week) -> None:
    first, second = answers.score(asked, {"4.q1": 201, "4.q2": "c"}, KEY)
    assert (first.status, first.points, first.misconception) == ("failed", 0, ("Counted twice.", "重复计算。"))
    assert (second.status, second.misconception) == ("failed", None)


def test_a_question_without_a_key_is_our_failure(asked: Week) -> None:
    with pytest.raises(ValueError, match=r"answers.toml has no \[q2\]"):
        answers.score(asked, {"4.q1": 100}, {"q1": KEY["q1"]})


@pytest.mark.parametrize(
    ("entry", "right", "wrong"),
    [
        ({"number": 3}, [3, 3.0], [True, "3", None, [3], {}, 3.0000001, float("nan"), float("inf"), 10**400]),
        ({"number": 1, "rtol": 0.1}, [0.95, 1.09], [1.2, True]),
        ({"numbers": [1, 2], "rtol": 0.01}, [[1, 2.01]], [[1], [1, 2, 3], 1, "12", [1, None], [[1], [2]]]),
        ({"between": [0.2, 0.4]}, [0.2, 0.3], [0.1, 0.5, "0.3", float("nan"), [0.3]]),
        ({"text": "B"}, ["b", " B "], ["a", "", 1, None, ["b"]]),
        ({"true": False}, [False], [True, 0, None, "false"]),
    ],
)
def test_what_matches(entry: dict[str, Any], right: list[Any], wrong: list[Any]) -> None:
    assert [value for value in right if not answers.matches(value, entry)] == []
    assert [value for value in wrong if answers.matches(value, entry)] == []


def test_a_key_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="a key needs number"):
        answers.matches(1, {"numbr": 1})


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", '{"cells": 3}', '{"cells": [3]}', '{"cells": [{"cell_type": "code"}]}', "[" * 100_000,
        '{"cells": [{"cell_type": "code", "outputs": [{"data": 3}]}]}',
    ],
)  # fmt: skip
def test_what_is_no_notebook_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(text)
    with pytest.raises(answers.UnreadableNotebook, match=r"^a\.ipynb is not a Jupyter notebook$"):
        answers.read(path)


def test_hostile_outputs_are_passed_over(tmp_path: Path) -> None:
    values = [None, 3, [], {"kind": "answer"}, {"kind": "answer", "id": ["4.q1"]}, {"kind": ["answer"], "id": "4.q1"}]
    assert answers.read(notebook(tmp_path / "a.ipynb", *values)) == {}


def test_a_huge_notebook_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_BYTES", 2**20)
    path = tmp_path / "a.ipynb"
    path.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(answers.UnreadableNotebook, match="larger than 1 MiB"):
        answers.read(path)
