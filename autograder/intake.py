"""Reading what students handed in: regular files only, within caps, as bytes. Nothing here executes or trusts them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from autograder import UserError
from autograder.manifest import Week

MAX_NOTEBOOK = 32 << 20
MAX_ARCHIVE = 64 << 20
_DEPTH = 4
_ENTRIES = 20_000
_NOTICES = 100
_DAMAGES = (
    zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError, IndexError, OverflowError, struct.error,
    zlib.error,
)  # fmt: skip
# Notebooks are run by autograder/grading/labrun.py, and timestamp.txt is nbgrader's: neither is a part of the code.
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


def students(root: Path, week: Week) -> list[tuple[str, Path]]:
    """The students' folders below `root`, and zip files of students without one, by name.

    `ada.zip` and `week04-ada.zip`, as `autograder submit` calls it, are ada's.

    Raises:
        IntakeError: if there is none.
    """
    found, _ = _scan(root, week)
    if not found:
        wanted = f"{root}/<student>/[{week.folder}/]files or {root}/<student>.zip"
        raise IntakeError(f"{root} holds no student's folder or zip file; expected {wanted}")
    return found


def strays(root: Path, week: Week) -> list[str]:
    """One line for each thing in `root` that is no student's submission, and so is not graded."""
    return _scan(root, week)[1]


def _scan(root: Path, week: Week) -> tuple[list[tuple[str, Path]], list[str]]:
    try:
        with os.scandir(root) as scan:
            entries = sorted((entry for entry in scan if not hidden(entry.name)), key=lambda e: e.name)
    except OSError as error:
        raise IntakeError(f"{root}: {error.strerror}; name the folder that holds one folder a student") from None
    found = {entry.name: Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)}
    folders, lines = set(found), []
    for entry in entries:
        if entry.name in folders:
            continue
        shown = clean(entry.name)
        if entry.is_symlink():
            lines.append(f"{shown}: not graded, a symlink")
        elif not _is_zip(entry.name) or not entry.is_file(follow_symlinks=False):
            lines.append(f"{shown}: not graded, not a folder")
        elif (student := archive_student(entry.name, week)) in found:
            kept = found[student].name if student not in folders else f"the folder {student}"
            lines.append(f"{shown}: not graded, {clean(kept)} counts")
        else:
            found[student] = Path(entry.path)
    return sorted(found.items()), lines


def archive_student(name: str, week: Week) -> str:
    """Whose a zip file is, by its name."""
    stem = name[: -len(".zip")]
    rest = stem.removeprefix(f"{week.folder}-")
    return rest if rest.strip(". ") else stem  # "week04-...zip" is not the folder above


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


def read(student: str, place: Path, week: Week) -> Submission:
    """Read what one student handed in: a folder, or a zip file with the same in it.

    Of a folder, its week's subfolder is read where there is one: `weekNN`, or in a clone `exercises/weekNN`. A folder that
    holds a zip file and nothing else stands for that file.
    """
    if not _is_folder(place):
        return _read_zip(student, place, week)
    files: dict[str, bytes] = {}
    notices: list[str] = []
    limits = week.limits
    total = 0
    folder = _inner(place, week)
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        return Submission(student, problem=f"the folder cannot be read: {error.strerror}")
    try:
        if archive := _only_archive(directory, week):
            return _read_zip(student, folder / archive, week)
        for name, kind, parent in _walk(directory, "", 0):
            shown = clean(name)
            if kind != "file":
                notices.append(f"{shown}: left out, {kind}")
                continue
            if len(files) == limits.files:
                notices.append(f"only the first {limits.files} files were taken")
                break
            data = _read_file(name.rpartition("/")[2], parent, limits.file_kib << 10)
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


def _read_zip(student: str, place: Path, week: Week) -> Submission:
    data = _read_file(place, None, MAX_ARCHIVE)
    if isinstance(data, str):
        return Submission(student, problem=f"{clean(place.name)} cannot be used: {data}")
    return read_archive(student, data, week, place.name)


def _inner(folder: Path, week: Week) -> Path:
    for parts in ([week.folder], ["exercises", week.folder]):
        inner = [folder.joinpath(*parts[: count + 1]) for count in range(len(parts))]
        if all(map(_is_folder, inner)):  # no link on the way
            return inner[-1]
    return folder


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _only_archive(directory: int, week: Week) -> str | None:
    """The zip file of a folder that holds no other code: the only one, or the only one of this week."""
    with os.scandir(directory) as scan:
        entries = [entry for entry in scan if not hidden(entry.name)]
    if not all(_is_zip(entry.name) and entry.is_file(follow_symlinks=False) for entry in entries):
        return None
    names = [entry.name for entry in entries]
    own = [name for name in names if re.match(rf"{week.folder}(\W|_|$)", name[: -len(".zip")])]
    return own[0] if len(own) == 1 else names[0] if len(names) == 1 else None


