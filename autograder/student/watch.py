"""`autograder watch`: the checks run again at every save, in a process that stays warm."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import hashlib
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder import UserError, texts
from autograder.manifest import Lang, Week, load
from autograder.student import common, progress

if TYPE_CHECKING:
    from autograder.judge.runner import Runner

# File systems that tell nobody of a change made elsewhere.
_REMOTE = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "drvfs", "vboxsf")
_POLL_SECONDS = 0.25
_LOOK_MS = 1000  # even where changes are told
_SETTLE_SECONDS = 0.02  # an editor may need a moment to write all of a file
_EMPTY_MOMENTS = 25
_GONE_SECONDS = 1.0
_OWNERS = (
    "copy", "functools", "itertools", "json", "math", "os", "random", "time", "numpy", "numpy.linalg", "numpy.random",
    "torch", "torch.autograd", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.optim",
)  # fmt: skip
_CLEAR = "\x1b[2J\x1b[3J\x1b[H"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser], formatter: Any) -> None:
    """Add the command to the command line."""
    watch = commands.add_parser(
        "watch",
        help="check your own work again at every save",
        description="Does what `autograder check` does, and again whenever you save the stub file or a .py file beside it.\n"
        "It is several times faster than a new check, since all that the checks need stays loaded. Ctrl-C ends it.\n"
        "  autograder watch 4        the whole week\n"
        "  autograder watch 4.2      one task\n"
        "Network folders are looked at four times a second; where that is not noticed by itself, say --poll.",
        formatter_class=formatter,
    )
    watch.add_argument("what", metavar="WEEK[.TASK]", help="4 for the whole week, 4.2 for one task")
    watch.add_argument("--file", type=Path, help="the file to check (default: exercises/weekNN/<stub>)")
    watch.add_argument("--tier", choices=("basic", "advanced"), help="only the checks of this tier")
    watch.add_argument("--seconds", metavar="N", type=float, help="how long one call of your code may run; 0: without limit")
    watch.add_argument("--poll", action="store_true", help="look at the files instead of waiting to be told of a change")
    watch.add_argument("--once", action="store_true", help="run the checks once and end")
    common.add_language(watch)
    watch.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Watch until Ctrl-C; with --once, the exit status of that one check."""
    from autograder.student import home

    course = load()
    week, tasks = common.what(course, arguments.what)
    path = home.stub(course, week, arguments.file)
    seconds = home.seconds(arguments.seconds)
    from autograder.judge import runner as judge
    from autograder.judge.recorded import PUBLIC_SEED

    runner = judge.Runner(week, PUBLIC_SEED, [t.id for t in tasks], arguments.tier)
    status: list[int] = []

    def body() -> None:
        status.append(_Watch(runner, path, seconds, arguments.lang, arguments.poll, arguments.tier is None).run(arguments.once))

    home.inside(runner, body)
    return status[0]


