"""Notebooks come from their sources: two languages, no solutions, nbgrader's metadata, nobody's work overwritten."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from autograder.authoring import build, notebooks
from autograder.manifest import Course, Question, Text

SOURCE = """\
# %% [markdown] lang="en"
# # Week 4 lab
# %% [markdown] lang="zh"
# # 第 4 周实验
# %%
from course import labs

guess = ...  # a number
### BEGIN SOLUTION
guess = sum(value**2 for value in range(7) if value % 2 and value != 3 or value == 6)
### END SOLUTION
labs.predict("4.p1", guess)
# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}
answer = ...
### BEGIN SOLUTION
answer = 42
### END SOLUTION
labs.answer("4.q1", answer)
# %% [markdown] lang="en" nbgrader={"grade_id": "q2", "grade": true, "solution": true}
# Because the rank is small.
# %% [markdown] lang="zh" nbgrader={"grade_id": "q2", "grade": true, "solution": true}
# 因为秩很小。
"""


@pytest.fixture
def asked(course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    """The course with two questions, both in week 4, and a folder that has this notebook's source only."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    write(tmp_path, SOURCE)
    text = Text(en="a", zh="甲")
    questions = (Question(id="4.q1", title=text, points=9), Question(id="4.q2", title=text, points=6, written=True))
    weeks = [dataclasses.replace(week, questions=questions if week.number == 4 else ()) for week in course.weeks]
    return dataclasses.replace(course, weeks=tuple(weeks))


def write(root: Path, source: str) -> None:
    path = root / "solutions" / "week04" / "lab.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def cells(course: Course, lang: Any) -> list[Any]:
    return list(nbformat.reads(notebooks.student("week04", course, lang), as_version=4).cells)


def test_the_languages_have_their_own_text_and_the_same_code(asked: Course) -> None:
    english, chinese = cells(asked, "en"), cells(asked, "zh")
    assert [c.source for c in english if c.cell_type == "markdown"] == ["# Week 4 lab", notebooks.TEXT_STUB["en"]]
    assert [c.source for c in chinese if c.cell_type == "markdown"] == ["# 第 4 周实验", notebooks.TEXT_STUB["zh"]]
    assert [c for c in english if c.cell_type == "code"] == [c for c in chinese if c.cell_type == "code"]
    assert notebooks.student("week04", asked, "en") == notebooks.student("week04", asked, "en")


def test_solutions_are_cleared_and_an_untouched_cell_runs(asked: Course) -> None:
    code = [c.source for c in cells(asked, "en") if c.cell_type == "code"]
    assert code[1] == "\n".join(["answer = ...", "# YOUR CODE HERE", 'labs.answer("4.q1", answer)'])
    assert not any("SOLUTION" in text or "42" in text or "value**2" in text for text in code)
    assert "answer = 42" in notebooks.solved("week04", asked).cells[2].source


def test_graded_cells_have_nbgraders_metadata_and_the_manifests_points(asked: Course) -> None:
    graded = {c.metadata.nbgrader.grade_id: c for c in cells(asked, "en") if "nbgrader" in c.metadata}
    assert {name: cell.metadata.nbgrader.points for name, cell in graded.items()} == {"q1": 9, "q2": 6}
    for cell in graded.values():
        assert cell.metadata.nbgrader.schema_version == 3 and cell.metadata.nbgrader.cell_type == cell.cell_type
        assert cell.metadata.deletable is False


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('lang="zh"\n# # 第', 'lang="en"\n# # 第', 'is followed by its lang="zh"'),
        ("# %%\nfrom", '# %% lang="en"\nfrom', "code has no lang"),
        ('"q1"', '"q7"', "no \\[\\[week.question\\]\\] fits the code cell 'q7'"),
        ('# %% nbgrader={"grade_id": "q1", "grade": true, "solution": true}', "# %%", "manifest's questions \\['q1', 'q2'\\]"),
        ('"grade_id": "q1"', '"grade_id": "q2"', "no \\[\\[week.question\\]\\] fits the code cell 'q2'"),
    ],
)
def test_a_faulty_source_is_named(asked: Course, tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in SOURCE
    write(tmp_path, SOURCE.replace(old, new, 1))
    with pytest.raises(notebooks.NotebookError, match=f"^solutions/week04/lab.py: .*{said}"):
        notebooks.solved("week04", asked)


def test_work_in_a_notebook_is_seen_and_outputs_are_not(asked: Course) -> None:
    text = notebooks.student("week04", asked, "en")
    notebook = json.loads(text)
    assert not notebooks.edited(text)
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "3"}]
    notebook["cells"][1]["execution_count"] = 1
    assert not notebooks.edited(json.dumps(notebook))
    notebook["cells"][2]["source"] = "answer = 3"
    assert notebooks.edited(json.dumps(notebook))
    assert notebooks.edited("not a notebook")


def test_a_piece_of_a_notebooks_solution_in_the_release_is_a_leak(asked: Course, tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("```python\nmine = sum(x**2 for x in range(7) if x % 2 and x != 3 or x == 6)\n```\n")
    (found,) = build.leaks(dataclasses.replace(asked, weeks=asked.weeks[:1]), [path])
    assert found.endswith("notes.md:2 holds a piece of the solution (week04/lab.py)")


def test_a_marker_left_in_a_notebook_is_a_leak(asked: Course, tmp_path: Path) -> None:
    path = tmp_path / "week04.ipynb"
    nbformat.write(notebooks.solved("week04", asked), path)
    found = list(build.leaks(dataclasses.replace(asked, weeks=asked.weeks[:1]), [path]))
    assert any("holds a solution marker" in line for line in found)
    assert any("holds a piece of the solution (week04/lab.py)" in line for line in found)


def test_keys_and_questions_fit_each_other(asked: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autograder.judge.answers.ROOT", tmp_path)
    folder = tmp_path / "solutions" / "week04"
    (folder / "answers.toml").write_text("[q1]\nnumbers = []\n[q3]\nnumbr = 3\n")
    assert sorted(build._keys(asked)) == [
        "solutions/week04/answers.toml has a key for no question [q3]",
        "solutions/week04/answers.toml: [q1] accepts an empty answer",
        "solutions/week04/answers.toml: [q3]: a key needs number, numbers, between, text or true, not numbr",
    ]
    (folder / "answers.toml").write_text("[q1]\nnumber = 42\n")
    assert list(build._keys(asked)) == []
    (folder / "answers.toml").unlink()
    assert list(build._keys(asked)) == ["solutions/week04/answers.toml has no key for [q1]"]


def test_executing_says_which_cell_failed(asked: Course, tmp_path: Path) -> None:
    notebook = notebooks.solved("week04", asked)
    notebook.cells[1].source = "1 / 0"
    with pytest.raises(notebooks.NotebookError, match="the cell that begins '1 / 0' failed: ZeroDivisionError: division by zero"):
        notebooks.execute(notebook, tmp_path)
    notebook.cells[1].source = "while True: pass"
    with pytest.raises(notebooks.NotebookError, match="a cell ran for more than 1 s"):
        notebooks.execute(notebook, tmp_path, timeout=1)
