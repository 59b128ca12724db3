"""Hostile submissions: a class of them is graded with honest classmates, and none gains, harms or outlives the run.

tests/attacks/NAME.py is a whole submission: a wrong answer (tests/attacks/base) with one attack on it.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autograder.grading.sandbox import OUTPUT_KEPT, Zygotes, spawned
from autograder.judge.recorded import PUBLIC_SEED, Recorder
from autograder.judge.runner import Oracle, Runner, loopback, reference_stub
from autograder.judge.session import CheckFailed, Handle, LinkDown, Session, tensor
from autograder.manifest import load

ROOT = Path(__file__).parents[1]
ATTACKS = {path.stem: path for path in sorted((ROOT / "tests/attacks").glob("*.py"))}
BASE = ROOT / "tests/attacks/base"
WEEK = load().week(4)
# Level `process` has the machine's own file system and process list, and Landlock only where the kernel does: these
# attacks may succeed there, and some leave files behind. Its reports say "reduced isolation".
NEED_NAMESPACES = {
    "find_solutions": "reads every file that the grader's user may read",
    "read_classmates": "lists /tmp and /proc",
    "plant_files": "writes wherever the grader's user may write",
    "write_results": "writes wherever the grader's user may write",
    "edit_python": "writes wherever the grader's user may write",
    "process_files": "the machine's /proc and files can be opened",
    "shared_memory": "/dev/shm is the machine's",
    "fill_disk": "only the size of one file is limited, not their number",
}
CLASSES = {"score", "wire", "files", "processes", "memory", "output", "time", "network", "neighbours"}
# What several attacks name the files that they leave.
MARKERS = ("attack-marker*", "results.jsonl", "gradebook.db")

bwrap = pytest.mark.bwrap
LEVELS = [pytest.param("bwrap", marks=bwrap), "process"]

# Runs in a process of its own, with shorter limits than the manifest's: an honest task takes 0.15 s of CPU.
GRADE = """
import dataclasses, resource, sys
from pathlib import Path
from autograder.grading import engine
from autograder.manifest import load

submissions, out, level = sys.argv[1:]
course = load()
week = course.week(4)
# Who sleeps in each task is waited for in each, and once more alone: less in those that have no points.
small = {False: dict(cpu_seconds=2, wall_seconds=4, memory_mib=384), True: dict(cpu_seconds=1, wall_seconds=1, memory_mib=384)}
tasks = tuple(dataclasses.replace(t, limits=dataclasses.replace(t.limits, **small[t.stretch])) for t in week.tasks)
week = dataclasses.replace(week, tasks=tasks)
jobs = 4 if level == "bwrap" else 1  # most of them wait
summary = engine.grade(Path(submissions), week, Path(out), course, seed=1, jobs=jobs, isolation=level)
print("judges took at most", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10, "MiB")
"""


def on(level: str) -> list[str]:
    return [name for name in ATTACKS if level == "bwrap" or name not in NEED_NAMESPACES]


@functools.cache
def recorded() -> bytes:
    """What a students' copy holds in autograder/recorded/week04.zip of the answers for the public seed."""
    runner, recorder = Runner(WEEK, PUBLIC_SEED), Recorder()

    def body() -> None:
        assert isinstance(runner.oracle, Oracle)
        runner.oracle.recorder = recorder
        runner.run(loopback(reference_stub(WEEK)))

    runner.run_in_pytest(body)
    return recorder.pack("", [], "")


def files_of(name: str) -> dict[str, bytes]:
    stub = ATTACKS[name] if name in ATTACKS else BASE / f"{name}.py"
    files = {"lora_linear.py": stub.read_bytes(), "wrong_layer.py": (BASE / "wrong_layer.py").read_bytes()}
    return files | ({"recorded.data": recorded()} if name == "replay_recorded" else {})


def honest() -> dict[str, dict[str, bytes]]:
    reference = {"lora_linear.py": (ROOT / "solutions/week04/lora_linear.py").read_bytes()}
    alternative = ROOT / "autograder/bank/week04/alternatives/with_helpers"
    helped = {path.name: path.read_bytes() for path in alternative.glob("*.py")}
    # First, last and among the attacks in the order of grading.
    return {"0-first": reference, "m-middle": reference, "zz-last": reference, "zz-with-helpers": helped}


@dataclass
class Run:
    """What grading one class left behind."""

    level: str
    results: dict[str, dict[str, Any]]
    lines: list[str]
    out: Path
    log: str
    orphans: list[int]
    left_over: list[str]
    before: str
    after: str


def make_class(submissions: Path, level: str) -> None:
    students = {name: files_of(name) for name in on(level)} | {"plain": files_of("plain")} | honest()
    # The folder's name is the student's, and may be hostile too.
    students["=cmd|' !A0"] = students["@SUM(1+1)"] = files_of("markup")
    students["<script>alert(1)<"] = students["\x1b[2Jname\u202e"] = files_of("plain")
    for student, files in students.items():
        (submissions / student).mkdir()
        for name, data in files.items():
            (submissions / student / name).write_bytes(data)
    special = submissions / "special_files"
    special.mkdir()
    (special / "lora_linear.py").symlink_to(ROOT / "solutions/week04/lora_linear.py")
    os.mkfifo(special / "helper.py")
    (special / "dev").symlink_to("/dev")
    (special / "up").symlink_to("..")
    with contextlib.suppress(PermissionError):
        os.mknod(special / "zero.py", 0o20666, os.makedev(1, 5))
    queue = submissions / "fifo_stub"
    queue.mkdir()
    os.mkfifo(queue / "lora_linear.py")
    (submissions / "linked_student").symlink_to(submissions / "0-first")


