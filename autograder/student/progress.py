"""What a student's own checks and hints have shown so far: .autograder/progress.json in the course's folder.

It is feedback and never a mark: who edits it deceives nobody else. Written by `check` and `hint`, read by `status` and `start`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder import ROOT
from autograder.manifest import Week
from autograder.student import common

if TYPE_CHECKING:
    from autograder.judge.runner import TaskRun

UNCHECKED = "unchecked"
STATES = ("passed", "partial", "failed", "unattempted", "error", "timeout", UNCHECKED)
_SCHEMA = 1
_HINTS = 3
_warned = False


@dataclass(frozen=True)
class Entry:
    """What is known of one task.

    Attributes:
        share: of the task's points, from 0 to 1, at the last check.
        status: one of STATES; "unchecked" when so far only a hint was shown.
        failing: the name of the check that failed first, None when none did; one not yet attempted is no failure.
        misconception, misconception_zh: the likely misunderstanding, where one was recognised.
        digest: of the files when they were checked, see `digest`.
        hint: the highest stage of hint shown, 0 for none.
    """

    share: float = 0.0
    status: str = UNCHECKED
    failing: str | None = None
    misconception: str | None = None
    digest: str = ""
    hint: int = 0
    misconception_zh: str | None = None


def load() -> dict[str, Entry]:
    """The entries by task id; of a damaged or foreign file none, and it is renamed to progress.json.bad."""
    path = _file()
    try:
        return _parsed(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError):
        with contextlib.suppress(OSError):
            os.replace(path, path.with_name(f"{path.name}.bad"))
        return {}


def record(week: Week, runs: list[TaskRun], path: Path, seen: str | None = None) -> None:
    """Remember how a check of the week's own stub file came out; a check of any other file is not remembered.

    Args:
        runs: of a run with seed 0 and every tier.
        path: the file that was checked.
        seen: `digest(week)` from before the run, by who took it: the file may have been saved since.
    """
    from autograder.judge import scoring  # numpy, which whoever has runs has loaded

    if path.resolve() != (_folder(week) / week.stub).resolve():
        return
    entries, now = load(), digest(week) if seen is None else seen
    for run in runs:
        if run.outcomes:
            first = scoring.headline(run.outcomes)
            told = next((o for o in (*filter(None, [first]), *run.outcomes) if o.misconception), None)
            entries[run.task.id] = Entry(
                share=scoring.share(run.outcomes),
                status=scoring.status(run.outcomes),
                failing=first.name if first and first.kind != "unattempted" else None,
                misconception=told.misconception if told else None,
                misconception_zh=told.misconception_zh if told else None,
                digest=now,
                hint=entries.get(run.task.id, Entry()).hint,
            )
    _write(entries)


def hinted(task_id: str, stage: int) -> None:
    """Remember that this stage of a task's hints was shown."""
    entries = load()
    entry = entries.get(task_id, Entry())
    if stage > entry.hint:
        _write(entries | {task_id: replace(entry, hint=stage)})


def forget(task_ids: Sequence[str]) -> None:
    """The code of these tasks is gone: what their checks showed is, too; the hints that were shown stay known."""
    entries = load()
    gone = {task: Entry(hint=entries[task].hint) for task in task_ids if task in entries}
    if gone:
        _write(entries | gone)


def digest(week: Week) -> str:
    """sha256 over the week's stub file and the .py files beside it, by name; "" without a stub file."""
    folder, sha = _folder(week), hashlib.sha256()
    if not (folder / week.stub).is_file():
        return ""
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if not any(part.startswith(".") for part in name.parts):  # backups, editors' files
            with contextlib.suppress(OSError):
                data = path.read_bytes()
                sha.update(f"{name.as_posix()}\0{len(data)}\0".encode("utf-8", "surrogateescape") + data)
    return sha.hexdigest()


def _file() -> Path:
    return ROOT / ".autograder" / "progress.json"


def _folder(week: Week) -> Path:
    return ROOT / "exercises" / week.folder


def _parsed(data: bytes) -> dict[str, Entry]:
    """The entries in a file's bytes.

    Raises:
        ValueError: if this module did not write them.
    """
    raw = json.loads(data)
    if not isinstance(raw, dict) or raw.get("schema") != _SCHEMA or not isinstance(raw.get("tasks"), dict):
        raise ValueError("not a progress file")
    return {task: _entry(fields) for task, fields in raw["tasks"].items()}


def _entry(fields: Any) -> Entry:
    names = ("share", "status", "failing", "misconception", "digest", "hint", "misconception_zh")
    share, status, failing, misconception, sha, hint, zh = (fields.get(n) if isinstance(fields, dict) else None for n in names)
    if (
        not isinstance(share, int | float)
        or not 0 <= share <= 1  # nor not a number
        or not isinstance(status, str)
        or status not in STATES
        or not isinstance(failing, str | None)
        or not isinstance(misconception, str | None)
        or not isinstance(zh, str | None)
        or not isinstance(sha, str)
        or not isinstance(hint, int)
        or not 0 <= hint <= _HINTS
    ):
        raise ValueError("not an entry")
    return Entry(float(share), status, failing, misconception, sha, int(hint), zh)


def _write(entries: dict[str, Entry]) -> None:
    """Write the file whole or not at all; where nothing can be written, say so once and go on."""
    global _warned
    # Only runs with the public seed and all tiers are recorded; the file says so for who reads it.
    tasks = {task: asdict(entry) | {"seed": 0, "tier": None} for task, entry in sorted(entries.items())}
    path, name = _file(), ""
    try:
        import tempfile  # and with it `random`, which a student's file may hide: `check` says so before

        path.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix="progress-", suffix=".tmp")
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            json.dump({"schema": _SCHEMA, "tasks": tasks}, file, ensure_ascii=True, indent=1)
        os.replace(name, path)
    except OSError as error:
        if name:
            with contextlib.suppress(OSError):
                os.unlink(name)
        if not _warned:
            why = error.strerror or type(error).__name__
            zh = common.language() == "zh"
            print(f"进度未能保存：{path}（{why}）" if zh else f"progress is not remembered: {path} ({why})", file=sys.stderr)
        _warned = True
