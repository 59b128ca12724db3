"""What this project's commands cost beside what does the same elsewhere: a ratio each, and whether its aim is reached.

    python benchmarks/peers.py                       everything (`make bench`), about 20 minutes on two idle cores
    python benchmarks/peers.py help check --runs 9   these comparisons
    python benchmarks/peers.py grading --students 6 --otter PATH/TO/python

Ratios are of CPU time (children waited for, system calls counted), the medians of runs that take turns, so that other work
on the machine weighs on both sides alike. otter-grader is no dependency of the course: make it a virtual environment that
sees the course's packages, and name its interpreter with --otter:
    python -m venv DIR && DIR/bin/pip install otter-grader
    python -c "import site; print(site.getsitepackages()[0])" > DIR/lib/python3.11/site-packages/course.pth
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import grading
import nbformat
import nbgrader_course
import psutil
import watch
from tqdm import tqdm

from autograder.authoring import notebooks
from autograder.grading import labrun
from autograder.grading.sandbox import bwrap_problem
from autograder.judge.runner import ROOT, reference_stub
from autograder.manifest import Week, load

Side = Callable[[], object]
# Compiled once, as it is where people work: some machines are told to write no bytecode, and compile at every start.
_BYTECODE = tempfile.TemporaryDirectory(prefix="bytecode-")


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        ours, theirs: seconds of CPU.
        aim: the ratio that is wanted, if one is.
        more: the ratio is theirs / ours, and more is better; otherwise it is ours / theirs.
    """

    name: str
    ours: float
    peer: str
    theirs: float
    aim: float | None = None
    more: bool = False

    def __str__(self) -> str:
        ratio = self.theirs / self.ours if self.more else self.ours / self.theirs
        wanted = verdict = ""
        if self.aim is not None:
            wanted = f"{'at least' if self.more else 'at most'} {self.aim:g}"
            verdict = "reached" if (ratio >= self.aim if self.more else ratio <= self.aim) else "not reached"
        times = f"{1e3 * self.ours:.0f} ms | {self.peer} | {1e3 * self.theirs:.0f} ms"
        return f"| {self.name} | {times} | {ratio:.2f} | {wanted} | {verdict} |"


@dataclass(frozen=True)
class Missing:
    """A comparison that could not be made, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"| {self.name} | | {self.why} | | | | not measured |"


def cpu(side: Side) -> float:
    """Seconds of CPU that a call and the processes that it waits for use."""
    before = grading.cpu()
    side()
    return grading.cpu() - before


def watched_cpu(side: Side, every: float = 0.1) -> float:
    """As `cpu`, by looking again and again: a kernel that is killed with its sandbox is waited for by nobody, and not counted."""
    seen: dict[tuple[int, float], float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    seen[process.pid, process.create_time()] = times.user + times.system

    thread = threading.Thread(target=look)
    own = time.process_time()
    thread.start()
    try:
        side()
    finally:
        over.set()
        thread.join()
    return time.process_time() - own + sum(seen.values())


def medians(sides: Sequence[Side], runs: int, what: str, measure: Callable[[Side], float] = cpu) -> list[float]:
    """The median of each side's runs; the sides take turns."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in tqdm(range(runs), desc=what, unit=" run", leave=False):
        for side, times in zip(sides, found, strict=True):
            times.append(measure(side))
    return [statistics.median(times) for times in found]


