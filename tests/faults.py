"""What the tests of faults share: a small class of week 2, graded by the real command, and what must be true afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autograder import bank
from autograder.judge.runner import reference_stub
from autograder.manifest import load
from tests.conftest import ROOT

SEED = 5
STUDENTS = 8
MARK = "LORA_GRADED_TEST_RUN"  # in the environment of every process that a run starts, the sandbox's apart


def make_class(folder: Path, students: int = STUDENTS) -> Path:
    """Right and wrong answers of week 2, in turn."""
    week = load().week(2)
    source = reference_stub(week).read_text(encoding="utf-8")
    wrong = bank.mutants(week, source)
    for i in range(students):
        place = folder / f"s{i}"
        place.mkdir(parents=True)
        (place / week.stub).write_text(source if i % 2 else wrong[i].source, encoding="utf-8")
    return folder


def command(submissions: Path, out: Path, level: str, *more: str) -> list[str]:
    words = [sys.executable, "-m", "autograder", "grade", str(submissions), "--week", "2", "--out", str(out), "--quiet"]
    return [*words, "--seed", str(SEED), "--isolation", level, *more]


def environment(tmp: Path, **more: str) -> dict[str, str]:
    """For a run whose temporary files lie in a folder of their own."""
    tmp.mkdir(exist_ok=True)
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp), MARK: str(tmp)} | more


def start(words: list[str], tmp: Path, **more: str) -> subprocess.Popen[str]:
    settings: dict[str, Any] = {"env": environment(tmp, **more), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, text=True, start_new_session=True, **settings)


def grade(submissions: Path, out: Path, level: str) -> None:
    """In a process of its own: what other tests leave, threads among it, must not matter."""
    subprocess.run(command(submissions, out, level), env=environment(out.with_name("tmp")), check=True)


def lines(out: Path) -> dict[str, dict[str, Any]]:
    """The results by student, without times; every line is whole, no student has two."""
    path = out / "results.jsonl"
    found = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    assert len({line["student"] for line in found}) == len({line["key"] + line["student"] for line in found}) == len(found)
    return {line["student"]: timeless(line) for line in found}


def timeless(value: Any) -> Any:
    """A result without what the clock decides."""
    if isinstance(value, dict):
        return {name: 0 if name == "seconds" else timeless(item) for name, item in value.items()}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def count(out: Path) -> int:
    path = out / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def until(true: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """Wait for something; fails if `process` ends before, or after two minutes on a monotonic clock."""
    deadline = time.monotonic() + 120
    while not (found := true()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def relatives(tmp: Path) -> list[int]:
    """Every process that a run started and that is still there, without those in a sandbox, whose environment is clear."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"{MARK}={tmp}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def descendants(root: int) -> list[int]:
    """The processes below one, the nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(root, []))
    for pid in found:
        found += children.get(pid, [])
    return found


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def zygotes(root: int) -> list[int]:
    """The sandbox's Python processes below one; the outermost first."""
    return [p for p in descendants(root) if "-m autograder.inside.zygote" in words_of(p) and not words_of(p).startswith("bwrap")]


def nothing_left(tmp: Path, seen: list[int]) -> None:
    """No process of the run is left, none of those in `seen`, and no temporary file."""
    until(lambda: not relatives(tmp) and not any("autograder" in words_of(pid) for pid in seen))
    assert [str(path) for path in tmp.rglob("*")] == []