class _Watch:
    def __init__(self, runner: Runner, path: Path, seconds: float | None, lang: Lang, poll: bool, whole: bool) -> None:
        self._whole = whole  # every tier: what is seen then is remembered
        self._runner, self._path, self._seconds, self._lang = runner, path, seconds, lang
        self._poll = poll or _is_remote(path.parent)
        self._course = _course_files(runner.week)

    def run(self, once: bool) -> int:
        seen = _contents(self._path)
        with _changes(self._path.parent, self._poll) as wait:
            while True:
                status = self._check()
                if once:
                    return status
                print(self._say("waiting for you to save; Ctrl-C ends", "等待保存文件；按 Ctrl-C 结束"), flush=True)
                seen = self._next(seen, wait)

    def _next(self, seen: str | None, wait: Callable[[], None]) -> str | None:
        """Return when the student's files are others than those seen, and there."""
        gone = 0.0
        while True:
            if _course_files(self._runner.week) != self._course:
                raise UserError(self._say("the course's files changed: start watch again", "课程文件已改变：请重新启动 watch"))
            now = _contents(self._path)
            while now != seen and now != (again := _settled(self._path)):
                now = again
            if now is not None and now != seen:
                return now
            if now is None:  # an editor that writes by renaming is done in a moment
                gone = gone or time.monotonic()
                if 0 < gone < time.monotonic() - _GONE_SECONDS:
                    print(
                        self._say(f"{self._path.name} is gone; waiting for it", f"{self._path.name} 不见了；等待它回来"),
                        flush=True,
                    )
                    gone = float("inf")
            else:
                gone = 0.0
            wait()

    def _check(self) -> int:
        """Check once and show the result; returns the exit status that `check` would have."""
        from autograder.report import print_check
        from autograder.student import home

        if sys.stdout.isatty():
            print(_CLEAR, end="")
        try:
            home.hides_nothing(self._path)
            home.parses(self._path)
        except home.HomeError as problem:
            print(f"autograder: {texts.refusal(str(problem), self._lang)}")
            return 2
        seen = progress.digest(self._runner.week)
        with restored(self._path.parent) as notes:
            runs = self._runner.run(home.loopback(self._path, self._seconds))
        if self._whole:
            progress.record(self._runner.week, runs, self._path, seen)
        status = print_check(self._runner.week, runs, self._path, self._lang)
        for note in notes:
            print(texts.refusal(note, self._lang))
        if status == 0 and len(runs) == len(self._runner.week.tasks):
            print(self._say("everything passes", "全部通过"))
        return status

    def _say(self, en: str, zh: str) -> str:
        return zh if self._lang == "zh" else en


# --- what changed ---


def _contents(path: Path) -> str | None:
    """A digest of the stub file and the .py files beside it, by time and contents; None while the stub is not there."""
    sha = hashlib.sha256()
    try:
        files = sorted(entry.name for entry in os.scandir(path.parent) if entry.name.endswith(".py"))
        if path.name not in files:
            return None
        for name in files:
            file = path.parent / name
            with contextlib.suppress(OSError):  # a helper that an editor is just replacing
                sha.update(f"{name}\0{file.stat().st_mtime_ns}\0".encode() + file.read_bytes() + b"\0")
    except OSError:
        return None
    return sha.hexdigest()


def _settled(path: Path) -> str | None:
    """The contents a moment later, or a longer one while the file is empty, as one that is written anew is at first."""
    for _ in range(_EMPTY_MOMENTS):
        time.sleep(_SETTLE_SECONDS)
        with contextlib.suppress(OSError):
            if path.stat().st_size:
                break
    return _contents(path)


def _course_files(week: Week) -> list[tuple[str, int, int]]:
    """The files that decide what a check says, with their times and sizes."""
    from autograder.judge.runner import CHECKS, ROOT, reference_stub

    package = ROOT / "autograder"
    files = [
        *package.glob("*.py"),
        *package.glob("judge/*.py"),
        *package.glob("inside/*.py"),
        *(CHECKS / week.folder).glob("*.py"),
    ]
    files += [ROOT / "course" / "course.toml", package / "recorded" / f"{week.folder}.zip", reference_stub(week)]
    found = []
    for path in sorted(files):
        with contextlib.suppress(OSError):
            at = path.stat()
            found.append((str(path), at.st_mtime_ns, at.st_size))
    return found


@contextlib.contextmanager
def _changes(folder: Path, poll: bool) -> Iterator[Callable[[], None]]:
    """A function that returns when something in the folder may have changed: at once where the system tells, else soon."""
    try:
        if poll:
            raise ImportError
        from watchfiles import watch
    except ImportError:
        yield lambda: time.sleep(_POLL_SECONDS)
        return
    # What it tells is a hint and no more: contents are compared, and once a second even if it tells nothing.
    told = watch(folder, recursive=False, step=10, rust_timeout=_LOOK_MS, yield_on_timeout=True, watch_filter=None)
    try:
        yield lambda: _hint(told)
    finally:
        told.close()


