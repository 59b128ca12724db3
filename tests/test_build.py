"""Stubs come from solutions, and `build --check` sees drift, leaks, stubs that earn points, references that do not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autograder import build
from autograder.manifest import Course, Week
from autograder.manifest import load as load_manifest
from tests.conftest import ROOT
from tests.loading import load

STUB = Path("exercises/week04/lora_linear.py")
REFERENCE = Path("solutions/week04/lora_linear.py")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what `build` reads and writes."""
    for name in ("autograder", "course", "docs", "exercises", "notebooks", "solutions"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("syllabus.md", "syllabus.zh.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "autograder", "build", *arguments]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


def test_the_repository_is_in_order(copy: Path) -> None:
    result = run(copy, "--check")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing to do" in run(copy).stdout


def test_drift_is_found_and_mended(copy: Path) -> None:
    source = (copy / REFERENCE).read_text()
    (copy / REFERENCE).write_text(source.replace("Week 4: a LoRA layer", "Week 4: one LoRA layer"))
    (copy / "syllabus.md").write_text("old")
    result = run(copy, "--check")
    assert result.returncode == 1
    assert f"{STUB} is not what its source makes" in result.stdout
    assert "syllabus.md is not what its source makes" in result.stdout
    assert f"wrote {STUB}" in run(copy).stdout
    assert run(copy, "--check").returncode == 0


def test_a_stub_that_somebody_edited_is_not_overwritten(copy: Path) -> None:
    work = (copy / STUB).read_text().replace("super().__init__()", "super().__init__()\n        self.mine = 1")
    (copy / STUB).write_text(work)
    result = run(copy)
    assert result.returncode == 2
    assert f"{STUB} was edited: it is not overwritten" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert (copy / STUB).read_text() == work
    assert run(copy, "--check").returncode == 1


def test_leaks_are_found_whatever_their_names(copy: Path) -> None:
    (copy / "course" / "labs" / "copied.py").write_text(
        "def f(layer, inp):\n    out = layer.base(inp)\n"
        "    return out + F.linear(layer.scaling * F.linear(layer.dropout(inp), layer.lora_A), layer.lora_B)\n"
    )
    (copy / "course" / "notes.md").write_text(
        "Text\n\n```python\nm.base.weight.data += m.scaling * (m.lora_B.data @ m.lora_A.data)\n```\n"
    )
    (copy / "exercises" / "week04" / "extra.py").write_text("### BEGIN SOLUTION 4.1\n")
    out = run(copy, "--check").stdout
    assert "course/labs/copied.py:3 holds a piece of the solution (week04/lora_linear.py:" in out
    assert "course/notes.md:" in out
    assert "extra.py holds a solution marker" in out
    assert "extra.py comes from no solution" in out


def test_a_stub_that_earns_points_and_a_reference_that_does_not_are_found(copy: Path) -> None:
    source = (copy / REFERENCE).read_text()
    lines = source.splitlines()
    # Task 4.2 keeps one region, in a branch that never runs, so the stub holds its answers.
    first = next(i for i, line in enumerate(lines) if line.strip() == "### BEGIN SOLUTION 4.2")
    task = 0
    for i, line in enumerate(lines):
        if line.strip() == "### BEGIN SOLUTION 4.2":
            task, lines[i] = 1, ""
        elif task and line.strip() == "### END SOLUTION":
            task, lines[i] = 0, ""
    indent = " " * 8
    lines[first] = (
        f"{indent}if self.rank < 0:\n{indent}    ### BEGIN SOLUTION 4.2\n{indent}    return\n{indent}    ### END SOLUTION"
    )
    # The reference's last region makes A zero.
    last = max(i for i, line in enumerate(lines) if line.strip() == "### END SOLUTION")
    lines.insert(last, "_random_rows = lambda rows, base: base.weight.new_zeros(rows, base.in_features)")
    source = "\n".join(lines)
    (copy / REFERENCE).write_text(source)
    run(copy)
    result = run(copy, "--check")
    assert result.returncode == 1
    assert "solutions/week04/lora_linear.py: task 4.1 scores 87%, not 100% (start: " in result.stdout
    assert "exercises/week04/lora_linear.py: task 4.2 scores 100%, not 0%" in result.stdout


@pytest.mark.parametrize("week", [w for w in load_manifest().weeks if w.tasks], ids=lambda w: w.folder)
def test_every_stub_loads(week: Week) -> None:
    """A whole method or helper of the reference is left out: a raise in its place would keep the file from being imported."""
    load(ROOT / "exercises" / week.folder / week.stub)


def test_the_stub_says_what_is_missing(course: Course, week: Week) -> None:
    text = build.generated(course)[ROOT / STUB]
    assert 'raise NotImplementedError("Week 4, task 1: LoRALinear.__init__")' in text
    assert 'raise NotImplementedError("Week 4, task 3: LoRALinear.set_rank")' in text
    assert re.search(r"^4\.3 +15 +40 +4 +3$", text, re.MULTILINE)  # points, minutes, difficulty, importance of the manifest
    assert re.search(r"^4\.5 +stretch +30 +3 +3$", text, re.MULTILINE)
    assert "SOLUTION" not in text and "_random_rows" not in text
    assert not build.edited(text)
    assert build.edited(text.replace("alpha", "beta", 1))
    assert build.edited(text + "x = 1\n")
    assert build.edited("")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def f():\n    ### BEGIN SOLUTION 4.1\n    pass\n", "x.py:2: this region has no end"),
        ("def f():\n    ### END SOLUTION\n", "x.py:2: the end of a region that has no beginning"),
        ("def f():\n    ### BEGIN SOLUTION\n    ### END SOLUTION\n", "x.py:2: a task's number is missing"),
        ("### BEGIN SOLUTION 4.1\n### BEGIN SOLUTION 4.1\n", "x.py:2: the region before it has no end"),
    ],
)
def test_bad_markers_are_named(text: str, problem: str) -> None:
    with pytest.raises(build.BuildError) as caught:
        build.regions(text, "x.py")
    assert str(caught.value) == problem


def test_unknown_and_missing_tasks_are_named(week: Week) -> None:
    with pytest.raises(build.BuildError, match=r"the manifest has no task 9\.9"):
        build.stub_source("def f():\n    ### BEGIN SOLUTION 9.9\n    pass\n    ### END SOLUTION\n", week)
    with pytest.raises(build.BuildError, match=r"task 4\.1 has no solution region"):
        build.stub_source("x = 1\n", week)
