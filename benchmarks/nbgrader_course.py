"""A real nbgrader course with a week's exercise, for grading.py to time `nbgrader autograde` on.

One notebook: the stub file's code in a solution cell, a cell that makes the check functions callable on what the
kernel holds, and a graded test cell a task. As nbgrader does it, the checks run in the kernel, beside student code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from autograder.judge.runner import CHECKS, ROOT, reference_stub
from autograder.manifest import Week

SECONDS = 600  # a cell's limit: long enough that no honest answer meets it

# Locked: nbgrader puts its own version back before it grades. The names of the checks' module stay out of the student's.
HARNESS = """
def _failures(task):
    import importlib, inspect, sys
    from pathlib import Path
    import numpy as np
    from autograder.inside.worker import Worker
    from autograder.judge.runner import Oracle, derive, reference_stub
    from autograder.judge.session import Loopback, Session
    from autograder.manifest import load

    seed, week = {seed}, load().week({week})
    worker = Worker(Path("answer.py").resolve())
    worker.module = sys.modules["__main__"]
    session, oracle = Session(Loopback(worker)), Oracle(reference_stub(week))
    failures = []
    for name in {modules}:
        for check in vars(importlib.import_module(name)).values():
            if getattr(getattr(check, "check_info", None), "task", None) == task and check.__module__ == name:
                session.reset(derive(seed, f"worker:{{check.__name__}}"))
                oracle.seed = derive(seed, check.__name__)
                rng = np.random.Generator(np.random.PCG64(oracle.seed))
                fixtures = {{"student": session, "oracle": oracle, "rng": rng}}
                try:
                    check(**{{name: fixtures[name] for name in inspect.signature(check).parameters}})
                except Exception as error:
                    failures.append(f"{{check.__name__}}: {{error}}")
    return failures
"""


def missing() -> bool:
    return importlib.util.find_spec("nbgrader") is None


@dataclass(frozen=True)
class Timed:
    """What `nbgrader autograde` used for a whole command, in seconds."""

    cpu: float
    wall: float


def write_kernel(folder: Path, python: str) -> None:
    """Make a folder for JUPYTER_PATH whose kernel runs this interpreter."""
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))


class Course:
    """The course's folder, with an assignment made by `nbgrader generate_assignment`.

    Args:
        root: an empty folder; nothing outside of it is written, the user's Jupyter folders included.
        seed: of the checks' inputs.
    """

    def __init__(self, root: Path, week: Week, seed: int) -> None:
        self.root, self.week, self.seed = root, week, seed
        write_kernel(root / "jupyter", sys.executable)
        places = {"HOME": "home", "IPYTHONDIR": "ipython", "JUPYTER_PATH": "jupyter", "JUPYTER_DATA_DIR": "data"}
        places |= {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"  # nbgrader runs alembic
        self.environment = os.environ | {name: str(root / place) for name, place in places.items()}
        self.environment |= {"PATH": path, "PYTHONPATH": str(ROOT)}
        for place in places.values():
            (root / place).mkdir(exist_ok=True)
        self._write(root / "source" / week.folder, reference_stub(week).read_text(encoding="utf-8"))
        self._nbgrader("generate_assignment")
        release = root / "release" / week.folder / f"{week.folder}.ipynb"
        self._released: dict[str, Any] = json.loads(release.read_text(encoding="utf-8"))

    def submit(self, student: str, stub: Path) -> None:
        """Hand in the released notebook with a stub file's code in its solution cell, and the helper modules beside it."""
        folder = self.root / "submitted" / student / self.week.folder
        folder.mkdir(parents=True)
        for file in stub.parent.glob("*.py"):
            if file.name != stub.name:
                (folder / file.name).write_bytes(file.read_bytes())
        cells = self._released["cells"]
        answered = [c | {"source": stub.read_text(encoding="utf-8")} if _name(c) == "answer" else c for c in cells]
        (folder / f"{self.week.folder}.ipynb").write_text(json.dumps(self._released | {"cells": answered}), encoding="utf-8")

    def autograde(self, students: int) -> Timed:
        """Grade what was submitted and is not graded yet, with one command."""
        before, began = _children(), time.perf_counter()
        self._nbgrader("autograde", students)
        return Timed(_children() - before, time.perf_counter() - began)

    def scores(self) -> dict[str, dict[str, float]]:
        """From the gradebook: each student's points by task."""
        from nbgrader.api import Gradebook

        with Gradebook(f"sqlite:///{self.root}/gradebook.db") as gradebook:
            found = gradebook.assignment_submissions(self.week.folder)
            points = {s.student.id: {g.name: g.score for n in s.notebooks for g in n.grades} for s in found}
        return {student: {t.id: row[_grade_id(t.id)] for t in self.week.tasks} for student, row in points.items()}

    def _write(self, folder: Path, answer: str) -> None:
        files = sorted((CHECKS / self.week.folder).glob("test_*.py"))
        modules = [f"autograder.checks.{self.week.folder}.{file.stem}" for file in files]
        harness = HARNESS.format(seed=self.seed, week=self.week.number, modules=modules)
        cells = [_cell("answer", answer, solution=True), _cell("harness", harness, locked=True)]
        for task in self.week.tasks:
            test = f'problems = _failures("{task.id}")\nassert not problems, problems'
            cells.append(_cell(_grade_id(task.id), test, locked=True, grade=True, points=task.points))
        folder.mkdir(parents=True)
        spec = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        notebook = {"cells": cells, "metadata": spec, "nbformat": 4, "nbformat_minor": 5}
        (folder / f"{self.week.folder}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")

    def _nbgrader(self, command: str, students: int = 0) -> None:
        """Run one of nbgrader's commands; a bar counts the students that its log says are done."""
        line = [sys.executable, "-m", "nbgrader", command, self.week.folder, f"--CourseDirectory.root={self.root}"]
        line += ["--log-level=INFO", f"--Execute.timeout={SECONDS}"]
        kept: list[str] = []
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with (
            tqdm(total=students, desc="nbgrader autograde", unit=" student", disable=not students) as bar,
            subprocess.Popen(line, cwd=self.root, env=self.environment, **streams) as process,
        ):
            assert process.stdout is not None
            for text in process.stdout:
                kept = [*kept[-20:], text.rstrip()]
                bar.update("Setting destination file permissions" in text)  # the last that it says of a student
        if process.returncode:
            raise SystemExit(f"nbgrader {command} failed:\n" + "\n".join(kept))


def _cell(name: str, source: str, **flags: Any) -> dict[str, Any]:
    metadata = {"schema_version": 3, "grade_id": name, "grade": False, "solution": False, "locked": False, "task": False} | flags
    shared = {"cell_type": "code", "metadata": {"nbgrader": metadata}, "source": source}
    return shared | {"id": name, "execution_count": None, "outputs": []}


def _grade_id(task: str) -> str:
    """A task's id as nbgrader takes it, without a dot."""
    return "task-" + task.replace(".", "-")


def _name(cell: dict[str, Any]) -> str:
    return str(cell["metadata"].get("nbgrader", {}).get("grade_id", ""))


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
