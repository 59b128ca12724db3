"""Reading what students handed in: regular files only, within caps, as bytes. Nothing here executes or trusts them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autograder import UserError
from autograder.manifest import Limits, Week

_DEPTH = 4
# Notebooks are run by autograder/labrun.py, and timestamp.txt is nbgrader's: neither is a part of the code.
_IGNORED = {"__pycache__", ".ipynb_checkpoints", ".DS_Store", "__MACOSX", ".git", "timestamp.txt"}


class IntakeError(UserError):
    """The submissions as a whole cannot be read; the text is one line."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One student's files for one week.

    Attributes:
        student: the name of the folder.
        files: contents by relative path, with "/" between the parts.
        problem: why it cannot be run, in one line for the student; None when it can.
        notices: what was left out and why, a line each.
    """

    student: str
    files: dict[str, bytes] = field(default_factory=dict)
    problem: str | None = None
    notices: tuple[str, ...] = ()

    def digest(self) -> str:
        """sha256 over names and contents."""
        sha = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            for part in (name.encode("utf-8", "surrogateescape"), data):
                sha.update(len(part).to_bytes(8, "big") + part)
        sha.update(repr((self.problem, self.notices)).encode())
        return sha.hexdigest()


def students(root: Path) -> list[tuple[str, Path]]:
    """The students' folders below `root`, by name, and lines about what else lies there go to `strays`.

    Raises:
        IntakeError: if root is not a folder with at least one folder in it.
    """
    try:
        entries = sorted(os.scandir(root), key=lambda e: e.name)
    except OSError as error:
        raise IntakeError(f"{root}: {error.strerror}; name the folder that holds one folder a student") from None
    found = [(e.name, Path(e.path)) for e in entries if e.is_dir(follow_symlinks=False) and not _hidden(e.name)]
    if not found:
        raise IntakeError(f"{root} holds no student's folder; expected {root}/<student>/[week04/]files")
    return found


def strays(root: Path) -> list[str]:
    """One line for each thing in `root` that is not a student's folder, and so is not graded."""
    return [
        f"{clean(entry.name)}: not graded, {'a symlink' if entry.is_symlink() else 'not a folder'}"
        for entry in sorted(os.scandir(root), key=lambda e: e.name)
        if not entry.is_dir(follow_symlinks=False) and not _hidden(entry.name)
    ]


def read(student: str, folder: Path, week: Week) -> Submission:
    """Read one student's folder, or its week's subfolder where there is one: `weekNN`, or in a clone `exercises/weekNN`."""
    files: dict[str, bytes] = {}
    notices: list[str] = []
    limits = week.limits
    total = 0
    try:
        for parts in ([week.folder], ["exercises", week.folder]):
            inner = [folder.joinpath(*parts[: count + 1]) for count in range(len(parts))]
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if all(stat.S_ISDIR(path.lstat().st_mode) for path in inner):  # no link on the way
                    folder = inner[-1]
                    break
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        return Submission(student, problem=f"the folder cannot be read: {error.strerror}")
    try:
        for name, kind, parent in _walk(directory, "", 0):
            shown = clean(name)
            if kind != "file":
                notices.append(f"{shown}: left out, it is {kind}")
                continue
            if len(files) == limits.files:
                notices.append(f"only the first {limits.files} files were taken")
                break
            data = _read_file(name.rpartition("/")[2], parent, limits)
            if isinstance(data, str):
                notices.append(f"{shown}: left out, {data}")
            elif total + len(data) > limits.total_kib << 10:
                notices.append(f"{shown}: left out, all files together are over {limits.total_kib} KiB")
            else:
                total += len(data)
                files[name] = data
    finally:
        os.close(directory)
    problem = _problem(week, files, notices)
    return Submission(student, files, problem, tuple(notices))


def clean(text: str) -> str:
    """A name or text of a student's, safe in one line of a page or terminal: no control or format characters."""
    text = "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)
    return text if len(text) <= 200 else text[:200] + "..."


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _IGNORED or name.endswith(".ipynb")


def _walk(directory: int, prefix: str, depth: int) -> Iterator[tuple[str, str, int]]:
    """(relative path, what it is, descriptor of its folder); never follows a link, never leaves the folder."""
    with os.scandir(directory) as scan:
        entries = sorted(scan, key=lambda e: e.name)
    for entry in entries:
        name = prefix + entry.name
        if _hidden(entry.name):
            continue
        if entry.is_symlink():
            yield name, "a symlink (hand in the file itself)", directory
        elif entry.is_dir(follow_symlinks=False):
            if depth == _DEPTH:
                yield name, "a folder too deep inside others", directory
                continue
            if prefix + entry.name and entry.name.endswith(".py"):
                yield name, "a folder, not a file", directory
            try:
                inner = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            except OSError as error:
                yield name, f"a folder that cannot be read ({error.strerror})", directory
                continue
            try:
                yield from _walk(inner, name + "/", depth + 1)
            finally:
                os.close(inner)
        elif entry.is_file(follow_symlinks=False):
            yield name, "file", directory
        else:
            yield name, "neither a file nor a folder", directory


def _read_file(name: str, directory: int, limits: Limits) -> bytes | str:
    """The contents, or why there are none."""
    try:
        # The entry may have changed since it was listed: what is opened decides, and a FIFO must not block.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "it is not a regular file"
        if found.st_size > limits.file_kib << 10:
            return f"it has {found.st_size / 2**20:.1f} MiB (at most {limits.file_kib} KiB)"
        data = file.read((limits.file_kib << 10) + 1)
    return data if len(data) <= limits.file_kib << 10 else f"it is over {limits.file_kib} KiB"


def _problem(week: Week, files: dict[str, bytes], notices: list[str]) -> str | None:
    stub = week.stub
    if stub in files:
        data = files[stub]
        if not data.strip():
            return f"{stub} is empty: hand in the completed file"
        if b"\0" in data:
            return f"{stub} is not a Python file (it holds binary data)"
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"{stub} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        return None
    about = [line for line in notices if line.startswith(f"{stub}:")]
    if about:
        return f"{about[0]}; so there is nothing to run"
    if not files:
        return f"the folder is empty: {stub} is missing" if not notices else f"{stub} is missing"
    near = [n for n in files if n.lower().endswith(".py") and n.count("/") == 0] or sorted(files)
    elsewhere = [n for n in files if n.endswith("/" + stub)]
    if elsewhere:
        return f"{stub} is missing: it lies at {clean(elsewhere[0])}, and belongs at the top of the folder"
    return f"{stub} is missing: found {', '.join(clean(n) for n in near[:3])}; the name must be exactly {stub}"