def notebook(place: Path, week: Week) -> bytes | str:
    """The bytes of the notebook that a student handed in, or why there are none, in one line for the student.

    Links are not followed, of folders either.
    """
    name = f"{week.folder}.ipynb"
    if not _is_folder(place):
        return _notebook_of_zip(place, week)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_DIRECTORY
    with contextlib.ExitStack() as stack:
        try:
            folder, directory = place, os.open(place, flags)
            stack.callback(os.close, directory)
            if week.folder in os.listdir(directory):
                folder, directory = place / week.folder, os.open(week.folder, flags, dir_fd=directory)
                stack.callback(os.close, directory)
            if name not in os.listdir(directory):
                archive = _only_archive(directory, week)
                return _notebook_of_zip(folder / archive, week) if archive else f"{name} was not handed in"
        except OSError:
            return f"{name} cannot be read: hand in the file itself"
        data = _read_file(name, directory, MAX_NOTEBOOK)
    return data if isinstance(data, bytes) else _no_notebook(name, data)


def _notebook_of_zip(place: Path, week: Week) -> bytes | str:
    data = _read_file(place, None, MAX_ARCHIVE)
    return data if isinstance(data, str) else notebook_in(data, week)


def _no_notebook(name: str, why: str) -> str:
    if "at most" in why or "is over" in why:
        return f"{name} is larger than {MAX_NOTEBOOK >> 20} MiB: clear its outputs and hand it in again"
    return f"{name} cannot be read: hand in the file itself"


# --- zip files ---


class ArchiveError(ValueError):
    """A zip file cannot be opened; the text says why, in a few words."""


class Archive:
    """A zip file in memory. Nothing of it is unpacked to a disk, and nothing before its size is known to be within a limit.

    Attributes:
        names: the regular files in it by path, in order. One folder around everything, as most systems pack it, is left off.
        notices: what is left out and why, a line each.

    Args:
        data: the file's bytes.

    Raises:
        ArchiveError: if it is no zip file, damaged, or has too long a table of contents.
    """

    def __init__(self, data: bytes) -> None:
        if data.count(b"PK\x01\x02") > _ENTRIES:  # before zipfile makes an object of each
            raise ArchiveError("it holds too many files")
        try:
            self._archive = zipfile.ZipFile(io.BytesIO(data))
        except _DAMAGES:
            raise ArchiveError("it is no zip file, or damaged") from None
        self.notices: list[str] = []
        members: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():
            parts = re.split(r"[/\\]", info.filename)
            if info.filename.endswith("/") or any(_ignored(part) for part in parts if part not in (".", "..")):
                continue
            why = _odd(info)
            if not why and info.filename in members:
                why = "there is another file of that name before it"
            if why:
                self._leave_out(info.filename, why)
            else:
                members[info.filename] = info
        folders = {name[:at] for name in members for at, c in enumerate(name) if c == "/"}
        for name in sorted(folders & set(members)):
            self._leave_out(name, "there is a folder of that name")
            del members[name]
        first = {name.partition("/")[0] for name in members}
        wrapper = f"{first.pop()}/" if len(first) == 1 and all("/" in name for name in members) else ""
        self._members = {name[len(wrapper) :]: info for name, info in members.items()}
        self.names = sorted(self._members)

    def within(self, week: Week) -> str:
        """What the names of a week's files begin with: its folder, where there is one, as in a folder that is handed in."""
        for prefix in (f"{week.folder}/", f"exercises/{week.folder}/"):
            if any(name.startswith(prefix) for name in self.names):
                return prefix
        return ""

    def read(self, name: str, most: int) -> bytes | str:
        """A file's bytes, at most so many, or why there are none."""
        info = self._members[name]
        if info.file_size > most:
            return _too_large(info.file_size, most)
        try:
            with self._archive.open(info) as file:
                data = file.read(most + 1)
        except _DAMAGES:
            return "it is damaged"
        return data if len(data) <= most else f"it is over {most >> 10} KiB"

    def _leave_out(self, name: str, why: str) -> None:
        if len(self.notices) < _NOTICES:
            self.notices.append(f"{clean(name)}: left out, {why}")


def _odd(info: zipfile.ZipInfo) -> str | None:
    """Why an entry of a zip file is not taken, or None."""
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
    parts = name.split("/")
    if "\\" in name:
        return "its name has a backslash"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "its name is an absolute path"
    if any(part in ("", ".", "..") for part in parts):
        return "its name leads elsewhere"
    if not name.isprintable() or len(name.encode("utf-8", "replace")) > 400 or any(len(part.encode()) > 200 for part in parts):
        return "its name is too long or cannot be shown"
    if len(parts) > _DEPTH + 2:  # a folder around everything is no part of the depth
        return "it is in a folder too deep inside others"
    if stat.S_ISLNK(info.external_attr >> 16) or kind == stat.S_IFLNK:
        return "it is a symlink (hand in the file itself)"
    if kind not in (0, stat.S_IFREG):
        return "it is neither a file nor a folder"
    if info.flag_bits & 0x41:
        return "it is encrypted (pack it without a password)"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is packed in an unusual way (use an ordinary zip program)"
    if _is_zip(name):
        return "it is a zip file inside the zip file"
    return None


