"""A week's notebook, executed once with the references: what it handed in, recorded and drew."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from autograder.judge import answers
from tests.conftest import ROOT


@dataclass(frozen=True)
class Executed:
    """What an executed notebook holds.

    Attributes:
        answers: the JSON answers, by question id.
        records: the numbers of `labs.record`, by its name.
        pictures: the alternative texts of its pictures.
        cpu_seconds: of the kernel and what it started.
    """

    path: Path
    answers: dict[str, Any]
    records: dict[str, dict[str, Any]]
    pictures: list[str]
    cpu_seconds: float


def students_copy(root: Path) -> Path:
    """Put what students have into a new or empty folder: no solutions; returns it."""
    for name in ("autograder", "course", "exercises", "notebooks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "bank", ".ipynb_checkpoints"))
    return root


def run_cells(copy: Path, *cells: str, place: Path | None = None) -> str:
    """What cells print in a student's copy, an error shown as Jupyter shows it.

    Args:
        place: where the notebook lies; by default in the copy's root.
    """
    program = "from IPython.core.interactiveshell import InteractiveShell as S\ns = S()\n"
    program += "".join(f"s.run_cell({cell!r})\n" for cell in cells)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")} | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place or copy, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@functools.cache
def executed(week: int) -> Executed:
    """Execute a week's English notebook headless, in a process of its own; it fails the test that asks if a cell fails."""
    out = Path(tempfile.mkdtemp(prefix="notebook-"))
    command = [sys.executable, ROOT / "benchmarks" / "notebooks.py", str(week), "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = out / f"week{week:02d}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    emitted = [output.data[answers.MIME] for output in outputs if answers.MIME in output.get("data", {})]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    return Executed(
        path,
        answers.read(path),
        {item["id"]: item["value"] for item in emitted if item["kind"] == "record"},
        [output.metadata.get("image/png", {}).get("alt", output.data.get("text/plain", "")) for output in pictures],
        notebook.metadata.lora_graded.cpu_seconds,
    )