def _hint(told: Any) -> None:
    try:
        next(told)
    except (OSError, RuntimeError, StopIteration):  # the folder itself was replaced, or the system has no watches left
        time.sleep(_POLL_SECONDS)


def _is_remote(folder: Path) -> bool:
    """Whether a folder lies on a network's or a host's file system, as far as this system tells."""
    try:
        return _file_system(folder, Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")).startswith(
            _REMOTE
        )
    except OSError:
        return False


def _file_system(folder: Path, mounts: str) -> str:
    """The kind of the file system that a folder lies on, of what the kernel lists in mountinfo."""
    best, kind = "", ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), left.split()[4])
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


# --- what a run leaves behind ---


@contextlib.contextmanager
def restored(folder: Path) -> Iterator[list[str]]:
    """Undo what student code does to the process, so that the next run finds it as a new process would.

    Functions and classes of torch, NumPy and some of Python's modules get back their places, and so do torch's defaults, global
    hooks, warning filters, the import path, the environment and the current folder. The list gets a line for what stays.
    """
    own_builtins = builtins.__dict__.copy()
    kept = [(owner, dict(vars(owner))) for owner in _owners()]
    undo = contextlib.ExitStack()
    undo.callback(os.chdir, os.getcwd())
    undo.callback(setattr, sys, "path", [*sys.path])
    undo.callback(setattr, sys, "meta_path", [*sys.meta_path])
    for name in ("stdin", "stdout", "stderr", "excepthook", "displayhook"):
        undo.callback(setattr, sys, name, getattr(sys, name))
    undo.callback(sys.setrecursionlimit, sys.getrecursionlimit())
    undo.callback(_restore_environment, dict(os.environ))
    undo.enter_context(warnings.catch_warnings())
    modules = set(sys.modules)
    threads = set(threading.enumerate())
    _keep_libraries(undo)
    notes: list[str] = []
    try:
        yield notes
    finally:
        builtins.__dict__.update(own_builtins)  # first, and without a call of any of them
        for owner, before in kept:
            _put_back(owner, before)
        undo.close()
        for name in set(sys.modules) - modules:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder) + os.sep):
                del sys.modules[name]
        if left := [thread.name for thread in threading.enumerate() if thread not in threads and not thread.daemon]:
            notes.append(f"your code left a thread running ({left[0]}): it may disturb the next run; start watch again")


def _owners() -> Iterator[Any]:
    """Modules and classes in which student code may replace something."""
    for name in _OWNERS:
        module = sys.modules.get(name)
        if module is not None:
            yield module
            if name.startswith("torch"):
                yield from {value for value in list(vars(module).values()) if isinstance(value, type)}


def _put_back(owner: Any, before: dict[str, Any]) -> None:
    now = vars(owner)
    for name, value in before.items():
        if now.get(name) is not value and callable(value):  # data may be a library's own, such as a cache
            with contextlib.suppress(AttributeError, TypeError):
                setattr(owner, name, value)
    if isinstance(owner, type):  # to a module, an import may have added a submodule
        for name in set(now) - set(before):
            with contextlib.suppress(AttributeError, TypeError):
                if callable(now[name]) and not name.startswith("__"):
                    delattr(owner, name)


def _restore_environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _keep_libraries(undo: contextlib.ExitStack) -> None:
    import numpy as np

    undo.callback(lambda state: np.seterr(**state), np.geterr())
    torch = sys.modules.get("torch")
    if torch is None:
        return
    undo.callback(torch.set_default_dtype, torch.get_default_dtype())
    undo.callback(torch.set_grad_enabled, torch.is_grad_enabled())
    undo.callback(torch.set_num_threads, torch.get_num_threads())
    undo.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
    if getattr(torch, "get_default_device", None) is not None:
        before = torch.get_default_device()
        undo.callback(lambda: torch.get_default_device() == before or torch.set_default_device(before))
    for name, hooks in vars(torch.nn.modules.module).items():
        if name.startswith("_global_") and isinstance(hooks, dict):
            undo.callback(hooks.update, dict(hooks))
            undo.callback(hooks.clear)
