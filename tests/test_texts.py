"""What checks say exists in Chinese, and each check of a core task has a hint: no literal without an entry, no idle entry."""

from __future__ import annotations

import re

import pytest

from autograder import texts
from autograder.judge.runner import CHECKS, Runner
from autograder.manifest import Week, load

WEEKS = [week for week in load().weeks if week.tasks]
HOLE = re.compile(r"\{\d*\}")
each_week = pytest.mark.parametrize("week", WEEKS, ids=lambda week: week.folder)


def literals(week: Week) -> set[str]:
    """What the week's checks, and what of them runs inside the sandbox, may say."""
    files = [*(CHECKS / week.folder).glob("test_*.py"), CHECKS.parent / "inside" / f"{week.folder}.py"]
    return {phrase for path in files if path.is_file() for phrase in texts.phrases(path)}


@each_week
def test_every_literal_is_translated(week: Week) -> None:
    found = texts.of(week)
    assert sorted(literals(week) - set(found.words) - found.inputs) == []


@each_week
def test_no_entry_is_idle(week: Week) -> None:
    files = [*(CHECKS / week.folder).glob("test_*.py"), CHECKS.parent / "inside" / f"{week.folder}.py"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
    # A single word is no phrase, yet may be said: its text must stand in the checks.
    unknown = set(texts.own_words(week)) - literals(week)
    idle = sorted(entry for entry in unknown if not all(part in source for part in HOLE.split(entry)))
    assert (idle, sorted(texts.of(week).inputs - literals(week))) == ([], [])


@each_week
def test_places_and_characters(week: Week) -> None:
    for english, chinese in texts.of(week).words.items():
        assert len(HOLE.findall(english)) == len(HOLE.findall(chinese)), english
        assert re.search("[\u4e00-\u9fff]", HOLE.sub("", chinese)), english


@each_week
def test_every_check_has_its_texts(week: Week) -> None:
    runner, found = Runner(week, 0), texts.of(week)
    runner.run_in_pytest(lambda: None)
    checks = {item.name.removeprefix("test_"): task for task in week.tasks for item in runner.items[task.id]}
    assert set(found.checks) == set(checks)
    for name, task in checks.items():
        assert re.search("[\u4e00-\u9fff]", found.checks[name]["zh"]), name
        for lang in ("en", "zh"):
            assert task.stretch or found.hint(name, lang), f"{name} has no hint in {lang}"  # type: ignore[arg-type]


def test_a_message_line_by_line() -> None:
    words = {"{} is wrong": "{} 不正确", "With {}:": "取 {}：", "the {} of {}": "{1} 的 {0}", "x of shape {}": "x 的形状为 {}"}
    found = texts.Texts({}, words)
    said = "With rank=2, x of shape (3,):\nthe loss of my step is wrong\n  TypeError: x is wrong, (is wrong"
    assert found.message(said, "en") == said
    assert found.message(said, "zh").split("\n")[:2] == ["取 rank=2, x of shape (3,)：", "my step 的 loss 不正确"]


def test_no_space_between_chinese() -> None:
    found = texts.Texts({}, {"{} is wrong": "{} 不正确", "the loss": "损失", "the loss L": "损失 L"})
    assert found.message("the loss is wrong\nthe loss L is wrong", "zh") == "损失不正确\n损失 L 不正确"


def test_the_words_of_an_exception_stay() -> None:
    words = {"{} raised {}": "{} 引发了 {}", "{} in {}": "{1} 中的 {0}", "A of shape {}": "A 的形状为 {}"}
    found = texts.Texts({}, words | {"TypeError: has shape {}": "TypeError: 形状为 {}", "{} raised nothing": "{} 没有引发异常"})
    theirs = 'ValueError: W in f has shape (3,) (a.py:7: raise ValueError(f"W in f has shape {W.shape}"))'
    assert found.message(f"f(W) raised {theirs}", "zh") == f"f(W) 引发了 {theirs}"
    assert (
        found.message("A of shape 3 raised RuntimeError: Mismatch in shape", "zh")
        == "A 的形状为 3 引发了 RuntimeError: Mismatch in shape"
    )
    assert found.message("f(W) raised TypeError: has shape (3,)", "zh") == "f(W) 引发了 TypeError: 形状为 (3,)"
    assert found.message("f(W) raised nothing", "zh") == "f(W) 没有引发异常"
