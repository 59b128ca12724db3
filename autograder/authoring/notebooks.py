"""Makes the students' notebooks from Jupytext percent scripts, through nbgrader's own preprocessors.

The source, `solutions/weekNN/lab.py`, has Markdown cells in pairs, `lang="en"` then `lang="zh"`, and code cells that both
languages share. A cell with nbgrader metadata is graded; it names its question (`grade_id`) and the manifest has the points.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder import UserError
from autograder.judge.runner import ROOT
from autograder.manifest import Course, Lang

if TYPE_CHECKING:
    from nbformat import NotebookNode

TARGETS: dict[Lang, str] = {"en": "notebooks", "zh": "notebooks/zh"}
# What stands where a student writes.
CODE_STUB = "# YOUR CODE HERE"
TEXT_STUB: dict[Lang, str] = {"en": "*Write your answer here.*", "zh": "*请在此作答。*"}

_SOURCE = "lab.py"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_KEY = "lora_graded"


class NotebookError(UserError):
    """Something to mend in a notebook's source; the text names the file."""


def sources() -> dict[str, Path]:
    """The notebooks' sources by their folder's name, such as "week04"; week00 is the ungraded self-check."""
    return {path.parent.name: path for path in sorted((ROOT / "solutions").glob(f"week[0-9][0-9]/{_SOURCE}"))}


def solved(folder: str, course: Course, lang: Lang = "en") -> NotebookNode:
    """A week's notebook in one language with its solutions, not executed.

    Raises:
        NotebookError: if the source's cells do not fit each other or the manifest.
    """
    import jupytext

    path = sources()[folder]
    name = f"solutions/{folder}/{_SOURCE}"
    notebook: NotebookNode = jupytext.read(path, fmt="py:percent")
    week = next((week for week in course.weeks if week.folder == folder), None)
    _check_pairs(notebook.cells, name)
    points = {question.grade_id: question.points for question in week.questions} if week else {}
    written = {question.grade_id for question in week.questions if question.written} if week else set()
    seen = []
    cells = []
    for place, cell in enumerate(notebook.cells):
        cell_lang = cell.metadata.pop("lang", None)
        if cell_lang not in (None, lang):
            continue
        own = cell.metadata.get("nbgrader")
        metadata: dict[str, Any] = {}
        if own is not None:
            question = own.get("grade_id")
            if question not in points or (cell.cell_type == "markdown") != (question in written):
                raise NotebookError(f"{name}: no [[week.question]] fits the {cell.cell_type} cell {question!r}")
            seen.append(question)
            metadata["nbgrader"] = graded(question, cell.cell_type, points[question])
        cell.metadata = type(notebook.metadata)(metadata)
        cell.id = f"{folder}-{place:02d}"  # shared by both languages where it is code
        cells.append(cell)
    if sorted(seen) != sorted(points):
        raise NotebookError(f"{name}: its graded cells are {seen}, the manifest's questions {sorted(points)}")
    notebook.cells = cells
    notebook.metadata = type(notebook.metadata)({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def graded(name: str, cell_type: str, points: int, solution: bool = True) -> dict[str, Any]:
    """nbgrader's metadata of a graded cell: one that a student fills in, or a locked one that shows a score."""
    return {
        "cell_type": cell_type, "grade": True, "grade_id": name, "locked": not solution, "points": points,
        "schema_version": 3, "solution": solution, "task": False,
    }  # fmt: skip


def _check_pairs(cells: list[NotebookNode], name: str) -> None:
    """Every English Markdown cell is followed by its Chinese one, and code has no language."""
    langs = [(cell.metadata.get("lang"), cell.cell_type, cell.source.lstrip()[:40]) for cell in cells]
    for place, (lang, kind, text) in enumerate(langs):
        before = langs[place - 1][0] if place else None
        after = langs[place + 1][0] if place + 1 < len(langs) else None
        good = lang is None if kind == "code" else (lang == "en" and after == "zh") or (lang == "zh" and before == "en")
        if not good:
            rule = 'a Markdown cell lang="en" is followed by its lang="zh", and code has no lang'
            raise NotebookError(f"{name}: {rule}; see the cell that begins {text!r}")


def student(folder: str, course: Course, lang: Lang) -> str:
    """The text of a week's notebook as students get it: solutions cleared, graded cells kept from deletion."""
    import nbformat
    from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ClearSolutions, LockCells

    notebook = solved(folder, course, lang)
    clear = ClearSolutions(code_stub={"python": CODE_STUB}, text_stub=TEXT_STUB[lang], enforce_metadata=False)
    for preprocessor in (clear, ClearOutput(), LockCells(), CheckCellMetadata()):
        notebook, _ = preprocessor.preprocess(notebook, {})
    notebook.metadata[_KEY] = {"digest": _digest(notebook)}
    nbformat.validate(notebook)
    text: str = nbformat.writes(notebook)
    return text.rstrip("\n") + "\n"


def generated(course: Course) -> dict[Path, str]:
    """Every student notebook's text, by path."""
    return {
        ROOT / target / f"{folder}.ipynb": student(folder, course, lang)
        for folder in sources()
        for lang, target in TARGETS.items()
    }  # fmt: skip


def edited(text: str) -> bool:
    """Whether somebody has worked in a notebook: its cells are no longer those that were generated (outputs do not count)."""
    import nbformat

    try:
        notebook = nbformat.reads(text, as_version=4)
    except (ValueError, nbformat.ValidationError):
        return True
    return bool(notebook.metadata.get(_KEY, {}).get("digest") != _digest(notebook))


def code(text: str) -> Iterator[str]:
    """The source of each code cell of a notebook file; of a file that is no notebook, nothing."""
    import nbformat

    try:
        cells = nbformat.reads(text, as_version=4).cells
    except (ValueError, nbformat.ValidationError):
        return
    for cell in cells:
        if cell.cell_type == "code":
            yield re.sub(r"^([ \t]*)[%!].*", r"\1pass", cell.source, flags=re.MULTILINE)


def execute(notebook: NotebookNode, folder: Path, timeout: int = 600) -> None:
    """Run a notebook from top to bottom in a kernel of this Python, in `folder`; the outputs are written into it.

    Raises:
        NotebookError: if a cell fails; one line with the cell and the error.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    try:
        client.execute(stderr=subprocess.DEVNULL)  # the kernel's own remarks; what cells print goes into the notebook
    except CellTimeoutError:
        raise NotebookError(f"a cell ran for more than {timeout} s") from None
    except DeadKernelError:
        raise NotebookError("the kernel died: out of memory, or a crash in native code") from None
    except CellExecutionError as error:
        failed = next(c for c in notebook.cells if c.cell_type == "code" and any(o.output_type == "error" for o in c.outputs))
        raise NotebookError(f"the cell that begins {failed.source[:60]!r} failed: {error.ename}: {error.evalue}") from None


def _digest(notebook: NotebookNode) -> str:
    parts = "\0".join(f"{cell.cell_type}\0{cell.source}" for cell in notebook.cells)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