def digest(root: Path) -> str:
    sha = hashlib.sha256()
    for folder, folders, files in sorted(os.walk(root)):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            state = path.lstat()
            sha.update(f"{path} {state.st_mode} {state.st_mtime_ns} {state.st_nlink}\n".encode())
            if path.is_file() and not path.is_symlink():
                sha.update(path.read_bytes())
    return sha.hexdigest()


def marked() -> set[str]:
    """Files with the attacks' names, where an attack could leave them."""
    site = Path(np.__file__).parents[1]
    places = {
        Path(place) for place in ("/", "/tmp", "/dev/shm", "/var/tmp", "/run", "/usr/local/lib", sys.prefix, ROOT, Path.home())
    }
    places |= {Path(ROOT.parent), ROOT / "tests", Path.cwd(), site, Path(os.__file__).parent}
    return {str(path) for place in places for pattern in MARKERS for path in place.glob(pattern)}


def children() -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            _, _, rest = entry.read_text().rpartition(")")
            if int(rest.split()[1]) == os.getpid():
                found.add(int(entry.parent.name))
    return found


@contextlib.contextmanager
def adopting_orphans() -> Iterator[Callable[[], list[int]]]:
    """Inside, a descendant whose parents have died becomes our child: nothing that outlives a run is missed."""
    libc, subreaper = ctypes.CDLL(None), 36
    before = children()
    assert libc.prctl(subreaper, 1, 0, 0, 0) == 0
    try:
        yield lambda: sorted(children() - before)
    finally:
        libc.prctl(subreaper, 0, 0, 0, 0)


