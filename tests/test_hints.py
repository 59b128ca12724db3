"""Every task has three hints in each language, and the command shows them."""

from __future__ import annotations

import re

import pytest

from autograder import cli, texts
from autograder.manifest import Task, Week, load
from autograder.student import hints

TASKS = [(week, task) for week in load().weeks for task in week.tasks]


@pytest.mark.parametrize(("week", "task"), TASKS, ids=[t.id for _, t in TASKS])
def test_a_task_has_three_hints_in_both_languages(week: Week, task: Task) -> None:
    english, chinese = (hints.of(week, task, lang) for lang in hints.LANGUAGES)
    assert len(set(english)) == len(set(chinese)) == hints.STAGES
    assert all(re.search("[\u4e00-\u9fff]", hint) for hint in chinese)
    assert not any(re.search("[\u4e00-\u9fff]", hint) for hint in english)


def test_the_command_shows_one_stage_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    week, task = TASKS[-1]
    for lang in hints.LANGUAGES:
        for stage, hint in enumerate(hints.of(week, task, lang), start=1):
            assert cli.main(["hint", task.id, "--stage", str(stage), "--lang", lang]) == 0
            shown = capsys.readouterr().out
            assert hint in shown
            assert sum(other in shown for other in hints.of(week, task, lang)) == 1
            assert (texts.lecture(task.lecture, lang) in shown) == (stage == hints.STAGES)


@pytest.mark.parametrize(("what", "said"), [("4", "a hint is for one task"), ("4.9", "4.9"), ("x", "neither a week")])
def test_the_command_says_what_it_cannot_do(what: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["hint", what]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_malformed_hints_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    week, task = TASKS[-1]
    monkeypatch.setattr(hints, "ROOT", tmp_path)
    with pytest.raises(hints.HintError, match=r"hints\.toml is missing"):
        hints.of(week, task)
    folder = tmp_path / "course" / week.folder
    folder.mkdir(parents=True)
    for text in (f'["{task.id}"]\nen = ["one", "two"]\n', f'["{task.id}"]\nzh = []\n', "[", f'["{task.id}"]\nen = [1, 2, 3]\n'):
        (folder / "hints.toml").write_text(text)
        with pytest.raises(hints.HintError, match=rf"hints\.toml: task {task.id}, en"):
            hints.of(week, task)
