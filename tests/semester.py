"""A small class that two weeks of the course are run for, with the commands that an instructor types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from autograder.authoring import notebooks
from autograder.judge import answers
from autograder.manifest import Course, Week
from autograder.marking import nbcourse
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
WEEKS = (2, 4)
ATTACKER = "mallory"
HONEST = ("ada", "王小明", "=cmd, Jr.")


def run(root: Path, *command: str, ok: bool = True) -> str:
    """What a command of this environment prints, run in the course folder."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert (done.returncode == 0) == ok, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr


def notebook(week: Week, answers: dict[str, Any], *extra: Any, written: str = "Because.") -> str:
    """A short lab notebook: the graded cells alone, and what else a student put there."""
    cells = [new_code_cell("from course import labs")]
    for question in week.questions:
        meta = {"nbgrader": {"grade": True, "solution": True, "grade_id": question.grade_id, "points": 99, "locked": False}}
        if question.written:
            cells.append(new_markdown_cell(written, metadata=meta))
        else:
            cells.append(new_code_cell(f"labs.answer({question.id!r}, {answers.get(question.grade_id, ...)!r})", metadata=meta))
    made = new_notebook(cells=[*extra, *cells], metadata={"kernelspec": notebooks.KERNEL, "language_info": {"name": "python"}})
    return str(nbformat.writes(made))


def right_answers(week: Week) -> dict[str, Any]:
    return answers.right(answers.key(week))


def hand_in(root: Path, week: Week, student: str, **files: str) -> None:
    """Put an archive where zip_collect looks for it, as a learning platform gives it out."""
    place = root / "downloaded" / week.folder / "archive"
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place / f"{student}.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


HOOK = "window.pwned=1;document.title='pwned'"
EVIL = f'<script>{HOOK}</script><img src=x onerror="{HOOK}">'


def evil_notebook(week: Week) -> str:
    """Outputs and Markdown that would run in a TA's browser, and code that looks for what is not its own."""
    outputs = [
        new_output("display_data", data={"text/html": EVIL, "text/plain": EVIL}),
        new_output("display_data", data={"application/javascript": HOOK, "image/svg+xml": f"<svg onload='{HOOK}'/>"}),
        new_output("stream", name="stdout", text=EVIL),
    ]
    hunt = (
        "import os, IPython.display as d\n"
        f"d.display(d.HTML({EVIL!r})); d.display(d.Javascript({HOOK!r})); print({EVIL!r})\n"
        "found = []\n"
        "for top, folders, files in os.walk('/'):\n"
        "    folders[:] = [] if top.startswith(('/proc', '/sys', '/usr')) else folders\n"
        "    found += [os.path.join(top, f) for f in files if f in ('answers.toml', 'gradebook.db', 'results.jsonl')]\n"
        "print('FOUND', found, [k for k in os.environ if 'SECRET' in k])\n"
    )
    return notebook(
        week, {}, new_markdown_cell(EVIL + f" [x](javascript:{HOOK}) $\\href{{javascript:{HOOK}}}{{x}}$"),
        new_code_cell("1", outputs=outputs), new_code_cell(hunt), written=EVIL,
    )  # fmt: skip


EVIL_STUB = '''\
"""</pre><script>window.pwned=1</script> ``` <img src=x onerror="window.pwned=1">"""
import json, os, pathlib
for folder in ("/", os.getcwd(), "..", "../..", os.path.expanduser("~")):
    for name in ("gradebook.db", "results.jsonl", "grades.csv"):
        try:
            pathlib.Path(folder, name).write_text("forged")
        except OSError:
            pass
print(json.dumps({"student": "mallory", "score": 70, "status": "graded"}))
'''


def prepare(root: Path, course: Course, **settings: Any) -> Path:
    """The folder of the semester with everything handed in and collected, nothing graded yet."""
    weeks = [course.week(number) for number in WEEKS]
    nbcourse.write(root, course, weeks, **settings)
    (root / "nbgrader_local.py").write_text(f"c.Exchange.root = {str(root / 'exchange')!r}\n", encoding="utf-8")
    (root / "exchange").mkdir()
    (root / "exchange").chmod(0o777)
    for week in weeks:
        reference = (ROOT / "solutions" / week.folder / week.stub).read_text(encoding="utf-8")
        stub = (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")
        lab = f"{week.folder}.ipynb"
        run(root, "nbgrader", "generate_assignment", week.folder)
        right = right_answers(week)
        hand_in(root, week, "ada", **{week.stub: reference, lab: notebook(week, right)})
        if week.number == 2:
            wrong = {name: -1.5 for name in right}
            hand_in(root, week, "王小明", **{f"{week.folder}/{week.stub}": stub, f"{week.folder}/{lab}": notebook(week, wrong)})
        hand_in(root, week, "=cmd, Jr.", **{week.stub: reference})  # no notebook
        hand_in(root, week, ATTACKER, **{week.stub: EVIL_STUB, lab: evil_notebook(week), "../ada/x.py": "evil"})
        run(root, "nbgrader", "zip_collect", week.folder)
    return root


def rows(root: Path, name: str = "grades.csv") -> list[dict[str, str]]:
    import csv

    run(root, "nbgrader", "export", "--to", name)
    with open(root / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> dict[str, dict[str, Any]]:
    return {line["student"]: line for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