@pytest.fixture(scope="module", params=LEVELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    level = request.param
    root = tmp_path_factory.mktemp(f"class-{level}")
    submissions, out, scratch = root / "submissions", root / "out", root / "scratch"
    for folder in (submissions, scratch):
        folder.mkdir()
    make_class(submissions, level)
    before, marks = digest(submissions), marked()
    environment = {**os.environ, "TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"}
    with adopting_orphans() as orphans:
        done = subprocess.run(
            [sys.executable, "-c", GRADE, str(submissions), str(out), level],
            capture_output=True, text=True, errors="replace", timeout=900, env=environment, cwd=root, check=False,
        )  # fmt: skip
        deadline = time.monotonic() + 5  # the kernel takes a namespace down in its own time
        while orphans() and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            time.sleep(0.05)
        left = orphans()
    assert done.returncode == 0, done.stderr
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()  # also at U+2028: a message may hold one
    results = {result["student"]: result for result in map(json.loads, lines)}
    # torch makes an empty cache folder of its own in the judges.
    scratched = [str(path) for path in scratch.iterdir() if not path.name.startswith("torchinductor_")]
    leavings = [*(marked() - marks), *scratched]
    return Run(level, results, lines, out, done.stdout + done.stderr, left, leavings, before, digest(submissions))


def test_every_attack_has_its_header() -> None:
    assert len(ATTACKS) >= 20
    for path in ATTACKS.values():
        first, second = path.read_text(encoding="utf-8").splitlines()[:2]
        assert re.fullmatch(r"# attack: \S.*", first)
        assert second.removeprefix("# class: ") in CLASSES
    assert set(NEED_NAMESPACES) < set(ATTACKS)


def test_no_attack_gains(run: Run) -> None:
    plain = run.results["plain"]
    assert plain["status"] == "graded" and plain["score"] == 0
    for name in on(run.level):
        result = run.results[name]
        assert result["status"] == "graded", f"{name}: {result['message']}"
        scores = {task["id"]: task["score"] for task in result["tasks"]}
        assert set(scores.values()) == {0}, name
        assert result["score"] == 0, name


def test_honest_classmates_get_full_marks(run: Run) -> None:
    for name in honest():
        assert run.results[name]["status"] == "graded"
        assert run.results[name]["score"] == 70, f"{name}: {[t['message'] for t in run.results[name]['tasks']]}"


def test_everyone_is_graded_and_nobody_twice(run: Run) -> None:
    assert len(run.lines) == len(run.results)
    expected = {*on(run.level), *honest(), "plain", "special_files", "fifo_stub"}
    assert expected < set(run.results) and len(run.results) == len(expected) + 4
    assert "linked_student" not in run.results
    assert all(result["status"] == "graded" for result in run.results.values())


def test_results_are_valid(run: Run) -> None:
    for line in run.lines:
        result = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in results.jsonl"))
        assert {"schema", "student", "week", "seed", "status", "score", "max_score", "tasks", "key"} <= set(result)
        assert result["isolation"] == run.level and result["max_score"] == 70
        assert [task["id"] for task in result["tasks"]] == ["4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7"]
        assert result["score"] == sum(task["score"] for task in result["tasks"])
        for task in result["tasks"]:
            assert 0 <= task["score"] <= task["max_score"]
            assert task["status"] in ("passed", "partial", "failed", "unattempted", "error", "timeout")


def test_special_files_are_left_out(run: Run) -> None:
    special = run.results["special_files"]
    assert special["score"] == 0 and "symlink" in special["message"]
    assert "solutions" not in json.dumps(special)
    assert run.results["fifo_stub"]["score"] == 0


def test_nothing_is_left(run: Run) -> None:
    assert run.orphans == [], "a process has outlived the run"
    assert run.left_over == []
    assert run.before == run.after, "the submissions were changed"
    assert {path.name for path in run.out.iterdir()} == {"results.jsonl", "run.json", "grades.csv", "feedback", ".lock"}
    pages = list((run.out / "feedback").iterdir())
    assert len(pages) == len(run.results) and all(path.suffix == ".md" and path.is_file() for path in pages)


def test_timeouts_and_crashes_are_told_as_such(run: Run) -> None:
    status = {name: {t["id"]: t["status"] for t in run.results[name]["tasks"]} for name in on(run.level)}
    assert set(status["loop_import"].values()) == {"timeout"}
    assert status["sleep_for_ever"]["4.2"] == status["loop_in_threads"]["4.3"] == "timeout"
    assert "CPU time" in run.results["loop_import"]["message"]
    assert "exit status 0" in run.results["exit_zero"]["message"]
    assert "wall time" in json.dumps(run.results["sleep_for_ever"])


def test_what_students_wrote_is_inert_in_grades(run: Run) -> None:
    with open(run.out / "grades.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == len(run.results) + 1
    assert all(not cell.startswith(("=", "+", "@", "\t", "\r")) for row in rows for cell in row)
    assert {"'=cmd|' !A0", "'@SUM(1+1)"} <= {row[0] for row in rows}


def test_what_students_wrote_is_inert_in_feedback(run: Run) -> None:
    seen = 0
    for page in (run.out / "feedback").iterdir():
        fence, running = "", []
        for line in page.read_text(encoding="utf-8", errors="strict").split("\n"):
            assert line.isprintable(), f"{page.name}: {line!r}"
            bare = line.strip()
            if fence:
                fence = "" if bare == fence else fence
            elif found := re.match(r"\s*(`{3,})text$", line):
                fence = found[1]
            else:
                running.append(line)
        assert not fence
        text = "\n".join(running)
        assert "<script" not in text and "onerror" not in text and "Score: 70" not in text and "javascript:" not in text
        seen += "alert(1)" in page.read_text(encoding="utf-8")
    assert seen >= 2, "the attack's text did not even reach a page"


def test_results_stay_small(run: Run) -> None:
    sizes = {result["student"]: len(line) for result, line in zip(map(json.loads, run.lines), run.lines, strict=True)}
    assert max(sizes.values()) < 500_000, max(sizes, key=lambda name: sizes[name])


# --- what an attack printed, which grading drops ---


@pytest.fixture(scope="module")
def zygotes(request: pytest.FixtureRequest) -> Iterator[Zygotes]:
    with Zygotes(request.param, 1, WEEK.preload, WEEK.hidden_packages) as zygotes:
        yield zygotes


def act(session: Session) -> None:
    """Import a submission, and call what it wrote; ends early when its process does."""

    def layer() -> Handle:
        session.reset(0)
        base = session.build("linear", weight=tensor(np.ones((3, 2))), bias=None)
        return session.LoRALinear(base, rank=2, alpha=3.0)

    def forward() -> None:
        session.read(layer()(tensor(np.ones((4, 2)))), (4, 3))

    def merge() -> None:
        layer().merge()
        session.flush()

    def set_rank() -> None:
        layer().set_rank(1)
        session.flush()

    for step in (session.load, forward, merge, set_rank):
        with contextlib.suppress(CheckFailed):
            step()


def output_of(zygotes: Zygotes, name: str) -> str:
    limits = dataclasses.replace(WEEK.limits, cpu_seconds=1, wall_seconds=8, memory_mib=512)
    with spawned(zygotes.sockets[0], limits, "lora_linear.py", files_of(name)) as link:
        with contextlib.suppress(LinkDown):
            act(Session(link))
        assert len(link.output) <= OUTPUT_KEPT
        return link.output.decode(errors="replace")


ON_EACH_LEVEL = [
    *(pytest.param("bwrap", name, marks=bwrap) for name in on("bwrap")),
    *(pytest.param("process", name) for name in on("process")),
]


@pytest.mark.parametrize(("zygotes", "name"), ON_EACH_LEVEL, indirect=["zygotes"])
def test_the_attack_runs_and_wins_nothing(zygotes: Zygotes, name: str) -> None:
    output = output_of(zygotes, name)
    assert "ATTACK-RAN" in output, "the attack did not run"
    assert "ATTACK-WON" not in output
