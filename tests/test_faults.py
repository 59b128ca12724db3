"""Whatever dies, fills up or is torn: nothing is lost, nothing counts twice, nobody gets a 0 of ours, and nothing stays behind.

Elsewhere: kill -9 of the whole run after its first results, of a judge over one submission, half a line, a line of junk (and that
what is whole is kept), a second run in the same folder (tests/test_grade.py); a worker that exits or loops (there, too); hostile
workers (tests/test_attacks.py, tests/test_sandbox.py); a missing bubblewrap at the start (tests/test_grade.py); a Dask worker and
its judge (tests/test_cluster.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from nbgrader.api import Gradebook

from autograder.manifest import Week
from autograder.marking import gradebook, nbcourse
from tests import faults
from tests.conftest import NIGHTLY, ROOT


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults.make_class(tmp_path_factory.mktemp("class") / "in")


@pytest.fixture(scope="module")
def undisturbed(submissions: Path, tmp_path_factory: pytest.TempPathFactory, level: str) -> dict[str, Any]:
    """What a run gives that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    faults.grade(submissions, out, level)
    found = faults.lines(out)
    assert len(found) == faults.STUDENTS and len({line["score"] for line in found.values()}) > 1
    return found


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, error = process.communicate(timeout=300)
    return process.returncode, error


@pytest.mark.parametrize("victim", ["judge", "zygote", "first zygote"])
def test_a_part_of_the_pool_is_killed(
    victim: str, submissions: Path, undisturbed: dict[str, Any], tmp_path: Path, level: str
) -> None:
    tmp, out = tmp_path / "tmp", tmp_path / "out"
    process = faults.start([*faults.command(submissions, out, level, "--jobs", "2")], tmp)
    faults.until(lambda: faults.count(out), process)
    seen = faults.descendants(process.pid)
    pids = faults.zygotes(process.pid)
    judges = [pid for pid in seen if " grade " in faults.words_of(pid)]
    assert len(judges) == 2 and pids
    target = judges[0] if victim == "judge" else pids[0] if victim == "first zygote" else pids[1]
    with contextlib.suppress(ProcessLookupError):  # it may be a worker whose task is over
        os.kill(target, signal.SIGKILL)
    code, error = finish(process)
    assert (code, error) == (0, "")
    assert faults.lines(out) == undisturbed
    faults.nothing_left(tmp, seen)


