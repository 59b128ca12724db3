"""Makes and refreshes a course folder for nbgrader: its own commands and formgrader run the course, the judge gives the points.

A week is an assignment with two notebooks: `weekNN`, the lab, and `code`, which shows the stub file that was handed in beside
it, has a cell for each core task and one for the code review. autograder/marking/nbjudge.py fills them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder import UserError
from autograder.manifest import Course, Lang, Week
from autograder.marking import policy, tables

if TYPE_CHECKING:
    from nbformat import NotebookNode

COURSE = "lora"  # nbgrader's course_id
CODE = "code"  # the notebook of the stub file
REVIEW = "review"  # its cell that a TA marks
STAFF = "lora_graded_staff"  # metadata of a cell that students must not see
_MARKER = ".lora-graded-course"
_CONFIG = '''\
"""nbgrader's configuration, written by `autograder nbgrader`; run that again rather than edit this file.

Your own settings belong in nbgrader_local.py beside it, which is read last and never overwritten.
"""

from pathlib import Path

from autograder.marking import nbjudge

c = get_config()  # noqa: F821
nbjudge.configure(c, Path(__file__).parent, {settings})
_local = Path(__file__).with_name("nbgrader_local.py")
if _local.is_file():
    exec(compile(_local.read_text(encoding="utf-8"), str(_local), "exec"))
'''


class CourseError(UserError):
    """The course folder cannot be made or used; the text is one line."""


def write(
    folder: Path, course: Course, weeks: Sequence[Week], lang: Lang = "en", db: str | None = None, isolation: str = "bwrap"
) -> list[str]:
    """Make the folder, or refresh one that this made: configuration and `source/weekNN/`; nothing that came in later is touched.

    Args:
        db: any URL that nbgrader takes; by default SQLite, gradebook.db in the folder.
        isolation: of the judge; "process" is reduced isolation.

    Returns:
        What was written, a line each.

    Raises:
        CourseError: if the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"{folder} is a file: name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARKER).is_file():
        raise CourseError(f"{folder} holds something else: name a new folder, or one that this command made")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).write_text("made by `autograder nbgrader`\n", encoding="utf-8")
    settings = {"lang": lang, "db": db, "isolation": isolation}
    text = _CONFIG.replace("{settings}", ", ".join(f"{name}={value!r}" for name, value in settings.items()))
    _write(folder / "nbgrader_config.py", text)
    lines = []
    for week in weeks:
        place = folder / "source" / week.folder
        place.mkdir(parents=True, exist_ok=True)
        files = sources(week, lang)
        for name, content in files.items():
            _write(place / name, content)
        lines.append(f"source/{week.folder}: {', '.join(files)}")
    for name, text in (("roster.csv", f"{','.join(tables.ROSTER)}\n"), ("marks.toml", policy.TEMPLATE)):
        if not (folder / name).exists():
            _write(folder / name, text)
    return lines


def sources(week: Week, lang: Lang) -> dict[str, str]:
    """The files of a week's assignment by name: what students get."""
    import nbformat

    from autograder.authoring.notebooks import TARGETS
    from autograder.judge.runner import ROOT

    lab = ROOT / TARGETS[lang] / f"{week.folder}.ipynb"
    found = {f"{CODE}.ipynb": nbformat.writes(code_notebook(week, lang)) + "\n"}
    if week.questions:
        found[lab.name] = lab.read_text(encoding="utf-8")
    found[week.stub] = (ROOT / "exercises" / week.folder / week.stub).read_text(encoding="utf-8")
    return found


def code_notebook(week: Week, lang: Lang) -> NotebookNode:
    """The notebook of a week's stub file, empty: a grade cell for each core task and a manually graded one for the review."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    from autograder.authoring import notebooks

    if lang == "zh":
        head = (
            f"# 第 {week.number} 周：代码\n\n请把完成的 `{week.stub}` 与本笔记本一起提交。"
            "检查由课程的评分程序运行，这里不需要填写。"
        )
        note = "由评分程序运行检查"
    else:
        head = (
            f"# Week {week.number}: code\n\nHand in your completed `{week.stub}` beside this notebook. "
            "The course's grader runs its checks; there is nothing to fill in here."
        )
        note = "the grader runs its checks"
    cells = [new_markdown_cell(head, id="head")]
    for task in week.core:
        cell = new_code_cell(f"# {task.id}  {task.title.of(lang)}: {note}", id=grade_id(task.id))
        cell.metadata["nbgrader"] = notebooks.graded(grade_id(task.id), "code", task.points, solution=False)
        cells.append(cell)
    cell = new_markdown_cell("*代码评审，由助教填写。*" if lang == "zh" else "*Code review, by the TA.*", id=REVIEW)
    cell.metadata["nbgrader"] = notebooks.graded(REVIEW, "markdown", week.points.review)
    notebook = new_notebook(cells=[*cells, cell], metadata={"kernelspec": notebooks.KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat_minor = 5
    return notebook


def grade_id(task_id: str) -> str:
    """A task's cell in the notebook `code`: "t2" for "4.2"."""
    return f"t{task_id.partition('.')[2]}"


def question_metadata(week: Week) -> dict[str, dict[str, Any]]:
    """nbgrader's metadata of each graded cell of the lab's notebook, by grade_id, from the manifest."""
    from autograder.authoring import notebooks

    return {q.grade_id: notebooks.graded(q.grade_id, "markdown" if q.written else "code", q.points) for q in week.questions}


def _write(path: Path, text: str) -> None:
    if path.is_symlink():
        path.unlink()
    path.write_text(text, encoding="utf-8")


def results_folder(root: Path, week: Week) -> Path:
    """Where the judge's results of a week lie in a course folder."""
    return root / "results" / week.folder


def database(root: Path) -> str:
    """The URL of a course folder's gradebook, read from its configuration without running it.

    Raises:
        CourseError: if this is no course folder.
    """
    import ast

    try:
        tree = ast.parse((root / "nbgrader_config.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        raise CourseError(f"{root} is no course folder: make one with `autograder nbgrader {root}`") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "db" and isinstance(node.value, ast.Constant) and node.value.value:
            return str(node.value.value)
    return f"sqlite:///{(root / 'gradebook.db').resolve()}"