def command(*words: str, fails: bool = False) -> Side:
    """A Python command that is run to its end, once before it is measured.

    Args:
        fails: an exit status of 1 is no error.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": _BYTECODE.name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def side() -> None:
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode > fails:
            raise SystemExit(f"{' '.join(words)} failed: {(done.stderr.strip() or done.stdout.strip())[-300:]}")

    side()  # unmeasured: compiles
    return side


# --- the comparisons ---


def help_(options: argparse.Namespace) -> Iterator[Line | Missing]:
    """`autograder --help` beside Python that does nothing."""
    sides = command("-m", "autograder", "--help"), command("-c", "pass")
    ours, bare = medians(sides, options.runs, "help")
    yield Line("`autograder --help`", ours, "`python -c pass`", bare)
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "autograder", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = sorted({name for name in ("torch", "numpy", "pytest", "rich") if re.search(rf"\| +{name}$", seen.stderr, re.M)})
    if heavy:
        yield Missing("`autograder --help` imports nothing heavy", f"it imports {', '.join(heavy)}")


def check(options: argparse.Namespace) -> Iterator[Line | Missing]:
    """`autograder check` of one task beside the bare imports of what its week needs."""
    for number in options.weeks:
        week = load().week(number)
        packages = ", ".join(dict.fromkeys(["numpy", *week.preload, "pytest"]))
        words = ("-m", "autograder", "check", week.tasks[0].id, "--file", str(reference_stub(week)))
        ours, bare = medians([command(*words), command("-c", f"import {packages}")], options.runs, f"check {number}")
        yield Line(f"`autograder check {week.tasks[0].id}`", ours, f"`import {packages}`", bare, 1.3)


def watch_(options: argparse.Namespace) -> Iterator[Line | Missing]:
    """`autograder watch`, from a save to its answer, beside `autograder check` of the same week."""
    for number in options.weeks:
        week = load().week(number)
        with tempfile.TemporaryDirectory() as folder:
            stub = Path(folder) / week.stub
            shutil.copy(reference_stub(week), stub)
            ours = statistics.median(seconds for _, seconds in watch._watch(str(number), stub, options.runs))
            theirs = statistics.median(watch._check(str(number), stub)[1] for _ in range(options.runs))
        yield Line(f"`watch`, week {number}, a save", ours, f"`check {number}`", theirs, 0.2)


def grading_(options: argparse.Namespace) -> Iterator[Line | Missing]:
    """The sandbox beside nbgrader, otter-grader and one pytest process each: the same submissions and checks."""
    week = load().week(options.weeks[0])
    name = f"grading week {week.number}, a submission"
    if problem := bwrap_problem():
        yield Missing(name, problem)
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        stubs, _ = grading.make_class(root / "class", week, options.students + options.students // 9)
        honest = stubs[: options.students]
        for stub in honest:
            shutil.copytree(stub.parent, root / "honest" / stub.parent.name)
        # What is paid once a run is taken off, as it is of nbgrader: a class is hundreds.
        summary = grading.sandboxed(root / "honest", week, 1, "bwrap")
        ours = (summary.cpu_seconds["judges"] + summary.cpu_seconds["workers"]) / len(honest)
        once = summary.cpu_seconds["engine"] + summary.cpu_seconds["zygote"]
        print(f"{name}: {once:.1f} s of CPU besides, paid once a run", file=sys.stderr)
        sample = honest[: options.peers]
        plain = root / "plain"
        plain.mkdir()
        (plain / "conftest.py").write_text(grading.PLAIN)
        for file in (ROOT / "autograder" / "checks" / week.folder).glob("test_*.py"):
            (plain / file.name).write_bytes(file.read_bytes())

        def each() -> None:
            for stub in tqdm(sample, desc="pytest each", unit=" student", leave=False):
                environment = os.environ | {"STUB": str(stub), "WEEK": str(week.number), "PYTHONPATH": str(ROOT)}
                words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(plain)]
                subprocess.run(words, env=environment, capture_output=True, check=False)

        yield Line(name, ours, "one `python -m pytest` process", cpu(each) / len(sample), 50, more=True)
        course = nbgrader_course.Course(_made(root / "nbgrader"), week, seed=1)
        for stub in sample:
            course.submit(stub.parent.name, stub)
        whole, start = course.autograde(len(sample)), course.autograde(0)
        yield Line(name, ours, "`nbgrader autograde`", (whole.cpu - start.cpu) / len(sample), 50, more=True)
        if options.otter is None:
            yield Missing(name, "otter-grader: name its interpreter with --otter")
        else:
            theirs = _otter(options.otter, root / "otter", week, course, sample)
            yield theirs if isinstance(theirs, Missing) else Line(name, ours, "`otter run` (no Docker)", theirs, 50, more=True)


def _otter(python: Path, root: Path, week: Week, course: nbgrader_course.Course, sample: list[Path]) -> float | Missing:
    """Seconds a submission of `otter run`, on nbgrader's notebooks with a test file a task that runs the same checks."""
    tests = _made(root / "tests")
    for task in week.tasks:
        (tests / f"task_{task.id.replace('.', '_')}.py").write_text(
            "from otter.test_files import test_case\n\nOK_FORMAT = False\n"
            f'name, points = "task {task.id}", {max(task.points, 1)}\n\n\n'
            f'@test_case()\ndef test_task(env):\n    problems = env["_failures"]("{task.id}")\n'
            "    assert not problems, problems\n"
        )
    nbgrader_course.write_kernel(root / "jupyter", str(python))
    environment = course.environment | {
        "PATH": f"{python.parent}{os.pathsep}{course.environment['PATH']}",
        "JUPYTER_PATH": str(root / "jupyter"),
    }

    def otter(*words: str) -> subprocess.CompletedProcess[str]:
        line = [str(python), "-m", "otter", *words]
        return subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True, check=False)

    made = otter("generate", "-t", "tests", "-o", "autograder.zip", "--no-requirements", "--no-environment", "--no-config")
    if made.returncode:
        return Missing("otter-grader", f"`otter generate` failed: {_last(made)}")
    times, scores = [], []
    for stub in tqdm(sample, desc="otter run", unit=" student", leave=False):
        folder = course.root / "submitted" / stub.parent.name / week.folder
        before = grading.cpu()
        done = otter("run", "-a", "autograder.zip", "-o", ".", "--no-logo", str(folder / f"{week.folder}.ipynb"))
        times.append(grading.cpu() - before)
        if done.returncode or not (root / "results.json").is_file():
            return Missing("otter-grader", f"`otter run` failed: {_last(done)}")
        found = json.loads((root / "results.json").read_text())
        scores.append(sum(t.get("score", 0) for t in found["tests"]))
    if max(scores) == 0:
        return Missing("otter-grader", "`otter run` gives the right answers no point: it did not run the checks")
    return statistics.mean(times)