def test_a_students_process_is_killed(submissions: Path, undisturbed: dict[str, Any], tmp_path: Path, level: str) -> None:
    """The worker in the middle of a task, a few times: that is retried alone, and costs nobody a point."""
    tmp, out = tmp_path / "tmp", tmp_path / "out"
    process = faults.start(faults.command(submissions, out, level, "--jobs", "1"), tmp)
    faults.until(lambda: faults.zygotes(process.pid), process)
    faults.until(lambda: any(" grade " in faults.words_of(pid) for pid in faults.descendants(process.pid)), process)  # a judge
    zygote, seen, killed = faults.zygotes(process.pid)[0], faults.descendants(process.pid), 0
    while process.poll() is None and killed < 2 and not faults.count(out):  # that is, within the first batch
        for pid in faults.descendants(zygote)[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        time.sleep(0.02)
    assert finish(process)[0] == 0
    assert killed
    assert faults.lines(out) == undisturbed
    faults.nothing_left(tmp, seen)


def test_the_engine_is_killed_before_and_between_results(
    submissions: Path, undisturbed: dict[str, Any], tmp_path: Path, level: str
) -> None:
    """kill -9 of the engine alone: its judges and its sandbox end with it, and the same command goes on."""
    tmp, out = tmp_path / "tmp", tmp_path / "out"
    process = faults.start(faults.command(submissions, out, level, "--jobs", "2"), tmp)
    faults.until(lambda: faults.count(out), process)
    seen = faults.descendants(process.pid)
    process.kill()
    process.wait()
    faults.nothing_left(tmp, seen)
    kept = faults.count(out)
    assert 0 < kept <= faults.STUDENTS
    faults.grade(submissions, out, level)
    assert faults.lines(out) == undisturbed


@pytest.mark.parametrize("seed", range(6 if NIGHTLY else 1))
def test_stopped_again_and_again(seed: int, submissions: Path, undisturbed: dict[str, Any], tmp_path: Path, level: str) -> None:
    """SIGINT and SIGTERM at random moments until the class is done."""
    tmp, out, dice = tmp_path / "tmp", tmp_path / "out", random.Random(seed)
    codes: list[int] = []
    while not codes or codes[-1]:
        process = faults.start(faults.command(submissions, out, level, "--jobs", "1"), tmp)
        before = faults.count(out)
        patience = dice.uniform(0.3, 2) * (1 + len(codes))
        moment = time.monotonic() + patience
        stop = dice.choice([signal.SIGINT, signal.SIGTERM])
        while process.poll() is None and time.monotonic() < moment and (len(codes) > 4 or faults.count(out) < before + 3):
            time.sleep(0.02)
        seen = faults.descendants(process.pid)
        if len(codes) < (12 if NIGHTLY else 4):
            process.send_signal(stop)
        code, error = finish(process)
        codes.append(code)
        assert code in (0, 130, -stop), error
        assert "Traceback" not in error or "autograder/grading/engine.py" not in error
        assert faults.count(out) >= before
        faults.nothing_left(tmp, seen)
        assert len(codes) < 30
    assert len(codes) > 1
    assert faults.lines(out) == undisturbed


@pytest.mark.bwrap
def test_a_full_disk(submissions: Path, undisturbed: dict[str, Any], tmp_path: Path, level: str) -> None:
    """The output folder is a small file system of its own; once it is full the run says so, and goes on when there is room."""
    out, kept = tmp_path / "out", tmp_path / "kept"
    out.mkdir()
    kept.mkdir()
    grade = " ".join(map(repr, faults.command(submissions, out, level)))
    script = (
        f"head -c 230000 /dev/zero > {out}/filler\n{grade} 2> {kept}/said; echo $? > {kept}/code\n"
        f"cp {out}/results.jsonl {kept}/; ls -A {out} > {kept}/files; rm {out}/filler\n{grade}\necho $? > {kept}/again\n"
        f"cp {out}/results.jsonl {kept}/end.jsonl\n"
    )
    bwrap = ["bwrap", "--dev-bind", "/", "/", "--size", str(1 << 18), "--tmpfs", str(out), "sh", "-c", script]
    done = subprocess.run(bwrap, env=faults.environment(tmp_path / "tmp"), capture_output=True, text=True, check=False)
    said = (kept / "said").read_text()
    assert (kept / "code").read_text() == "2\n", done.stderr + said
    assert said == (
        f"autograder: {out} cannot be written (No space left on device): make room or mend it, then run the same command again\n"
    )
    assert ".new" not in (kept / "files").read_text()
    for line in (kept / "results.jsonl").read_bytes().splitlines():
        assert faults.timeless(json.loads(line)) in undisturbed.values()  # whole, or not at all
    # With room for the results the class is done; pages may not fit, and that is said as well.
    assert (kept / "again").read_text() in ("0\n", "2\n"), done.stderr
    end = [faults.timeless(json.loads(line)) for line in (kept / "end.jsonl").read_bytes().splitlines()]
    assert {line["student"]: line for line in end} == undisturbed


@pytest.mark.bwrap
def test_a_read_only_output_folder(submissions: Path, tmp_path: Path, level: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    words = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(out), str(out), *faults.command(submissions, out, level)]
    done = subprocess.run(words, env=faults.environment(tmp_path / "tmp"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"autograder: {out} cannot be written: Read-only file system\n")


def test_a_results_file_in_any_state(submissions: Path, undisturbed: dict[str, Any], tmp_path: Path, level: str) -> None:
    """Garbage, another schema, no tasks, depth, a student twice: what is no result is graded again, the rest is kept."""
    out = tmp_path / "out"
    faults.grade(submissions, out, level)
    good = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    records = [json.loads(line) for line in good]

    def spoiled(i: int, **changes: Any) -> bytes:
        return json.dumps(records[i] | changes).encode() + b"\n"

    bad = [
        spoiled(0, schema=2), spoiled(1, tasks=None), spoiled(2, week=3), spoiled(3, status="perfect"),
        b"[" * 100_000 + b"\n", b"\xff\xfe\0\n", b"null\n", b'{"schema": 1, "key": NaN}\n', good[4][: len(good[4]) // 2],
    ]  # fmt: skip
    (out / "results.jsonl").write_bytes(b"".join([*good[5:], good[6], *bad]))
    faults.grade(submissions, out, level)
    assert faults.lines(out) == undisturbed
    again = [json.loads(line) for line in (out / "results.jsonl").read_bytes().splitlines()]
    assert again[5:] == records[5:]  # kept: even their times are the same
    (out / "run.json").write_text("[1]")
    done = subprocess.run(
        faults.command(submissions, out, level),
        env=faults.environment(tmp_path / "tmp"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "run.json cannot be read" in done.stderr and len(done.stderr.splitlines()) == 1


def test_clocks_that_jump(submissions: Path, undisturbed: dict[str, Any], tmp_path: Path, level: str) -> None:
    """The wall clock leaps by a year at every look, forwards and back: only monotonic clocks may decide anything."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import time\nreal, turn = time.time, [0]\n"
        "def leaping():\n    turn[0] += 1\n    return real() + (3e7 if turn[0] % 2 else -3e7)\n"
        "time.time = leaping\ntime.time_ns = lambda: int(leaping() * 1e9)\n"
    )
    tmp, out = tmp_path / "tmp", tmp_path / "out"
    process = faults.start(faults.command(submissions, out, level), tmp, PYTHONPATH=f"{site}{os.pathsep}{ROOT}")
    assert finish(process) == (0, "")
    assert faults.lines(out) == undisturbed
    seconds = [json.loads(line)["seconds"] for line in (out / "results.jsonl").read_bytes().splitlines()]
    assert all(0 <= s < 3000 for s in seconds)


@pytest.mark.bwrap
def test_bubblewrap_vanishes_before_a_restart(submissions: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """A judge dies, and there is no bubblewrap any more to start another sandbox with: one line, and nothing is downgraded."""
    bin_, tmp, out = tmp_path / "bin", tmp_path / "tmp", tmp_path / "out"
    bin_.mkdir()
    for name in ("unshare", "true"):
        (bin_ / name).symlink_to(str(shutil.which(name)))
    (bin_ / "bwrap").symlink_to(str(shutil.which("bwrap")))
    process = faults.start(faults.command(submissions, out, "bwrap", "--jobs", "1"), tmp, PATH=str(bin_))
    faults.until(lambda: faults.count(out), process)
    seen = faults.descendants(process.pid)
    (bin_ / "bwrap").unlink()
    os.kill(next(pid for pid in seen if " grade " in faults.words_of(pid)), signal.SIGKILL)
    code, error = finish(process)
    assert code == 2
    assert "bubblewrap is not installed" in error and len(error.splitlines()) == 1
    assert all(undisturbed[name] == line for name, line in faults.lines(out).items())
    faults.nothing_left(tmp, seen)
    faults.grade(submissions, out, "bwrap")
    assert faults.lines(out) == undisturbed


HOLD = """
import sqlite3, sys
book = sqlite3.connect(sys.argv[1])
book.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_gradebook_that_another_process_holds(tmp_path: Path, week: Week) -> None:
    """Entering waits, then says so in one line, and has entered nothing; with the lock gone the same call works."""
    path = tmp_path / "book.db"
    tasks = [{"id": task.id, "score": task.points, "max_score": task.points} for task in week.tasks]
    result = {"student": "ada", "status": "graded", "tasks": tasks}
    with Gradebook(f"sqlite:///{path}") as book:
        book.add_assignment(week.folder)
        book.add_notebook(nbcourse.CODE, week.folder)
        for task in week.core:
            name = nbcourse.grade_id(task.id)
            book.add_grade_cell(name, nbcourse.CODE, week.folder, max_score=task.points, cell_type="code")
        book.add_grade_cell(nbcourse.REVIEW, nbcourse.CODE, week.folder, max_score=15, cell_type="markdown")
        book.add_student("ada")
        book.add_submission(week.folder, "ada")
        words = [sys.executable, "-c", HOLD, str(path)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            with pytest.raises(gradebook.GradebookError, match="database is locked") as caught:
                gradebook.enter_code(book, week, [result])
            holder.kill()
        assert "\n" not in str(caught.value) and "run the same command again" in str(caught.value)
        assert scores(path) == {None}
        gradebook.enter_code(book, week, [result])
    assert scores(path) == {None, *(task.points for task in week.core)}  # the review waits for a TA


def scores(path: Path) -> set[float | None]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {score for (score,) in database.execute("SELECT auto_score FROM grade")}
