"""The student's file in a notebook: what is missing, what cannot be loaded; answers, records, sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

from autograder.judge import answers
from course import labs
from course.labs import core, plots
from tests.conftest import ROOT
from tests.notebooks import run_cells, students_copy

matplotlib.use("agg")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return students_copy(tmp_path)


USE = "from course import labs\nlora = labs.student(4, '4.1', '4.2')\nprint(lora.__file__)"


def test_an_unfinished_stub_without_a_reference_stops_with_one_line(copy: Path) -> None:
    out = run_cells(copy, USE)
    assert out.splitlines() == [
        "Not written yet in exercises/week04/lora_linear.py: 4.1 (LoRALinear: construction and forward), 4.2 "
        f"({title('4.2')}). Write it (`autograder check 4.1`), then run this cell again."
    ]


def title(task: str) -> str:
    from autograder.manifest import load

    return load().task(task).title.en


def test_it_says_so_in_chinese(copy: Path) -> None:
    out = run_cells(copy, "import os; os.chdir('notebooks/zh')\n" + USE)
    assert "尚未完成：4.1（" in out and "autograder check 4.1" in out


def test_an_unfinished_stub_goes_on_with_the_reference_where_there_is_one(copy: Path) -> None:
    shutil.copytree(ROOT / "solutions", copy / "solutions")
    said, where = run_cells(copy, USE).splitlines()
    assert said.startswith("Not written yet in exercises/week04/lora_linear.py: 4.1 (") and said.endswith("the reference.")
    assert where == str(copy / "solutions/week04/lora_linear.py")


def test_the_students_own_file_is_used_as_soon_as_its_tasks_are_written(copy: Path) -> None:
    stub = copy / "exercises" / "week04" / "lora_linear.py"
    # Tasks 4.3 to 4.7 are still missing: this notebook does not need them.
    text = stub.read_text()
    for task in ("1", "2"):
        text = "".join("        pass\n" if f'"Week 4, task {task}:' in line else line for line in text.splitlines(keepends=True))
    stub.write_text(text)
    assert run_cells(copy, USE) == str(stub)


def test_a_changed_file_and_its_helper_are_loaded_again(copy: Path) -> None:
    folder = copy / "exercises" / "week04"
    (folder / "helper.py").write_text("value = 1\n")
    (folder / "lora_linear.py").write_text("from helper import value\n")
    again = "import pathlib\npathlib.Path('exercises/week04/helper.py').write_text('value = 22\\n')\n"
    code = f"{USE}\nprint(lora.value)\n{again}print(labs.student(4).value)"
    assert run_cells(copy, code).split()[1:] == ["1", "22"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "def f(:\n",
            "exercises/week04/lora_linear.py cannot be loaded: invalid syntax (line 1). Mend it, then run this cell again.",
        ),
        (
            "import nowhere\n",
            "cannot be loaded: ModuleNotFoundError: No module named 'nowhere'. Mend it, then run this cell again.",
        ),
        (None, "Not written yet in exercises/week04/lora_linear.py: 4.1 ("),
    ],
)
def test_a_file_that_does_not_load_is_one_line(copy: Path, text: str | None, said: str) -> None:
    stub = copy / "exercises" / "week04" / "lora_linear.py"
    if text is None:
        stub.unlink()
    else:
        stub.write_text(text)
    out = run_cells(copy, USE).splitlines()
    assert len(out) == 1 and said in out[0]


def test_stubs_reference_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_STUBS", "reference")
    assert Path(labs.student(4).__file__) == ROOT / "solutions/week04/lora_linear.py"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (3, 3),
        (np.float32(0.5), 0.5),
        (torch.tensor([1, 2]), [1, 2]),
        ({1: np.array([True])}, {"1": [True]}),
        (("a", None), ["a", None]),
    ],
)
def test_an_answer_is_json_that_the_judge_reads(emitted: list[Any], tmp_path: Path, value: Any, plain: Any) -> None:
    labs.answer("4.q1", value)
    cell = {"cell_type": "code", "outputs": [{"output_type": "display_data", "data": json.loads(json.dumps(emitted[0]))}]}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell]}))
    assert answers.read(path) == {"4.q1": plain}
    assert core.MIME == answers.MIME


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    import IPython.display

    found: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: found.append(data))
    return found


def test_no_answer_yet_and_no_prediction_yet_are_polite(emitted: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    labs.answer("4.q1", ...)
    assert labs.predict("4.p1", ...) is None
    assert emitted == [] and capsys.readouterr().out.splitlines() == [
        "4.q1: no answer yet",
        "4.p1: write your prediction before you run on",
    ]


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "nan is not a finite number"), ({1, 2}, "not set"), ([object()], "not object")]
)
def test_what_is_no_answer_is_refused(emitted: list[Any], value: object, said: str) -> None:
    with pytest.raises(labs.LabStop, match=said):
        labs.answer("4.q1", value)
    assert emitted == []


def test_a_profile_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert labs.pick(tiny=1, full=2) == 1
    monkeypatch.setenv("LAB_PROFILE", "full")
    assert labs.pick(tiny=1, full=2) == 2
    monkeypatch.setenv("LAB_PROFILE", "big")
    with pytest.raises(labs.LabStop, match="must be tiny or full, not 'big'"):
        labs.profile()


def test_progress_passes_the_items_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(labs.progress([1, 2], "counting")) == [1, 2]


def test_a_plot_without_a_label_or_an_alternative_text_is_refused() -> None:
    fig = plots.lines([1, 2], {"a": [1, 2]}, xlabel="rank", ylabel="")
    with pytest.raises(ValueError, match="has a label"):
        plots.show(fig, "a line")
    with pytest.raises(ValueError, match="alternative text"):
        plots.show(plots.lines([1, 2], {"a": [1, 2]}, xlabel="rank", ylabel="share"), " ")


def test_every_kind_of_plot_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    shown: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    some = np.linspace(0, 1, 12)
    for fig in (
        plots.lines(some[1:], {"a": some[1:], "b": some[1:]}, xlabel="x", ylabel="y", xscale="log", predicted=(0.5, 0.2)),
        plots.lines({"a": some}, {"a": some}, xlabel="x", ylabel="y", spread={"a": (some - 1, some + 1)}),
        plots.bars(["p", "q"], {"a": [1, 2], "b": [2, 1]}, xlabel="x", ylabel="y", errors={"a": [0.1, 0.1]}),
        plots.histograms({"a": some, "b": some}, xlabel="x"),
        plots.heatmap(some.reshape(3, 4), xlabel="x", ylabel="y", label="value", numbers=True),
        plots.pictures({"a": some.reshape(3, 4), "b": some.reshape(3, 4)}),
    ):
        plots.show(fig, "what one sees")
    assert len(shown) == 6 and all(image.data.startswith(b"\x89PNG") for image in shown)


def test_spread_is_the_mean_and_the_range() -> None:
    mean, (low, high) = plots.spread([[1, 2], [3, 6]])
    assert (mean.tolist(), low.tolist(), high.tolist()) == ([2, 4], [1, 2], [3, 6])