def notebook(options: argparse.Namespace) -> Iterator[Line | Missing]:
    """A lab's notebook in the sandbox beside `nbgrader autograde`, which has none."""
    week = load().week(options.weeks[0])
    name = f"the lab of week {week.number}, sandboxed"
    if problem := bwrap_problem():
        yield Missing(name, problem)
        return
    source = nbformat.writes(notebooks.solved(week.folder, load())).encode()
    files = {week.stub: reference_stub(week).read_bytes()}

    def ours() -> None:
        ran = labrun.run(week, files, source, "bwrap")
        if ran.get("ours") or ran.get("message"):
            raise SystemExit(f"{name} did not run: {ran.get('ours') or ran['message']}")

    with tempfile.TemporaryDirectory() as temporary:
        course = LabCourse(Path(temporary), week)
        students = [f"s{i}" for i in range(options.peers)]
        for student in students:
            course.hand_in(student, source, files)
        whole, start = course.autograde(len(students)), course.autograde(0)
    [mine] = medians([ours], options.peers, "labrun", watched_cpu)
    yield Line(name, mine, "`nbgrader autograde`", (whole.cpu - start.cpu) / len(students), 1)


class LabCourse(nbgrader_course.Course):
    """nbgrader's course with a week's lab notebook as the assignment."""

    def __init__(self, root: Path, week: Week) -> None:
        super().__init__(root, week, seed=1)
        self.environment |= {"LAB_STUBS": "reference"}

    def _write(self, folder: Path, answer: str) -> None:
        folder.mkdir(parents=True)
        released = notebooks.student(self.week.folder, load(), "en")
        (folder / f"{self.week.folder}.ipynb").write_text(released, encoding="utf-8")

    def hand_in(self, student: str, notebook: bytes, files: dict[str, bytes]) -> None:
        folder = _made(self.root / "submitted" / student / self.week.folder)
        (folder / f"{self.week.folder}.ipynb").write_bytes(notebook)
        for file, data in files.items():
            (folder / file).write_bytes(data)


