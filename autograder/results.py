"""The results of a run: one schema, one line of JSON a student, the source of truth for everything that is made of them.

Documented in docs/results.md.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

from autograder import UserError

SCHEMA = 1
_LOCK_TRIES = 20
Result = dict[str, Any]


class RunError(UserError):
    """The output folder cannot be used for this run; the text is one line that says what to do."""


class Place(NamedTuple):
    """Where a result stands in its file, and what decides whether it still holds."""

    key: str
    status: str
    start: int
    size: int


class Lines(Sequence[Result]):
    """Results that stay in their file: each is read when it is asked for, so a class of any size fits in memory.

    The file stays open: what a later run puts in its place changes nothing here.
    """

    def __init__(self, file: BinaryIO, places: list[Place]) -> None:
        self._file, self._places = file, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> Lines: ...
    def __getitem__(self, index: int | slice) -> Result | Lines:
        if isinstance(index, slice):
            return Lines(self._file, self._places[index])
        result: Result = json.loads(_at(self._file, self._places[index]))
        return result


class Store:
    """The output folder of one run. Only one process may hold it, and a result is in it whole or not at all.

    It keeps in memory where each result stands, not the results.

    Args:
        folder: made if missing.
        run: what identifies the run; written before the first result and compared when the run goes on.

    Raises:
        RunError: here and in every method, if the folder holds another run or cannot be written.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self.run = run
        known = read_run(folder)
        if known is not None:
            # A changed check or manifest means new results; another seed, week or level means another run.
            for name in ("week", "seed", "isolation"):
                if known.get(name) != run[name]:
                    held = known.get(name)
                    raise RunError(f"{folder} holds a run with {name} {held}: pass another --out, or --{name} {held}")
        with writing(folder):
            replace(folder / "run.json", json.dumps(run, indent=2) + "\n")
            self._places = dict(_read_places(self.path, run["week"]))

    def __contains__(self, student: str) -> bool:
        return student in self._places

    def holds(self, student: str, key: str) -> bool:
        """Whether the student is graded, and by this very key."""
        place = self._places.get(student)
        return place is not None and place.key == key and place.status == "graded"

    def add(self, result: Result) -> None:
        """Append one result and see it to the disk."""
        with writing(self.folder):
            start, size = append(self.path, result)
        self._places[result["student"]] = Place(result["key"], result["status"], start, size)

    def finish(self, students: list[str]) -> Lines:
        """Rewrite results.jsonl with one line for each of these students, in this order, and grades.csv."""
        names = [student for student in students if student in self._places]
        with writing(self.folder):
            if names:
                with open(self.path, "rb") as file:
                    replace(self.path, (_at(file, self._places[name]) for name in names))
            else:
                replace(self.path, "")
            start = 0
            for name in names:
                self._places[name] = self._places[name]._replace(start=start)
                start += self._places[name].size
            self._places = {name: self._places[name] for name in names}
            lines = Lines(open(self.path, "rb"), list(self._places.values()))  # noqa: SIM115
            replace(self.folder / "grades.csv", grades_csv(lines))
        return lines


