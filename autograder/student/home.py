"""What `autograder check` and `watch` do at home as the sandbox does it when marking, and what they say of a file beforehand.

Imports nothing heavy: a file that hides a package has to be found before that package is imported.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from autograder import ROOT, UserError
from autograder.manifest import Course, Week

if TYPE_CHECKING:
    from autograder.judge.runner import Opener, Runner, TaskRun

_HARMLESS = {"test", "this"}  # modules of Python's that nothing imports by itself


class HomeError(UserError):
    """The file cannot be checked as it is; the text says what to do."""


@contextmanager
def hidden_packages(week: Week) -> Iterator[None]:
    """Make the week's hidden packages impossible to import, as far as nothing has imported them yet.

    As in the sandbox, and for whoever asks beforehand, such as torch's compiler for sklearn, they are not there.
    """
    names = [name for name in week.hidden_packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None: the import system's own way to say so
    try:
        yield
    finally:
        for name in names:
            if sys.modules.get(name, week) is None:
                del sys.modules[name]


def stub(course: Course, week: Week, given: Path | None) -> Path:
    """The file to check.

    Args:
        given: what `--file` says; by default the week's stub file.

    Raises:
        HomeError: if it is not there, is another week's, or a file beside it or in the current folder hides a package.
    """
    path = given or ROOT / "exercises" / week.folder / week.stub
    other = next((w for w in course.weeks if w.tasks and w.stub == path.name and w.number != week.number), None)
    if other:
        raise HomeError(f"{path.name} is the file of week {other.number}: autograder check {other.number} --file {path}")
    if path.is_dir():
        raise HomeError(f"{path} is a folder: name the file in it, {path / week.stub}")
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        names = []
    # Asked of the folder: some systems open LoRA_linear.py as lora_linear.py, the marking run does not.
    if path.name not in names:
        if near := renamed(path.name, names):
            raise HomeError(f"{path} is not there, but {near} is: rename it to {path.name}")
        raise HomeError(f"{path} is not there: pass --file PATH, or get the stub back with `autograder start {week.number}`")
    path = path.resolve()
    hides_nothing(path)
    return path


def hides_nothing(path: Path) -> None:
    """See that no file beside the stub, or in the current folder, takes the place of a package.

    Raises:
        HomeError: if one does.
    """
    here = Path.cwd()
    for folder in dict.fromkeys([path.parent, *([here] if {"", str(here)} & set(sys.path) else [])]):
        if hiding := _hiding(folder):
            name = hiding.removesuffix(".py")
            raise HomeError(f"{folder / hiding} hides the package {name}, which your code or the course imports: rename it")


def renamed(wanted: str, names: Sequence[str]) -> str | None:
    """The name that a missing stub file seems to have got."""
    stem = wanted.removesuffix(".py")
    files = [name for name in names if name.lower().endswith(".py")]
    for name in files:
        if re.match(rf"{re.escape(stem)}([\W_]|\d|$)", name[:-3], re.IGNORECASE):
            return name
    return next(iter(difflib.get_close_matches(wanted, files, 1, 0.75)), None)


def _hiding(folder: Path) -> str | None:
    """A file or package in a folder with the name of one that is imported from elsewhere."""
    known = (set(sys.stdlib_module_names) | packages()) - _HARMLESS
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if (name.endswith(".py") and name[:-3] in known) or (name in known and (folder / name / "__init__.py").is_file()):
                return name
    return None


@cache
def packages() -> frozenset[str]:
    """The names by which the course's packages are imported, as far as they are those that they are installed by."""
    found = set()
    with contextlib.suppress(OSError):
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                found.add(line.partition("==")[0].strip().replace("-", "_"))
    return frozenset(found)


def missing_package(name: str) -> str:
    """What to do where a package of the course's cannot be imported, in one line."""
    if "CONDA_PREFIX" in os.environ:
        how = "`conda activate lora-graded`"
    elif (ROOT / ".venv").is_dir() and Path(sys.prefix) != ROOT / ".venv":
        how = f"use {ROOT / '.venv' / ('Scripts' if os.name == 'nt' else 'bin') / 'autograder'}"
    else:
        how = f"run `sh scripts/setup.sh` in {ROOT}"
    return f"the package {name} is not installed for {sys.executable}: {how}"


def parses(path: Path) -> None:
    """See that a file is Python.

    Raises:
        HomeError: if not; for a syntax error with the line, and a caret beneath it.
    """
    from autograder.intake import unreadable

    try:
        data = path.read_bytes()
    except OSError as error:
        raise HomeError(f"{path} cannot be read: {error.strerror}") from None
    if why := unreadable(path.name, data):
        raise HomeError(why)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the import will tell
            compile(data, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise HomeError(_syntax_error(path, error)) from None
    except (RecursionError, MemoryError):
        raise HomeError(f"{path.name} is too deeply nested for Python") from None


def _syntax_error(path: Path, error: SyntaxError) -> str:
    lines = [f"{path}, line {error.lineno}: {error.msg}"]
    text = (error.text or "").rstrip()
    if text and error.offset:
        before = text[: error.offset - 1]
        # As wide as what stands above it: a tab stays one, and a Chinese character takes two columns.
        pad = "".join(c if c == "\t" else "  " if unicodedata.east_asian_width(c) in "WF" else " " for c in before)
        lines += [f"    {text}", f"    {pad}^"]
    return "\n".join(lines)


def preload(week: Week) -> None:
    """Import what the week's code imports, before any clock runs: the first time may take long.

    Raises:
        HomeError: if something cannot be imported.
    """
    for name in week.preload:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            package = (error.name or name).partition(".")[0]
            raise HomeError(missing_package(package)) from None
        except (ImportError, OSError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise HomeError(f"the package {name} is installed but cannot be imported ({why}): install it again") from None


def seconds(given: float | None) -> float | None:
    """What `--seconds` says.

    Raises:
        HomeError: if it is no time.
    """
    if given is not None and not 0 <= given < 1e6:
        raise HomeError("--seconds is a number of seconds, such as 60, or 0 for no limit")
    return given


def loopback(stub: Path, seconds: float | None = None) -> Opener:
    """Opens workers in this process whose code is interrupted after so many seconds; see autograder/student/guard.py."""
    from autograder.student import guard

    return guard.loopback(stub, seconds)


def inside(runner: Runner, body: Callable[[], None]) -> None:
    """Call `body` where `runner.run` works, with the week's packages hidden.

    pytest's own words are kept for error messages; what student code prints, and a debugger, stay on the terminal.
    """
    out, err = sys.stdout, sys.stderr

    def shown() -> None:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            body()

    with hidden_packages(runner.week):
        preload(runner.week)
        runner.run_in_pytest(shown)


def check(runner: Runner, path: Path, seconds: float | None = None) -> list[TaskRun]:
    """Run the checks on a file in this process.

    Args:
        seconds: see `loopback`.
    """
    runs: list[TaskRun] = []
    inside(runner, lambda: runs.extend(runner.run(loopback(path, seconds))))
    return runs