def references(options: argparse.Namespace) -> Iterator[Line | Missing]:
    """The references beside peft and bitsandbytes (benchmarks/reference.py)."""
    words = [sys.executable, str(Path(__file__).with_name("reference.py")), "--rounds", str(max(3, options.runs))]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    aims = {"NF4 quantise": 2.0, "NF4 dequantise": 1.0, "LoRA forward and backward": 1.0}
    rows = re.findall(r"^(.+?)\s+([\d.]+) ms\s+([\d.]+) ms\s+[\d.]+$", done.stdout, re.M)
    if not rows:
        yield Missing("references", f"reference.py failed: {_last(done)}")
    for name, mine, theirs in rows:
        library = "peft" if "LoRA" in name else "bitsandbytes"
        yield Line(f"{name} (wall)", float(mine) / 1e3, library, float(theirs) / 1e3, aims.get(name.strip(), 1.0), more=True)


def labs(options: argparse.Namespace) -> Iterator[Line | Missing]:
    """The notebooks from top to bottom beside a minute (benchmarks/notebooks.py)."""
    for number in options.weeks:
        with tempfile.TemporaryDirectory() as out:
            words = [sys.executable, str(Path(__file__).with_name("notebooks.py")), str(number), "--out", out]
            done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
        found = re.search(r"^week\d+ +[\d.]+ +([\d.]+)$", done.stdout, re.M)
        if found is None:
            yield Missing(f"the lab of week {number}", f"notebooks.py failed: {_last(done)}")
        else:
            yield Line(f"the lab of week {number}, end to end", float(found[1]), "a minute", 60.0, 1)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stderr.strip() or done.stdout.strip()).splitlines() or ["no message"])[-1][:200]


COMPARISONS: dict[str, Callable[[argparse.Namespace], Iterator[Line | Missing]]] = {
    "help": help_,
    "check": check,
    "watch": watch_,
    "grading": grading_,
    "notebook": notebook,
    "references": references,
    "labs": labs,
}


def main() -> None:
    tqdm.monitor_interval = 0  # no thread of its own: judges are forked from this process
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(COMPARISONS)
    parser.add_argument("what", nargs="*", metavar="COMPARISON", help=f"of {known} (default: all)")
    parser.add_argument("--weeks", type=int, nargs="+", default=[4, 2], help="the first is graded (default 4 2)")
    parser.add_argument("--runs", type=int, default=5, help="of which the median is taken (default 5)")
    parser.add_argument("--students", type=int, default=36, help="honest submissions for the sandbox (default 36)")
    parser.add_argument("--peers", type=int, default=3, help="how many of them each peer grades (default 3)")
    parser.add_argument("--otter", type=Path, help="a Python interpreter that has otter-grader")
    options = parser.parse_args()
    if unknown := [name for name in options.what if name not in COMPARISONS]:
        parser.error(f"no comparison {', '.join(unknown)}: choose from {known}")
    began, load_before = time.perf_counter(), os.getloadavg()[0]
    print("| command | CPU | beside | CPU | ratio | aim | |\n|---|---|---|---|---|---|---|")
    for name in options.what or COMPARISONS:
        for line in COMPARISONS[name](options):
            print(line, flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    busy = f"load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after, on {os.cpu_count()} cores"
    print(f"\n{time.perf_counter() - began:.0f} s; {busy}; largest child {peak} MiB")


if __name__ == "__main__":
    main()
