"""The self-check of week 0 tells right from wrong, knows its mistakes, and is polite about what is not there."""

from __future__ import annotations

import re
from typing import Any

import matplotlib
import numpy as np
import pytest

from course.labs import selfcheck

matplotlib.use("agg")
EXERCISES = selfcheck.book()["exercise"]
KINDS = ("number", "numbers", "text", "true")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_done", {})
    monkeypatch.setenv("LAB_LANG", "en")


def right(name: str, answer: Any) -> bool:
    selfcheck.check(name, answer)
    return selfcheck._done.get(name) == selfcheck.RIGHT


def value(entry: dict[str, Any]) -> Any:
    return next(entry[kind] for kind in KINDS if kind in entry)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_answer_and_every_known_mistake(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert right(name, value(EXERCISES[name]))
    assert capsys.readouterr().out == f"{name}: right\n"
    for wrong in EXERCISES[name]["wrong"]:
        assert not right(name, value(wrong))
        assert capsys.readouterr().out == f"{name}: not yet. {wrong['en']}\n"


@pytest.mark.parametrize("name", EXERCISES)
def test_another_wrong_answer_gets_the_hint(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_LANG", "zh")
    assert not right(name, 123.4)
    assert capsys.readouterr().out == f"{name}：不对。{EXERCISES[name]['hint']['zh']}\n"


@pytest.mark.parametrize("nothing", [..., None])
def test_no_answer_is_met_politely(nothing: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert not right("matrices.error", nothing)
    assert capsys.readouterr().out == "matrices.error: no answer yet\n"


def test_arrays_count_row_by_row_and_rounding_about_zero_does_not_matter() -> None:
    assert right("matrices.best", np.array([[2.0, 2 - 1e-12], [-1e-16, 1e-16]]))
    assert not right("matrices.best", np.array([[2.0, 2.0], [0.0, 0.1]]))
    assert not right("matrices.rank", [4, 448])


def test_a_text_where_a_number_belongs_is_wrong_and_no_error() -> None:
    assert not right("matrices.error", "2.236")
    assert not right("quantisation.memory", 2)


def test_the_summary_says_what_to_revise_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in EXERCISES if not name.startswith("training.")]
    for name in names:
        selfcheck.check(name, value(EXERCISES[name]))
    selfcheck.check("training.gradient", [9, 9, 9, 9])
    selfcheck.check("matrices.error", value(EXERCISES["matrices.error"]["wrong"][0]))
    capsys.readouterr()
    fig = selfcheck.summary()
    said = capsys.readouterr().out.splitlines()[:2]
    assert [line.split(":")[0] for line in said] == ["Matrix decomposition", "Back-propagation and Adam"]
    assert "3 / 4" in said[0] and "0 / 3" in said[1] and "section 2.8" in said[0]
    assert [patch.get_height() for patch in fig.axes[0].patches][:3] == [3, 3, 0]


def test_a_corrected_answer_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for name in EXERCISES:
        selfcheck.check(name, 123.4)
        selfcheck.check(name, value(EXERCISES[name]))
    capsys.readouterr()
    selfcheck.summary()
    assert "All right: you are ready for week 1." in capsys.readouterr().out


def test_every_exercise_belongs_to_a_topic_and_speaks_both_languages() -> None:
    topics = selfcheck.book()["topic"]
    for name, exercise in EXERCISES.items():
        assert name.split(".")[0] in topics
        for told in (exercise["hint"], *exercise["wrong"]):
            assert told["en"] and re.search("[\u4e00-\u9fff]", told["zh"])
    for about in topics.values():
        for text in (about["title"], about["revise"]):
            assert text["en"] and text["zh"]