def append(path: Path, result: Result) -> tuple[int, int]:
    """Append one line and see it to the disk; returns where it starts, and its size in bytes."""
    data = line(result).encode()
    with open(path, "a+b", buffering=0) as file:
        # A line that a killed run left half written is ended, so that it cannot swallow this one.
        end = file.seek(0, os.SEEK_END)
        torn = bool(end) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        view = memoryview(b"\n" * torn + data)
        try:
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        except OSError:  # a full disk, say: whole or not at all
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
    return end + torn, len(data)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make one line of what the disk refuses meanwhile.

    Raises:
        RunError: if something cannot be written.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(f"{folder} cannot be written ({why}): make room or mend it, then run the same command again") from None


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json of an output folder, or None where there is no run yet."""
    try:
        run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if not isinstance(run, dict) or not isinstance(run.get("seed", 0), int):
            raise ValueError("it describes no run")
        return run
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{folder}/run.json cannot be read ({error}): name another folder") from None


def read(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    """run.json and every result of an output folder, by student; nothing of them is taken on trust.

    Raises:
        RunError: if there are none, or they are not what docs/results.md says.
    """
    run, path = read_run(folder), folder / "results.jsonl"
    if run is None or not path.is_file():
        raise RunError(f"{folder} holds no results: name the folder that was the --out of `autograder grade`")
    if not isinstance(run, dict) or type(run.get("week")) is not int or not isinstance(run.get("isolation"), str):
        raise RunError(f"{folder}/run.json does not say which run this is: name another folder")
    found: dict[str, Result] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            result = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError):
            result = None
        if not _is_result(result) or result["week"] != run["week"]:
            raise RunError(f"{path}, line {number} is no result of this run: run the same `autograder grade` again")
        found[result["student"]] = result
    return run, [found[student] for student in sorted(found)]


def read_labs(folder: Path) -> dict[str, Result]:
    """The lines of notebooks.jsonl by student; none if there is no such file.

    Raises:
        RunError: if a line is not one of labrun's.
    """
    path = folder / "notebooks.jsonl"
    if not path.is_file():
        return {}
    found: dict[str, Result] = {}
    # Of bytes: str.splitlines also ends a line at U+2028 or U+0085, which a student's name may hold.
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            lab = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError):
            lab = None
        if not isinstance(lab, dict) or not isinstance(lab.get("student"), str) or not isinstance(lab.get("questions"), list):
            raise RunError(f"{path}, line {number} is no result of a notebook: run the same `autograder grade --notebooks` again")
        found[lab["student"]] = lab
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an output folder for this process.

    Raises:
        RunError: if another run holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None
    try:
        for left in reversed(range(_LOCK_TRIES)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not left:
                    raise RunError(f"another run is writing to {folder}: wait for it, or pass another --out") from None
                time.sleep(0.1)  # the last processes of a killed run may still be ending
        yield
    finally:
        os.close(lock)


def grades_csv(results: Sequence[Result]) -> str:
    """One row a student: score, status, and the score of each task."""
    tasks = list(dict.fromkeys(task["id"] for result in results for task in result["tasks"]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["student", "week", "status", "score", "max_score", *tasks])
    for result in results:
        scores = {task["id"]: f"{task['score']:g}" for task in result["tasks"]}
        score = f"{result['score']:g}" if result["status"] == "graded" else ""
        row = [spreadsheet_safe(result["student"]), result["week"], result["status"], score, result["max_score"]]
        writer.writerow([*row, *(scores.get(task, "") for task in tasks)])
    return out.getvalue()


def spreadsheet_safe(text: str) -> str:
    """A cell that a spreadsheet shows and does not run: an apostrophe before = + - @ and their like.

    Also behind a semicolon, a tab or the end of a line: where Excel separates by semicolons, it cuts the cell there, and
    runs what comes next.
    """
    return ("'" if _FORMULA.match(text) else "") + _LATER_FORMULA.sub(r"\1'", text)


def line(result: Result) -> str:
    """A result as it stands in a file."""
    text = json.dumps(result, ensure_ascii=False) + "\n"
    for separator in "\x85\u2028\u2029":  # to many readers they end a line
        text = text.replace(separator, f"\\u{ord(separator):04x}")
    # A folder's name that is not UTF-8 arrives with surrogates, which only an escape can carry.
    return text if text.isascii() or _encodable(text) else json.dumps(result) + "\n"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_SIGNS = "[=+\\-@\uff1d\uff0b\uff0d\uff20|%]"
_FORMULA, _LATER_FORMULA = re.compile(f"[ \\t\\r\\n\\0]*{_SIGNS}"), re.compile(f"([;\\t\\r\\n][ \\0]*)(?={_SIGNS})")
_NUMBER = (int, float)
_FIELDS: dict[str, Any] = {"student": str, "week": int, "message": str, "tasks": list, "max_score": _NUMBER}
_TASK_FIELDS: dict[str, Any] = {"id": str, "score": _NUMBER, "max_score": _NUMBER, "checks": list}
_CHECK_FIELDS: dict[str, Any] = {
    "name": str,
    "property": str,
    "weight": _NUMBER,
    "gate": bool,
    "misconception": (str, type(None)),
}
_TASK_STATUSES = ("passed", "partial", "failed", "unattempted", "error", "timeout")
_CHECK_STATUSES = ("passed", "wrong", "error", "unattempted", "timeout", "crash")


def _is_result(value: Any) -> bool:
    """Whether a line has the fields that are read of it."""

    def has(part: Any, fields: dict[str, Any], statuses: tuple[str, ...]) -> bool:
        right = isinstance(part, dict) and all(isinstance(part.get(name, ...), kind) for name, kind in fields.items())
        return right and part.get("status") in statuses

    return (
        has(value, _FIELDS, ("graded", "ungraded"))
        and value.get("schema") == SCHEMA
        and (value["status"] == "ungraded" or isinstance(value.get("score"), _NUMBER))
        and all(has(task, _TASK_FIELDS, _TASK_STATUSES) for task in value["tasks"])
        and all(has(c, _CHECK_FIELDS, _CHECK_STATUSES) and c["weight"] > 0 for task in value["tasks"] for c in task["checks"])
    )


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _read_places(path: Path, week: int) -> Iterator[tuple[str, Place]]:
    """The whole results in a file, in its order; what is none is passed over, and graded again."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        start = 0
        for data in file:
            with contextlib.suppress(ValueError, RecursionError):  # half a line of a killed run, or anything else
                result = json.loads(data, parse_constant=_refuse)
                if data.endswith(b"\n") and _is_result(result) and result["week"] == week and isinstance(result.get("key"), str):
                    yield result["student"], Place(result["key"], result["status"], start, len(data))
            start += len(data)


def _at(file: BinaryIO, place: Place) -> bytes:
    return os.pread(file.fileno(), place.size, place.start)


def replace(path: Path, text: str | Iterable[bytes]) -> None:
    """Write a file so that a reader sees the old contents or the new, never a part.

    Args:
        text: or its parts, as bytes.
    """
    temporary = path.with_name(f".{path.name}.new")
    parts = [text.encode("utf-8", "surrogateescape")] if isinstance(text, str) else text
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
