"""Every notebook runs from top to bottom with the references, earns full marks, and is the same code in both languages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autograder.authoring import notebooks
from autograder.judge import answers
from autograder.manifest import Course
from autograder.manifest import load as load_manifest
from tests.conftest import NIGHTLY, ROOT
from tests.notebooks import executed, run_cells, students_copy

FOLDERS = list(notebooks.sources())
# The first and the last, the others in make nightly: scripts/test.sh leaves their own tests out as well.
RUN = [folder for folder in FOLDERS if NIGHTLY or int(folder.removeprefix("week")) % 12 == 0]
MOST_SECONDS = 120  # of CPU, one core; about a minute where nothing runs beside it


@pytest.mark.parametrize("folder", RUN)
def test_it_runs_and_earns_full_marks(folder: str, course: Course) -> None:
    done = executed(int(folder.removeprefix("week")))
    assert done.cpu_seconds < MOST_SECONDS
    assert all(done.pictures), "a picture without an alternative text"
    week = next((week for week in course.weeks if week.folder == folder), None)
    if week is None:
        return
    assert done.pictures, "no plot"
    scores = answers.score(week, done.answers)
    assert scores and [score for score in scores if score.status != "passed"] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_both_languages_share_their_code(folder: str, course: Course) -> None:
    english, chinese = (json.loads((ROOT / path / f"{folder}.ipynb").read_text()) for path in notebooks.TARGETS.values())
    code = [[(c["id"], c["source"], c["metadata"]) for c in nb["cells"] if c["cell_type"] == "code"] for nb in (english, chinese)]
    assert code[0] and code[0] == code[1]
    assert len(english["cells"]) == len(chinese["cells"])


@pytest.mark.parametrize("folder", [week.folder for week in load_manifest().weeks if week.questions])
def test_an_untouched_notebook_has_no_answers(folder: str, course: Course) -> None:
    week = next(week for week in course.weeks if week.folder == folder)
    path = ROOT / "notebooks" / f"{folder}.ipynb"
    assert answers.read(path) == {}
    assert all(score.status == "unattempted" and not score.points for score in answers.score(week, {}))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What students have: no solutions."""
    return students_copy(tmp_path_factory.mktemp("release"))


@pytest.mark.parametrize("lang", notebooks.TARGETS)
@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "week00"])
def test_an_empty_stub_is_met_politely(folder: str, lang: notebooks.Lang, release: Path) -> None:
    """The first cell that needs the student's file names the task and the command, on one line."""
    place = release / notebooks.TARGETS[lang]
    code = list(notebooks.code((place / f"{folder}.ipynb").read_text(encoding="utf-8")))
    until = next(i for i, cell in enumerate(code) if "labs.student(" in cell)
    printed = run_cells(release, *code[: until + 1], place=place)
    said = printed.splitlines()[-1]
    task = f"{int(folder.removeprefix('week'))}."
    start = {"en": f"Not written yet in exercises/{folder}/", "zh": f"exercises/{folder}/"}[lang]
    assert said.startswith(start) and f"`autograder check {task}" in said, printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("folder", FOLDERS if NIGHTLY else FOLDERS[:1])
def test_an_untouched_notebook_runs_to_its_end(folder: str, course: Course, tmp_path: Path) -> None:
    """With the reference behind it, nobody's missing answer or prediction stops `Run all`."""
    text = (ROOT / "notebooks" / f"{folder}.ipynb").read_text(encoding="utf-8")
    path = tmp_path / "notebook.ipynb"
    path.write_text(text, encoding="utf-8")
    program = (
        "import sys, nbformat; from pathlib import Path; from autograder.authoring import notebooks; path = Path(sys.argv[1]); "
        "nb = nbformat.read(path, as_version=4); notebooks.execute(nb, Path(sys.argv[2])); nbformat.write(nb, path)"
    )
    command = [sys.executable, "-c", program, path, ROOT / "notebooks"]
    environment = os.environ | {"LAB_STUBS": "reference", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert answers.read(path) == {}
