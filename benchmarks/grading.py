"""What grading costs: a class in the sandbox, the same checks without isolation, with one `python -m pytest` a submission,
and with `nbgrader autograde`.

    python benchmarks/grading.py [--students 300] [--pytest 6] [--nbgrader 6] [--jobs 2]

The class is made of right answers, mutants and hostile submissions (tests/attacks). Bodies are the check functions
themselves, the student's computation included, measured over a loopback; overhead is everything else that the sandboxed
run of the same honest submissions spends, its workers, judges, start-up and diagnosis counted. pytest and nbgrader take the
first of the honest submissions.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from nbgrader_course import Course, Timed, missing
from tqdm import tqdm

from autograder import bank
from autograder.grading import engine
from autograder.judge.runner import ROOT, Runner, loopback, reference_stub
from autograder.manifest import Week, load

PLAIN = """
import os
from pathlib import Path

import numpy as np
import pytest

from autograder.inside.worker import Worker
from autograder.judge.runner import Oracle, derive, reference_stub
from autograder.judge.session import Loopback, Session
from autograder.manifest import load

WEEK = load().week(int(os.environ["WEEK"]))


@pytest.fixture(scope="session")
def session():
    session = Session(Loopback(Worker(Path(os.environ["STUB"]))))
    session.reset(1)
    session.load()
    return session


@pytest.fixture(scope="session")
def references():
    return Oracle(reference_stub(WEEK))


@pytest.fixture
def student(session, request):
    session.reset(derive(0, request.node.name))
    return session


@pytest.fixture
def oracle(references, request):
    references.seed = derive(0, request.node.name)
    return references


@pytest.fixture
def rng(request):
    return np.random.Generator(np.random.PCG64(derive(0, request.node.name)))
