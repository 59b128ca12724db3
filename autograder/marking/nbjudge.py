"""Gives nbgrader's commands and formgrader the judge's scores: read by nbgrader_config.py in a course folder.

nbgrader runs a student's notebook where it grades, with the database open. Here `autograde` runs nothing of a student's: it calls
`autograder grade` in a process of its own, whose sandbox does, and enters the results through nbgrader's gradebook API.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbgrader.apps.api
import nbgrader.apps.autogradeapp
import nbgrader.converters
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.plugins.export import ExportPlugin
from nbgrader.plugins.zipcollect import ExtractorPlugin
from nbgrader.preprocessors import GetGrades
from nbgrader.preprocessors.base import NbGraderPreprocessor
from traitlets import Unicode

from autograder import intake, results
from autograder.authoring import notebooks
from autograder.judge.runner import ROOT
from autograder.manifest import Lang, Week, load
from autograder.marking import gradebook, nbcourse
from autograder.reports import review, sanitise, similar
from autograder.reports.feedback import page_name

_CAP = 64 << 20  # bytes of one archive's files together
_MEMBERS = 500
_COLUMNS = (
    "assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email", "raw_score",
    "late_submission_penalty", "score", "max_score",
)  # fmt: skip


def configure(c: Any, root: Path, *, lang: Lang = "en", db: str | None = None, isolation: str = "bwrap") -> None:
    """Set nbgrader up for a course folder; `c` is what get_config() gives."""
    root = root.resolve()
    c.CourseDirectory.root = str(root)
    c.CourseDirectory.course_id = nbcourse.COURSE
    if db:
        c.CourseDirectory.db_url = db
    c.JudgedAutograde.lang, c.JudgedAutograde.isolation = lang, isolation
    c.ZipCollectApp.extractor_plugin = CarefulExtractor
    c.ExportApp.plugin_class = QuotedCsvExport
    c.FileNameCollectorPlugin.valid_ext = [".ipynb", ".py"]
    # The first folder below extracted/ is the student, whatever the folders in an archive are called.
    c.FileNameCollectorPlugin.named_regexp = (
        re.escape(f"{root}/downloaded/") + r"[^/]+/extracted/(?P<student_id>[^/]+)/(?P<file_id>.+)"
    )
    c.GenerateFeedback.preprocessors = [WithoutStaffCells, GetGrades, "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor"]
    c.HTMLExporter.sanitize_html = True  # a second line: what a student wrote is inert before it gets there
    # nbgrader has no option for which class autogrades.
    for module in (nbgrader.apps.autogradeapp, nbgrader.apps.api, nbgrader.converters):
        module.Autograde = JudgedAutograde


class JudgedAutograde(Autograde):
    """`nbgrader autograde`, with the judge's scores in place of an execution."""

    lang = Unicode("en", help="the language of what stands in a graded notebook").tag(config=True)
    isolation = Unicode("bwrap", help="of the judge: bwrap, or process (reduced)").tag(config=True)

    def start(self) -> None:
        self._root = Path(self.coursedir.root)
        name, weeks = self.coursedir.assignment_id, load().weeks
        found = [week for week in weeks if week.folder == name]
        if not found:
            known = ", ".join(week.folder for week in weeks if week.tasks)
            self._stop(f"there is no assignment {name!r}; a week is one: {known}")
        self._week = week = found[0]
        self._submitted = Path(self.coursedir.submitted_directory)
        if not self._submitted.is_absolute():
            self._submitted = self._root / self._submitted
        tidy(self._submitted, week)
        self._received = received(self._root, self._submitted, week)
        self._judge()
        super().start()

    def _judge(self) -> None:
        """Grade what is new or changed, in a process of its own: formgrader has threads, and must not fork a judge."""
        out = nbcourse.results_folder(self._root, self._week)
        quiet = not sys.stderr.isatty()
        options = ["--isolation", self.isolation]
        options += ["--notebooks"] if self._week.questions else []
        options += ["--quiet"] if quiet else []
        done = self._autograder("grade", out, *options, stderr=subprocess.PIPE if quiet else None)
        if done.returncode not in (0, 1):  # 1: somebody is ungraded, which concerns them alone
            said = (done.stderr or "see above").strip().splitlines()
            self._stop(said[-1] if said else f"`autograder grade` ended with {done.returncode}")
        self._results = {result["student"]: result for result in results.read(out)[1]}
        self._labs = results.read_labs(out)
        self._compare(out)
        flags = similar.read_flags(out)
        self._flags = {name: flags.get(name, []) for name in self._results}

    def _compare(self, out: Path) -> None:
        """Look for similar submissions, unless no file, team or release is another one than last time."""
        groups = self._root / "groups.csv"
        teams = groups.read_bytes() if groups.is_file() else b""
        keys = json.dumps(sorted(result["key"] for result in self._results.values()))
        digest = hashlib.sha256(Path(similar.__file__).read_bytes() + keys.encode() + teams).hexdigest()
        known = out / "similar.key"
        if (out / "similar.jsonl").is_file() and known.is_file() and known.read_text(encoding="utf-8") == digest:
            return
        done = self._autograder("similar", out, *(["--groups", str(groups)] if teams else []), timeout=1800)
        if done.returncode == 0:
            results.replace(known, digest)

    def _autograder(self, command: str, out: Path, *options: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """A command of this grader about the week's submissions."""
        words = [sys.executable, "-m", "autograder", command, str(self._submitted)]
        words += ["--week", str(self._week.number), "--out", str(out)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        settings |= {"env": environment, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        return subprocess.run([*words, *options], text=True, check=False, **settings)

    def _stop(self, why: str) -> None:
        self.log.error(why)
        raise NbGraderException(why)

    def init_notebooks(self) -> None:
        """Both notebooks of everybody who handed something in, whether or not they handed in the notebooks."""
        self.notebooks: list[str] = []
        names = [f"{nbcourse.CODE}.ipynb", *([f"{self._week.folder}.ipynb"] if self._week.questions else [])]
        wanted = self.coursedir.notebook_id
        names = [name for name in names if wanted in ("*", name.removesuffix(".ipynb"))]
        self.assignments = {}
        for student in self._received:
            if self.coursedir.student_id in ("*", student):
                folder = self._format_source(self._week.folder, student)
                self.assignments[folder] = [os.path.join(folder, name) for name in names]
        if not self.assignments or not names:
            self._stop(f"nothing was handed in: no folder {self._submitted}/{self.coursedir.student_id}/{self._week.folder}")

    def init_assignment(self, assignment_id: str, student_id: str) -> None:
        """The student's and the submission's rows, and the files that a TA may open. Nothing is copied unread."""
        result = self._results.get(student_id)
        lab = self._labs.get(student_id)
        for one in (result, *([lab] if self._week.questions else [])):
            if one is None or one["status"] == "ungraded":
                why = one["message"] if one else "there is no result"
                raise NbGraderException(f"{student_id} is not graded, which is not the student's fault: {why}")
        with Gradebook(self.coursedir.db_url, self.coursedir.course_id) as book:
            book.update_or_create_student(student_id)
            gradebook.require(book, assignment_id)
            book.update_or_create_submission(assignment_id, student_id, timestamp=self._received[student_id])
        place = Path(self._format_dest(assignment_id, student_id))
        place.mkdir(parents=True, exist_ok=True)
        self._files = intake.read(student_id, self._submitted / student_id, self._week).files
        for name, data in self._files.items():
            if name.endswith(".py") and "/" not in name:  # what a browser shows as text
                (place / name).write_bytes(data)
        (place / "timestamp.txt").write_text(self._received[student_id].isoformat(" ") + " UTC\n", encoding="utf-8")

    def convert_single_notebook(self, notebook_filename: str) -> None:
        resources = self.init_single_notebook_resources(notebook_filename)
        names = resources["nbgrader"]
        student, notebook = names["student"], names["notebook"]
        if notebook == nbcourse.CODE:
            result = self._results[student]
            made = code_notebook(self._week, result, self._files, self._flags[student], self._lang())
        else:
            lab = self._labs[student]
            page = nbcourse.results_folder(self._root, self._week) / "notebooks" / page_name(student)
            made = lab_notebook(self._week, lab, page.with_suffix(".ipynb"), self._lang())
        output, resources = self.exporter.from_notebook_node(made, resources)
        self.write_single_notebook(output, resources)
        with Gradebook(self.coursedir.db_url, self.coursedir.course_id) as book:
            if notebook == nbcourse.CODE:
                gradebook.enter_code(book, self._week, [self._results[student]])
            else:
                gradebook.enter_lab(book, self._week, [self._labs[student]])

    def _lang(self) -> Lang:
        return "zh" if self.lang == "zh" else "en"


class WithoutStaffCells(NbGraderPreprocessor):
    """Leaves out of the feedback what is for those who teach."""

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        nb.cells = [cell for cell in nb.cells if not cell.metadata.get(nbcourse.STAFF)]
        return nb, resources


class CarefulExtractor(ExtractorPlugin):
    """Takes Python files and notebooks out of .zip archives: no links, no way out of the folder, no more than _CAP bytes each.

    An archive that cannot be read costs its own student the files, not the class its grading.
    """

    def extract(self, archive_path: str, extracted_path: str) -> None:
        for archive in sorted(Path(archive_path).iterdir()):
            if archive.is_symlink() or not archive.is_file() or archive.suffix.lower() != ".zip":
                self.log.warning("Not a .zip file, left out: %s", archive)
                continue
            # nbgrader's own layout: downloaded/<assignment>/archive
            student = archive.stem.removeprefix(f"{Path(archive_path).parent.name}-")
            if not student.strip(". "):
                self.log.warning("Not a student's name, left out: %s", archive)
                continue
            try:
                if archive.stat().st_size > _CAP:
                    raise intake.ArchiveError(f"it is over {_CAP >> 20} MiB")
                self._take(intake.Archive(archive.read_bytes()), archive, Path(extracted_path) / student)
            except (intake.ArchiveError, OSError) as error:
                self.log.error("%s cannot be read (%s): ask the student for another", archive, error)

    def _take(self, opened: intake.Archive, archive: Path, place: Path) -> None:
        left = _CAP
        for line in opened.notices:
            self.log.warning("%s: %s", archive, line)
        for name in [name for name in opened.names if name.endswith((".py", ".ipynb"))][:_MEMBERS]:
            parts = name.split("/")
            if len(parts) > 4 or not all(re.fullmatch(r"[\w\-. ()]{1,100}", part) and part.strip(". ") for part in parts):
                self.log.warning("Left out of %s: %r", archive, name)
                continue
            data = opened.read(name, left)
            if isinstance(data, str):
                self.log.warning("Left out of %s: %r: %s", archive, name, data)
                continue
            left -= len(data)
            target = place.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


class QuotedCsvExport(ExportPlugin):
    """nbgrader's CSV, with its columns, but quoted: a name may hold a comma, and none is run by a spreadsheet."""

    def export(self, gradebook: Any) -> None:
        path = Path(self.to or "grades.csv")
        self.log.info("Exporting grades to %s", path)
        chosen = {str(name) for name in self.assignment}, {str(name) for name in self.student}
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        writer.writerow(_COLUMNS)
        for assignment in gradebook.assignments:
            for student in gradebook.students:
                if (chosen[0] and assignment.name not in chosen[0]) or (chosen[1] and student.id not in chosen[1]):
                    continue
                try:
                    found = gradebook.find_submission(assignment.name, student.id)
                except MissingEntry:
                    found = None
                penalty = found.late_submission_penalty if found else 0.0
                raw = found.score if found else 0.0
                score = max(0.0, raw - penalty)
                person = (student.id, student.last_name, student.first_name, student.email)
                row = [assignment.name, assignment.duedate or "", found.timestamp if found else ""]
                row += [results.spreadsheet_safe(str(text or "")) for text in person]
                writer.writerow([*row, raw, penalty, score, assignment.max_score])
        results.replace(path, out.getvalue())


def tidy(submitted: Path, week: Week) -> None:
    """Take links and special files out of a week's submissions before anything of nbgrader's opens them."""
    for student in _students(submitted, week):
        for folder, names, files in os.walk(submitted / student / week.folder):
            for name in [*names, *files]:
                path = os.path.join(folder, name)
                mode = os.lstat(path).st_mode
                if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    os.unlink(path)


def received(root: Path, submitted: Path, week: Week) -> dict[str, datetime.datetime]:
    """When each student's submission of a week came in, in UTC without a zone, as nbgrader keeps it.

    received.csv in the course folder decides (student, week, received); else timestamp.txt, which nbgrader's collect writes;
    else the time of this call, which is kept in timestamp.txt. A time that cannot be read, or is yet to come, is none.

    Raises:
        NbGraderException: if received.csv cannot be read.
    """
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)
    table = _received_table(root / "received.csv", week)
    found = {}
    for student in _students(submitted, week):
        path = submitted / student / week.folder / "timestamp.txt"
        when = table.get(student) or _timestamp(path)
        if when is None or when > now:
            when = now
        if _timestamp(path) != when:
            path.unlink(missing_ok=True)
            path.write_text(when.isoformat(" ") + " UTC\n", encoding="utf-8")
        found[student] = when
    return found


def _students(submitted: Path, week: Week) -> list[str]:
    if not submitted.is_dir():
        return []
    names = [name for name, _ in intake.students(submitted, week)] if any(submitted.iterdir()) else []
    return [name for name in names if stat.S_ISDIR(_mode(submitted / name / week.folder))]


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _timestamp(path: Path) -> datetime.datetime | None:
    try:
        if not stat.S_ISREG(_mode(path)) or path.stat().st_size > 100:
            return None
        return _utc(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _utc(text: str) -> datetime.datetime:
    when = datetime.datetime.fromisoformat(text.strip().removesuffix("UTC").strip())
    return (when.astimezone(datetime.UTC) if when.tzinfo else when).replace(tzinfo=None, microsecond=0)


def _received_table(path: Path, week: Week) -> dict[str, datetime.datetime]:
    if not path.is_file():
        return {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["week"].strip() in (str(week.number), week.folder)]
        return {row["student"]: _utc(row["received"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        why = f"{path} cannot be read ({error}): its columns are student, week, received (2026-03-01T12:00+08:00)"
        raise NbGraderException(why) from None


def code_notebook(week: Week, result: dict[str, Any], files: dict[str, bytes], flags: list[Any], lang: Lang) -> NotebookNode:
    """The notebook `code` of one submission: what each check said, what a TA needs, and the cell that the TA marks."""
    made = nbcourse.code_notebook(week, lang)
    tasks = {nbcourse.grade_id(task["id"]): task for task in result["tasks"]}
    cells = []
    for cell in made.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name == nbcourse.REVIEW:
            cell.source = review.rubric(week, lang)
        elif name in tasks:
            cell.outputs = [new_output("stream", name="stdout", text=sanitise.text(_task_text(tasks[name])))]
        cells.append(cell)
    for number, section in enumerate(review.material(week, files, result, flags, lang=lang)):
        shown = new_markdown_cell(f"## {section.title}\n\n{section.text}", id=f"material-{number}")
        if section.staff:
            shown.metadata[nbcourse.STAFF] = True
        cells.append(shown)
    made.cells = cells
    return made


def _task_text(task: dict[str, Any]) -> str:
    lines = [f"{task['status']}: {task['score']:g} of {task['max_score']:g} points"]
    for check in task["checks"]:
        lines.append(f"  {'ok  ' if check['status'] == 'passed' else 'FAIL'} {check['property']}")
        if check["status"] != "passed":
            lines += [f"         {line}" for line in check["message"].splitlines()]
            if check["misconception"]:
                lines.append(f"         likely misunderstanding: {check['misconception']}")
    if not task["checks"]:
        lines.append(f"  {task['message']}")
    return "\n".join(lines) + "\n"


def lab_notebook(week: Week, lab: dict[str, Any], page: Path, lang: Lang) -> NotebookNode:
    """The lab's notebook of one submission, as it ran in the sandbox, inert; each graded cell once, the points the manifest's."""
    import nbformat

    graded = nbcourse.question_metadata(week)
    cells = []
    if page.is_file() and not page.is_symlink():
        cells = list(nbformat.reads(page.read_text(encoding="utf-8"), as_version=4).cells)
    missing = dict(graded)
    for cell in cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.metadata = NotebookNode()
        if name in missing and missing[name]["cell_type"] == cell.cell_type:
            cell.metadata["nbgrader"] = missing.pop(name)
    for metadata in missing.values():
        text = "本单元格不在提交的笔记本中。" if lang == "zh" else "This cell is not in the notebook that was handed in."
        new = new_code_cell(f"# {text}") if metadata["cell_type"] == "code" else new_markdown_cell(text)
        new.metadata["nbgrader"] = metadata
        cells.append(new)
    if lab["message"]:
        cells.insert(0, new_markdown_cell(sanitise.markdown(lab["message"])))
    return new_notebook(cells=cells, metadata={"kernelspec": notebooks.KERNEL, "language_info": {"name": "python"}})
