"""Writes the students' repository, and proves that it holds no solution, mutant or key."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

from autograder import UserError, bank
from autograder.authoring import build, notebooks
from autograder.judge.recorded import FOLDER, PUBLIC_SEED
from autograder.judge.runner import ROOT, Runner, reference_stub
from autograder.manifest import Course, Week
from autograder.student import handin

# What students need of the grader; the rest is for those who grade, or write exercises.
GRADER = (
    "__init__.py",
    "__main__.py",
    "cli.py",
    "intake.py",
    "manifest.py",
    "refusals.toml",
    "report.py",
    "screen.py",
    "show.py",
    "texts.py",
    "inside",
    "judge",
    "project",
    "student",
)
WHOLE = (
    "LICENSE", "LICENSE-lectures", "constraints.txt", "course/__init__.py", "course/course.toml", "course/labs",
    "course/project.toml", "course/project_examples", "course/project_findings.toml", "course/project_template",
    "course/readings.md", "course/readings.zh.md", "course/threads", "docs/labs.md", "docs/project.md", "docs/project.zh.md",
    "docs/reading.md", "docs/reading.zh.md", "docs/students.md", "docs/students.zh.md",
    "environment.yml", "pyproject.toml", "scripts/setup.sh",
    "syllabus.md", "syllabus.zh.md", ".devcontainer", ".gitignore",
)  # fmt: skip
# Pages of docs/release, which stand at the top of the students' copy.
OWN = ("README.md", "README.zh.md", "AGENTS.md")
# What grading one week needs on another machine, the week's secrets among it: for those who grade.
GRADING = (
    "LICENSE", "autograder/*.*", "autograder/*/*.*", "autograder/bank/{week}/mutants/**/*", "autograder/checks/{week}/**/*",
    "constraints.txt", "course/__init__.py", "course/course.toml", "course/labs/**/*", "pyproject.toml",
    "solutions/{week}/{stub}",
)  # fmt: skip
_JUNK = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".backup")
_KEYS = ("answers.toml", "review.md")
_TEXTS = ("comments.toml", "calibration.toml")
_LONG = 50  # characters; a shorter line of a key may stand anywhere


class ReleaseError(UserError):
    """The release was not written; the text says why."""


def write(
    out: Path,
    course: Course,
    weeks: Sequence[Week],
    progress: Callable[[int, int], None],
    jobs: int,
    more: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Write the repository for these weeks to a new folder; returns how many files it has.

    It appears whole or not at all.

    Args:
        progress: called with the number of weeks recorded and of all.
        jobs: processes that record.
        more: texts of further files, by path.

    Raises:
        ReleaseError: if the folder is there, or what would be released holds what it must not.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ReleaseError(f"{out} is not empty: name a new folder, and merge it into the students' repository with git")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        draft = Path(folder) / "release"
        for name in _names(weeks):
            _copy(ROOT / name, draft / name)
        for name in OWN:
            _copy(ROOT / "docs" / "release" / name, draft / name)
        for name, text in more.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text, encoding="utf-8")
        recorded = draft / FOLDER.relative_to(ROOT)
        recorded.mkdir()
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for done, (week, data) in enumerate(zip(weeks, pool.map(_record, weeks), strict=True), 1):
                (recorded / f"{week.folder}.zip").write_bytes(data)
                progress(done, len(weeks))
        books = {path.relative_to(draft).as_posix(): path for path in sorted((draft / "notebooks").rglob("*.ipynb"))}
        if books:  # so that `autograder submit` knows which one a student worked on
            digests = {name: handin.cells_digest(path.read_bytes()) for name, path in books.items()}
            (recorded / handin.NOTEBOOKS.name).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        if found := list(problems(draft, course)):
            raise ReleaseError(f"{len(found)} pieces of what students must not have, the first: {found[0]}")
        count = sum(1 for path in draft.rglob("*") if path.is_file())
        if out.exists():
            out.rmdir()
        os.replace(draft, out)
    return count


def problems(release: Path, course: Course) -> Iterator[str]:
    """What a release holds and must not, a line each: pieces of solutions, of the bank, lines of keys."""
    for path in sorted(release.rglob("*")):
        parts = path.relative_to(release).parts
        own = {"tests"} if parts[:2] == ("course", "project_template") else set()  # a project has tests of its own
        if ({"solutions", "bank", "tests"} - own) & set(parts):
            yield f"{path.relative_to(release)} is for those who grade"
            return
    files = [path for path in sorted(release.rglob("*")) if path.suffix in (".py", ".md", ".ipynb") and path.is_file()]
    yield from build.leaks(course, files, _of_bank(course))
    keys = [path for name in _KEYS for path in (ROOT / "solutions").glob(f"*/{name}")]
    keys += [path for name in _TEXTS for path in bank.BANK.rglob(name)]
    secret = {
        _line(line): f"{path.parent.name}/{path.name}"
        for path in keys
        for line in path.read_text(encoding="utf-8").splitlines()
        if len(line.strip()) >= _LONG
    }
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if len(line.strip()) >= _LONG and (origin := secret.get(_line(line))):
                yield f"{path.relative_to(release)}:{number} is a line of a key ({origin})"


def grader_files(week: Week) -> list[str]:
    """The files that grading this week needs on another machine, by name: of solutions and mutants, those of this week alone."""
    found = {path for name in GRADING for path in ROOT.glob(name.format(week=week.folder, stub=week.stub)) if path.is_file()}
    names = [path.relative_to(ROOT) for path in found]
    return sorted(name.as_posix() for name in names if "__pycache__" not in name.parts and not name.name.startswith("."))


def _names(weeks: Sequence[Week]) -> Iterator[str]:
    yield from WHOLE
    yield from (f"autograder/{name}" for name in (*GRADER, "checks/__init__.py"))
    folders = [week.folder for week in weeks]
    for folder in [*folders, "week00"]:
        for place in (f"autograder/checks/{folder}", f"course/{folder}", f"exercises/{folder}"):
            if (ROOT / place).is_dir():
                yield place
        if folder in notebooks.sources():
            yield from (f"{target}/{folder}.ipynb" for target in notebooks.TARGETS.values())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=_JUNK)
    else:
        shutil.copy2(source, target)


def _record(week: Week) -> bytes:
    """In a process of its own: the week's answers and traces for the public seed."""
    runner = Runner(week, PUBLIC_SEED)
    stub = build.stub_source(reference_stub(week).read_text(encoding="utf-8"), week)
    found: list[bytes] = []
    runner.run_in_pytest(lambda: found.append(runner.record(stub)))
    return found[0]


@functools.cache
def _of_bank(course: Course) -> dict[str, str]:
    """Functions of mutants, held-out spellings, alternatives and calibration examples that are not the stub's own, by shape."""
    fragments: dict[str, str] = {}
    for week in course.weeks:
        if not week.tasks:
            continue
        reference = reference_stub(week).read_text(encoding="utf-8")
        known = {*build.functions(reference), *build.functions(build.stub_source(reference, week))}
        sources = {f"mutants/{m.name}": m.source for m in bank.mutants(week, reference)}
        sources |= {f"heldout/{h.name}": h.source for h in bank.heldout(week, reference)}
        sources |= {f"alternatives/{path.parent.name}": path.read_text(encoding="utf-8") for path in bank.alternatives(week)}
        sources |= {f"calibration/{path.stem}": path.read_text(encoding="utf-8") for path in bank.calibration(week)}
        for name, source in sources.items():
            fragments |= {shape: f"bank/{week.folder}/{name}" for shape in build.functions(source) if shape not in known}
    return fragments


def _line(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
