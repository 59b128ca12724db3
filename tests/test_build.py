"""Stubs come from solutions, and `build --check` sees drift, leaks, stubs that earn points, references that do not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autograder.authoring import build
from autograder.manifest import Course, Week
from autograder.manifest import load as load_manifest
from tests.conftest import ROOT
from tests.loading import load

STUB = Path("exercises/week04/lora_linear.py")
REFERENCE = Path("solutions/week04/lora_linear.py")
CHECK = ("--check", "--week", "4")  # files of all weeks, references of one: `make lint` runs them all


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
    result = run(copy, *CHECK)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nothing to do" in run(copy).stdout


def test_drift_is_found_and_mended(copy: Path) -> None:
    source = (copy / REFERENCE).read_text()
    (copy / REFERENCE).write_text(source.replace("Week 4: a LoRA layer", "Week 4: one LoRA layer"))
    (copy / "syllabus.md").write_text("old")
    (copy / "course/readings.md").write_text("old")
    lecture = copy / "course/week04/lecture.md"
    lecture.write_text(lecture.read_text(encoding="utf-8") + "\nMore.\n", encoding="utf-8")
    result = run(copy, *CHECK)
    assert result.returncode == 1
    assert "course/readings.md is not what its source makes" in result.stdout
    assert "course/week04/lecture.zh.md was translated from another text of lecture.md" in result.stdout
    assert f"{STUB} is not what its source makes" in result.stdout
    assert "syllabus.md is not what its source makes" in result.stdout
    assert f"wrote {STUB}" in run(copy).stdout
    run(copy, "--translated", "course/week04")
    assert run(copy, *CHECK).returncode == 0


def test_a_stub_that_somebody_edited_is_not_overwritten(copy: Path) -> None:
    work = (copy / STUB).read_text().replace("super().__init__()", "super().__init__()\n        self.mine = 1")
    (copy / STUB).write_text(work)
    result = run(copy)
    assert result.returncode == 2
    assert f"{STUB} was edited: it is not overwritten" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert (copy / STUB).read_text() == work
    assert run(copy, *CHECK).returncode == 1


def test_leaks_are_found_whatever_their_names(copy: Path) -> None:
    (copy / "course" / "labs" / "copied.py").write_text(
        "def f(layer, inp):\n    out = layer.base(inp)\n"
        "    return out + F.linear(layer.scaling * F.linear(layer.dropout(inp), layer.lora_A), layer.lora_B)\n"
    )
    (copy / "course" / "notes.md").write_text(
        "Text\n\n```python\nm.base.weight.data += m.scaling * (m.lora_B.data @ m.lora_A.data)\n```\n"
    )
    (copy / "exercises" / "week04" / "extra.py").write_text("### BEGIN SOLUTION 4.1\n")
    out = run(copy, *CHECK).stdout
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
    result = run(copy, *CHECK)
    assert result.returncode == 1
    assert "solutions/week04/lora_linear.py: task 4.1 scores 83%, not 100% (start: " in result.stdout
    assert "exercises/week04/lora_linear.py: task 4.2 scores 100%, not 0%" in result.stdout


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a week with a lecture in two languages, in a repository of its own."""
    folder = tmp_path / "course" / "week04"
    folder.mkdir(parents=True)
    (folder / "lecture.md").write_text("# Week 4\n\nText.\n", encoding="utf-8")
    (folder / "lecture.zh.md").write_text("# 第 4 周\n\n正文。\n", encoding="utf-8")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    return folder


def stale() -> list[str]:
    return [line.split(":")[0] for line in build._translations()]


def test_a_stale_translation_is_found_and_recorded_anew(pages: Path) -> None:
    page, source = pages / "lecture.zh.md", pages / "lecture.md"
    assert stale() == ["course/week04/lecture.zh.md does not record which text it translates of lecture.md"]
    for path in (page, source, pages, pages.parent):
        source.write_text(source.read_text(encoding="utf-8") + "More.\n", encoding="utf-8")
        assert len(build.translated([path])) == 1 and not stale()
        assert build.translated([path, page]) == []
    lines = page.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"<!-- source: [0-9a-f]{16} -->", lines[0]) and lines[1:] == ["# 第 4 周", "", "正文。"]
    source.write_text("# Week 4\n\nOther text.\n", encoding="utf-8")
    assert stale() == ["course/week04/lecture.zh.md was translated from another text of lecture.md"]
    assert "`autograder build --translated course/week04/lecture.zh.md`" in next(build._translations())


def test_line_ends_make_no_translation_stale(pages: Path) -> None:
    build.translated([pages])
    for name in ("lecture.md", "lecture.zh.md"):
        text = (pages / name).read_text(encoding="utf-8")
        (pages / name).write_text(text, encoding="utf-8", newline="\r\n")
    assert not stale()


def test_a_page_without_its_counterpart_is_found(pages: Path) -> None:
    build.translated([pages])
    (pages / "reading.md").write_text("# Reading\n", encoding="utf-8")
    (pages / "notes.zh.md").write_text("# 笔记\n", encoding="utf-8")
    assert stale() == [
        "course/week04/reading.md has no translation",
        "course/week04/notes.zh.md has no source notes.md",
    ]
    before = (pages / "lecture.zh.md").read_text(encoding="utf-8")
    (pages / "lecture.md").write_text("# New\n", encoding="utf-8")
    with pytest.raises(build.BuildError, match=r"notes\.zh\.md has no source"):
        build.translated([pages])
    assert (pages / "lecture.zh.md").read_text(encoding="utf-8") == before


def test_pages_outside_the_weeks_are_recorded_where_they_are_translated(pages: Path) -> None:
    root = pages.parents[1]
    build.translated([pages])
    (root / "docs" / "release").mkdir(parents=True)
    for folder in (root, root / "docs", root / "docs" / "release"):
        (folder / "README.md").write_text("# Read\n", encoding="utf-8")  # no translation is asked for
    (root / "syllabus.zh.md").write_text("# 教学大纲\n", encoding="utf-8")  # generated
    assert not stale()
    for folder in ("", "docs/", "docs/release/"):
        (root / f"{folder}README.zh.md").write_text("# 请读\n", encoding="utf-8")
    names = ["README.zh.md", "docs/README.zh.md", "docs/release/README.zh.md"]
    assert stale() == [f"{name} does not record which text it translates of README.md" for name in names]
    assert len(build.translated([root / name for name in names])) == 3 and not stale()


@pytest.mark.parametrize("name", ["none.md", "lecture.txt", "../week05", "../../syllabus.md", "第四周"])
def test_what_is_no_translated_page_is_refused_in_one_line(pages: Path, name: str) -> None:
    with pytest.raises(build.BuildError, match="names no translated page") as caught:
        build.translated([pages / "lecture.md", pages / name])
    assert "\n" not in str(caught.value) and not (pages / "lecture.zh.md").read_text(encoding="utf-8").startswith("<!--")


def test_the_command_records_a_translation(copy: Path) -> None:
    lecture = copy / "course/week04/lecture.md"
    lecture.write_text(lecture.read_text(encoding="utf-8") + "\nMore.\n", encoding="utf-8")
    assert run(copy, "--translated", "course/week04").stdout.startswith("course/week04/lecture.zh.md is recorded")
    assert run(copy, "--translated", "course/week04/lecture.md").stdout == "nothing to do: that is recorded already\n"
    wrong = run(copy, "--translated", "course/week99")
    assert wrong.returncode == 2 and len(wrong.stderr.strip().splitlines()) == 1


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