def read_archive(student: str, data: bytes, week: Week, name: str) -> Submission:
    """Read a zip file as `read` reads a folder, within the same limits.

    Args:
        name: the file's, for messages.
    """
    try:
        archive = Archive(data)
    except ArchiveError as error:
        line = f"{clean(name)} cannot be opened ({error}): make it again with `autograder submit {week.number}`"
        return Submission(student, problem=line)
    limits, prefix = week.limits, archive.within(week)
    files: dict[str, bytes] = {}
    notices = [*archive.notices]
    left = limits.total_kib << 10
    inner = [path for path in archive.names if path.startswith(prefix)]
    for path in [path for path in inner if not any(hidden(part) for part in path[len(prefix) :].split("/"))][: 2 * limits.files]:
        short = path[len(prefix) :]
        if len(files) == limits.files:
            notices.append(f"only the first {limits.files} files were taken")
            break
        found = archive.read(path, limits.file_kib << 10)
        if isinstance(found, str):
            notices.append(f"{clean(short)}: left out, {found}")
        elif len(found) > left:
            notices.append(f"{clean(short)}: left out, all files together are over {limits.total_kib} KiB")
        else:
            left -= len(found)
            files[short] = found
    return Submission(student, files, _problem(week, files, notices), tuple(notices))


def notebook_in(data: bytes, week: Week) -> bytes | str:
    """The notebook of a zip file, as `notebook` finds it in a folder."""
    name = f"{week.folder}.ipynb"
    try:
        archive = Archive(data)
    except ArchiveError as error:
        return f"the zip file cannot be opened ({error})"
    inner = f"{week.folder}/" if any(path.startswith(f"{week.folder}/") for path in archive.names) else ""
    if inner + name not in archive.names:
        return f"{name} was not handed in"
    found = archive.read(inner + name, MAX_NOTEBOOK)
    return found if isinstance(found, bytes) else _no_notebook(name, found)


def printable(text: str) -> str:
    """A text of a student's, safe in a page or on a terminal: no control or format characters."""
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def clean(text: str) -> str:
    """A name or text of a student's, safe in one line, and short."""
    text = printable(text)
    return text if len(text) <= 200 else text[:200] + "..."


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of the code that is handed in."""
    return _ignored(name) or name.endswith(".ipynb")


def _ignored(name: str) -> bool:
    return name.startswith(".") or name in _IGNORED or name.endswith(".receipt.json")


def _walk(directory: int, prefix: str, depth: int) -> Iterator[tuple[str, str, int]]:
    """(relative path, what it is, descriptor of its folder); never follows a link, never leaves the folder."""
    with os.scandir(directory) as scan:
        entries = sorted(scan, key=lambda e: e.name)
    for entry in entries:
        name = prefix + entry.name
        if hidden(entry.name):
            continue
        if entry.is_symlink():
            yield name, "it is a symlink (hand in the file itself)", directory
        elif entry.is_dir(follow_symlinks=False):
            if depth == _DEPTH:
                yield name, "it is a folder too deep inside others", directory
                continue
            if prefix + entry.name and entry.name.endswith(".py"):
                yield name, "it is a folder, not a file", directory
            try:
                inner = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            except OSError as error:
                yield name, f"it is a folder that cannot be read ({error.strerror})", directory
                continue
            try:
                yield from _walk(inner, name + "/", depth + 1)
            finally:
                os.close(inner)
        elif entry.is_file(follow_symlinks=False):
            yield name, "file", directory
        else:
            yield name, "it is neither a file nor a folder", directory


def _read_file(name: str | Path, directory: int | None, most: int) -> bytes | str:
    """The contents, at most so many bytes, or why there are none."""
    try:
        # The entry may have changed since it was listed: what is opened decides, and a FIFO must not block.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "it is not a regular file"
        if found.st_size > most:
            return _too_large(found.st_size, most)
        data = file.read(most + 1)
    return data if len(data) <= most else f"it is over {most >> 10} KiB"


def _too_large(size: int, most: int) -> str:
    return f"it has {size / 2**20:.1f} MiB (at most {most >> 10} KiB)"


def unreadable(name: str, data: bytes) -> str | None:
    """Why a stub file's contents cannot be a Python file, in one line, or None."""
    if not data.strip():
        return f"{name} is empty: hand in the completed file"
    if b"\0" in data:
        return f"{name} is not a Python file (it holds binary data)"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8"
    return None


def _problem(week: Week, files: dict[str, bytes], notices: list[str]) -> str | None:
    stub = week.stub
    if stub in files:
        return unreadable(stub, files[stub])
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