"""


class BodyTimer(Runner):
    """A runner that adds up the CPU time of check functions."""

    bodies = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self) -> Any:
        start = time.process_time()
        try:
            return (yield)
        finally:
            self.bodies += time.process_time() - start


def make_class(folder: Path, week: Week, students: int) -> tuple[list[Path], list[Path]]:
    """Write a class; returns the stub files of the honest and of the hostile."""
    source = reference_stub(week).read_text(encoding="utf-8")
    right = [reference_stub(week), *bank.alternatives(week)]
    wrong = bank.mutants(week, source)
    attacks = sorted((ROOT / "tests" / "attacks").glob("*.py"))
    hostile = {i: attacks[k % len(attacks)] for k, i in enumerate(range(7, students, 10)) if attacks}
    stubs: tuple[list[Path], list[Path]] = ([], [])
    for i in range(students):
        place = folder / f"student-{i:04d}"
        place.mkdir(parents=True)
        stub = place / week.stub
        if i in hostile:
            stub.write_bytes(hostile[i].read_bytes())
            for helper in (ROOT / "tests" / "attacks" / "base").glob("*.py"):
                (place / helper.name).write_bytes(helper.read_bytes())
        elif i % 3 == 0:
            answer = right[i // 3 % len(right)]
            for file in answer.parent.glob("*.py"):
                (place / file.name).write_bytes(file.read_bytes())
        else:
            stub.write_text(wrong[i % len(wrong)].source, encoding="utf-8")
        stubs[i in hostile].append(stub)
    return stubs


def cpu() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total


def sandboxed(folder: Path, week: Week, jobs: int, isolation: str) -> engine.Summary:
    with tempfile.TemporaryDirectory() as out, tqdm(desc=f"level {isolation}", unit=" student") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return engine.grade(folder, week, Path(out), load(), seed=1, jobs=jobs, isolation=isolation, progress=progress)


def main() -> None:
    tqdm.monitor_interval = 0  # no thread of its own: judges are forked from this process
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=300)
    parser.add_argument("--pytest", type=int, default=6, help="how many submissions get a pytest process each")
    parser.add_argument("--nbgrader", type=int, default=6, help="how many submissions nbgrader grades, in one command")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--week", type=int, default=4)
    parser.add_argument("--isolation", default="bwrap", choices=("bwrap", "process"))
    arguments = parser.parse_args()
    week = load().week(arguments.week)

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        honest, hostile = make_class(root / "class", week, arguments.students)
        honest_root = root / "honest"
        for stub in honest:
            shutil.copytree(stub.parent, honest_root / stub.parent.name)

        print(
            f"{len(honest)} honest and {len(hostile)} hostile submissions of week {week.number}, {arguments.jobs} jobs\n",
            flush=True,
        )

        # No isolation: every honest submission in this process, over the loopback.
        runner = BodyTimer(week, 1)
        start = [0.0, 0.0]

        def loop() -> None:
            runner.run(loopback(reference_stub(week)))
            gc.collect()
            gc.freeze()
            runner.bodies, start[:] = 0.0, [time.perf_counter(), time.process_time()]
            for stub in tqdm(honest, desc="no isolation", unit=" student"):
                runner.run(loopback(stub))
            start[:] = [time.perf_counter() - start[0], time.process_time() - start[1]]

        runner.run_in_pytest(loop, silent=False)
        loop_cpu, bodies = start[1], runner.bodies

        summary = sandboxed(honest_root, week, arguments.jobs, arguments.isolation)
        spent = sum(summary.cpu_seconds.values())
        print_parts(f"sandboxed ({arguments.isolation}), honest only", summary, len(honest))
        whole = sandboxed(root / "class", week, arguments.jobs, arguments.isolation)
        print_parts(f"sandboxed ({arguments.isolation}), with the hostile", whole, arguments.students)
        full = [r for r in whole.results if r["score"] == r["max_score"]]
        names = {stub.parent.name for stub in hostile}
        print(f"  hostile submissions with full marks: {sum(r['student'] in names for r in full)}; ungraded: "
              f"{sum(r['status'] != 'graded' for r in whole.results)}\n")  # fmt: skip

        # One `python -m pytest` process a submission, on a sample.
        plain = root / "plain"
        plain.mkdir()
        (plain / "conftest.py").write_text(PLAIN)
        for file in (ROOT / "autograder" / "checks" / week.folder).glob("test_*.py"):
            (plain / file.name).write_bytes(file.read_bytes())
        before, began = cpu(), time.perf_counter()
        sample = honest[: arguments.pytest]
        for stub in tqdm(sample, desc="pytest each", unit=" student"):
            environment = os.environ | {"STUB": str(stub), "WEEK": str(week.number), "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(plain)]
            subprocess.run(command, env=environment, capture_output=True, check=False)
        pytest_cpu = (cpu() - before) / len(sample)
        pytest_wall = (time.perf_counter() - began) / len(sample)

        nbgrader = nbgraded(root / "nbgrader", week, honest[: arguments.nbgrader], summary) if arguments.nbgrader else None

    n = len(honest)
    print(f"{'CPU per submission':<44}{'ms':>9}{'ratio':>9}")
    rows = (
        ("check bodies alone", bodies / n),
        ("no isolation (pytest and codec, one process)", loop_cpu / n),
        (f"sandboxed ({arguments.isolation})", spent / n),
        ("one `python -m pytest` each (no isolation)", pytest_cpu),
        *([("nbgrader autograde (no isolation)", nbgrader.cpu)] if nbgrader else []),
    )
    for name, seconds in rows:
        print(f"{name:<44}{seconds * 1e3:>9.1f}{seconds * n / spent:>9.2f}")
    print(f"\noverhead beyond the check bodies: {(spent - bodies) / n * 1e3:.1f} ms of CPU a submission (aim 40)")
    print(f"total against no isolation: {spent / loop_cpu:.2f} times (aim 2)")
    print(f"one pytest each against the sandbox: {pytest_cpu * n / spent:.1f} times the CPU; {pytest_wall:.2f} s of wall time")
    if nbgrader:
        times = f"{nbgrader.cpu * n / spent:.1f} times the CPU; {nbgrader.wall:.2f} s of wall time"
        print(f"nbgrader autograde against the sandbox: {times}")


def nbgraded(folder: Path, week: Week, sample: list[Path], ours: engine.Summary) -> Timed | None:
    """Seconds a submission by nbgrader, its command's own start taken off; says how its points agree with ours."""
    if missing():
        print("nbgrader is not installed (pip install nbgrader): its row is left out\n")
        return None
    folder.mkdir()
    course = Course(folder, week, seed=1)
    for stub in sample:
        course.submit(stub.parent.name, stub)
    whole = course.autograde(len(sample))
    start = course.autograde(0)  # with nothing left to grade
    print(f"nbgrader: {len(sample)} submissions, {whole.cpu:.1f} s of CPU, of which {start.cpu:.1f} for the command's own start")
    known = {r["student"]: {t["id"]: t for t in r["tasks"]} for r in ours.results}
    wanted = [(name, task, known[name][task], score) for name, row in course.scores().items() for task, score in row.items()]
    partial = sum(0 < mine["score"] < mine["max_score"] for *_, mine, _ in wanted)
    for name, task, mine, score in wanted:
        if score != (mine["score"] if mine["score"] == mine["max_score"] else 0):
            print(f"  {name}, task {task}: nbgrader gives {score:g} points, the sandbox {mine['score']:g}")
    same = sum(score == mine["score"] for *_, mine, score in wanted)
    print(f"  the same points for {same} of {len(wanted)} tasks; a cell is all or nothing, so {partial} partial ones are 0\n")
    return Timed((whole.cpu - start.cpu) / len(sample), (whole.wall - start.wall) / len(sample))


def print_parts(title: str, summary: engine.Summary, students: int) -> None:
    parts = ", ".join(f"{name} {seconds / students * 1e3:.1f}" for name, seconds in summary.cpu_seconds.items())
    print(f"{title}: {summary.seconds:.1f} s of wall time; ms of CPU a submission: {parts}")


if __name__ == "__main__":
    main()
