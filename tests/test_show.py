"""What a student sees of a failing check: on a terminal, in a pipe, in a notebook, in both languages."""

from __future__ import annotations

import io
import re
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from rich.console import Console

import autograder
from autograder import bank, show
from autograder.judge.check import close
from autograder.judge.evidence import place, relation
from autograder.judge.runner import Runner, TaskRun, loopback, reference_stub
from autograder.judge.session import CheckFailed, at
from autograder.manifest import Week, load

WRONG = "scaled_by_alpha"


@pytest.fixture(scope="module")
def wrong(week: Week, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission of week 4 that scales by alpha."""
    stub = tmp_path_factory.mktemp("wrong") / week.stub
    found = {m.name: m for m in bank.mutants(week, reference_stub(week).read_text(encoding="utf-8"))}
    stub.write_text(found[WRONG].source, encoding="utf-8")
    return stub


@pytest.fixture(scope="module")
def runs(week: Week, wrong: Path) -> list[TaskRun]:
    runner, found = Runner(week, 0, ["4.1"]), []
    runner.run_in_pytest(lambda: found.extend(runner.run(loopback(wrong))))
    return found


def shown(runs: list[TaskRun], lang: str, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(show.page(load().week(4), runs, Path("exercises/week04/lora_linear.py"), lang))  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_failure_says_all_that_helps(runs: list[TaskRun]) -> None:
    said = shown(runs, "en", 200)
    assert "FAIL The output is W0 x + b + (alpha / rank) B A x" in said
    assert "decides all 25 points of the task" in said and "2.8 points hang on it" in said
    assert "With in_features=3, out_features=5, rank=2, alpha=3.0, x of shape (4, 3):" in said
    assert re.search(r"expected: \[\[.*\n.*\n.*\n.*\n +got: +\[\[", said)
    assert "20 of 20 values differ, most at [" in said
    assert "what your code adds is 2 times what is expected, and 2 is rank" in said
    assert said.count("likely misunderstanding: The update is scaled by alpha instead of alpha / rank") == 1
    assert "the same misunderstanding" in said
    assert "read course/week04/lecture.md#forward; a hint: autograder hint 4.1" in said


def test_in_chinese_nothing_of_ours_is_english(runs: list[TaskRun]) -> None:
    said = shown(runs, "zh", 200)
    assert "决定本任务的全部 25 分" in said and "可能的误解：" in said and "course/week04/lecture.zh.md#forward" in said
    assert "你的代码所加的部分是期望值的 2 倍，而 2 正是 rank" in said
    prose = re.findall(r"[a-z]{3,} [a-z]{3,} [a-z]{3,}", said)
    assert prose == []


def test_80_columns_hold_it(runs: list[TaskRun]) -> None:
    from rich.cells import cell_len

    for lang in ("en", "zh"):
        assert max(map(cell_len, shown(runs, lang).splitlines())) <= 80


def test_a_pipe_gets_plain_lines(runs: list[TaskRun], capsys: pytest.CaptureFixture[str]) -> None:
    show.say(show.page(load().week(4), runs, Path("x.py")))
    said = capsys.readouterr().out
    assert "\x1b" not in said and all(line == line.rstrip() for line in said.splitlines())
    assert "A new layer computes exactly what its base does: B is zero, while A is random with independent rows.\n" in said


def test_a_student_cannot_write_to_the_terminal(runs: list[TaskRun]) -> None:
    from dataclasses import replace

    evil = replace(runs[0].outcomes[0], message="[red]x[/red]\x1b]0;title\x07 " + "\u202e" + "a" * 400)
    said = shown([TaskRun(runs[0].task, [evil])], "en", 300)
    assert "[red]x[/red]?]0;title?" in said and "\x1b" not in said and "\u202e" not in said and said.count("a" * 100)


def test_in_a_notebook(wrong: Path) -> None:
    cells = [f"from autograder import check\ncheck('4.1', file={str(wrong)!r})", "check('4.99'); check('4.1', lang='fr')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    [page] = [o.data["text/html"] for o in notebook.cells[0].outputs if o.output_type == "display_data"]
    assert "what your code adds is 2 times what is expected, and 2 is rank" in page and "color" in page
    said = "".join(o.text for o in notebook.cells[1].outputs)
    assert "there is no task 4.99" in said and "invalid choice: 'fr'" in said


def test_a_graded_notebook_is_not_checked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOGRADER_GRADING", "1")
    autograder.check("4.1")
    assert capsys.readouterr().out == "graded separately\n"


# --- evidence ---

RNG = np.random.Generator(np.random.PCG64(8))
WANT = RNG.standard_normal((3, 4))
SQUARE = RNG.standard_normal((3, 3))


@pytest.mark.parametrize(
    ("got", "want", "known", "said"),
    [
        (0 * WANT, WANT, None, "yours is 0 everywhere"),
        (-WANT, WANT, None, "yours has the opposite sign everywhere"),
        (4 * WANT, WANT, None, "yours is 4 times what is expected, and 4 is rank"),
        (WANT / 4, WANT, None, "yours is 0.25 times what is expected, which is 1 / 4, and 4 is rank"),
        (WANT / 7, WANT, None, "yours is 0.142857 times what is expected"),
        (WANT + 2, WANT, None, "yours minus what is expected is 2 everywhere"),
        (SQUARE.T, SQUARE, None, "yours is the transpose of what is expected"),
        (WANT[::-1], WANT, None, "yours has the expected numbers in another order"),
        (WANT.astype(np.float32), WANT, None, "yours agrees with it to six digits, and the check asks for more"),
        (np.ones((3, 4)), WANT + 1, np.ones((3, 4)), "your code adds nothing"),
        (1 + 16 * WANT, WANT + 1, np.ones((3, 4)), "what your code adds is 16 times what is expected, and 16.0 is alpha"),
    ],
)
def test_relations(got: np.ndarray, want: np.ndarray, known: np.ndarray | None, said: str) -> None:
    with pytest.raises(CheckFailed) as caught, at("rank=4, alpha=16.0, batch=1"):
        close(got, want, "layer(x)", known=known)
    assert str(caught.value).splitlines()[-1].strip() == said


@pytest.mark.parametrize("got", [RNG.standard_normal((3, 4)), WANT + RNG.standard_normal((3, 4)), np.full((3, 4), 1e308)])
def test_no_relation_is_made_up(got: np.ndarray) -> None:
    assert relation(got, WANT) is None


def test_a_relation_of_nothing_is_none() -> None:
    assert relation(WANT, 0 * WANT) is None
    assert relation(np.array([1.0]), np.array([2.0])) is None
    assert relation(np.full((3, 4), np.nan), WANT) is None


def test_the_place_of_what_is_wrong() -> None:
    wrong = np.zeros((4, 5), bool)
    wrong[:, 2] = True
    assert place(wrong) == ", all in [:, 2]"
    wrong[1, 1] = True
    assert place(wrong) == ""
