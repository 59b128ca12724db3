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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autograder import UserError

SCHEMA = 1
_LOCK_TRIES = 20
Result = dict[str, Any]


class RunError(UserError):
    """The output folder cannot be used for this run; the text is one line that says what to do."""


class Store:
    """The output folder of one run. Only one process may hold it, and a result is in it whole or not at all.

    Args:
        folder: made if missing.
        run: what identifies the run; written before the first result and compared when the run goes on.
    """

    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self.results: dict[str, Result] = {}
        for student, result in _read_lines(self.path):
            self.results[student] = result
        self.run = run
        known = read_run(folder)
        if known is not None:
            # A changed check or manifest means new results; another seed, week or level means another run.
            for name in ("week", "seed", "isolation"):
                if known.get(name) != run[name]:
                    held = known.get(name)
                    raise RunError(f"{folder} holds a run with {name} {held}: pass another --out, or --{name} {held}")
        replace(folder / "run.json", json.dumps(run, indent=2) + "\n")

    def add(self, result: Result) -> None:
        """Append one result and see it to the disk."""
        append(self.path, result)
        self.results[result["student"]] = result

    def finish(self, students: list[str]) -> list[Result]:
        """Rewrite results.jsonl with one line for each of these students, in this order, and grades.csv."""
        results = [self.results[s] for s in students if s in self.results]
        replace(self.path, "".join(map(line, results)))
        replace(self.folder / "grades.csv", grades_csv(results))
        return results


def append(path: Path, result: Result) -> None:
    """Append one line and see it to the disk."""
    with open(path, "a+b") as file:
        # A line that a killed run left half written is ended, so that it cannot swallow this one.
        if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
        file.write(line(result).encode())
        file.flush()
        os.fsync(file.fileno())


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json of an output folder, or None where there is no run yet."""
    try:
        run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
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


def grades_csv(results: list[Result]) -> str:
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


def _read_lines(path: Path) -> Iterator[tuple[str, Result]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line of a killed run: graded again
            result = json.loads(line)
            if result["schema"] == SCHEMA and isinstance(result["key"], str):
                yield str(result["student"]), result


def replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old contents or the new, never a part."""
    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "w", encoding="utf-8", newline="", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
