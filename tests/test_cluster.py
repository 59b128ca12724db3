"""Grading by Dask workers: the same results as here, whatever is killed, and one line for each thing that can be wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from autograder.cli import main
from tests import faults
from tests.conftest import ROOT
from tests.daskcluster import Cluster, cluster


@pytest.fixture(scope="module")
def submissions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faults.make_class(tmp_path_factory.mktemp("class") / "in", 14)  # three batches


@pytest.fixture(scope="module")
def local(submissions: Path, tmp_path_factory: pytest.TempPathFactory, level: str) -> Path:
    out = tmp_path_factory.mktemp("local") / "out"
    faults.grade(submissions, out, level)
    return out


@pytest.fixture
def dask(tmp_path: Path) -> Any:
    with cluster(tmp_path / "dask", 2) as found:
        yield found


def start(submissions: Path, out: Path, level: str, address: str) -> subprocess.Popen[str]:
    words = faults.command(submissions, out, level, "--engine", "dask", "--scheduler", address)
    return faults.start(words, out.with_name("tmp"))


def judges(worker: subprocess.Popen[bytes]) -> list[int]:
    return [pid for pid in faults.descendants(worker.pid) if "autograder.grading.remote" in faults.words_of(pid)]


def without_times(path: Path) -> bytes:
    return re.sub(rb'"seconds": [0-9.e-]+', b'"seconds": 0', path.read_bytes())


@pytest.mark.parametrize("victim", ["nobody", "worker", "judge"])
def test_the_same_results_as_here(victim: str, dask: Cluster, submissions: Path, local: Path, tmp_path: Path, level: str) -> None:
    """To the byte, times aside; also if a worker is killed in the middle, or the judge of one."""
    out = tmp_path / "out"
    process = start(submissions, out, level, dask.address)
    if victim != "nobody":
        faults.until(lambda: any(map(judges, dask.workers)), process)
        worker = next(w for w in dask.workers if judges(w))
        seen = faults.descendants(worker.pid)
        os.kill(worker.pid if victim == "worker" else judges(worker)[0], signal.SIGKILL)
        faults.until(lambda: not any("autograder" in faults.words_of(pid) for pid in seen))  # its sandbox ends with it
    _, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (0, "")
    assert without_times(out / "results.jsonl") == without_times(local / "results.jsonl")
    assert faults.count(out) == len(faults.lines(out)) == 14
    assert not any(judges(w) for w in dask.workers)  # none waits for a run that is over


def test_a_worker_that_is_not_fit_is_one_line(submissions: Path, tmp_path: Path, level: str) -> None:
    """Another copy of the course, no bubblewrap, no course at all; each is found before anything is graded."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("course", "solutions"):
        (other / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "autograder", other / "autograder", ignore=shutil.ignore_patterns("__pycache__"))
    with open(other / "autograder/grading/sandbox.py", "a") as file:
        file.write("# another version\n")
    empty = tmp_path / "empty"
    (empty / "autograder").mkdir(parents=True)
    (empty / "autograder" / "__init__.py").write_text("")
    cases = [
        (
            {"PYTHONPATH": str(other)},
            r"its copy of the course is [0-9a-f]{16}, not [0-9a-f]{16}: give all machines the same",
        ),
        ({"PYTHONPATH": str(empty)}, r"cannot judge \(.*autograder.*\): start it in the course's folder"),
    ]
    if level == "bwrap":
        cases.append(({"PATH": str(empty)}, "bubblewrap is not installed"))
    with cluster(tmp_path / "dask", 0) as found:
        for number, (environment, wanted) in enumerate(cases):
            worker = found.add(**environment)
            out = tmp_path / f"out{number}"
            _, error = (process := start(submissions, out, level, found.address)).communicate(timeout=120)
            assert process.returncode == 2
            assert re.search(wanted, error) and len(error.splitlines()) == 1, error
            assert not (out / "results.jsonl").exists()
            worker.terminate()
            worker.wait()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--engine", "dask"], "--engine dask and --scheduler tcp://HOST:PORT go together"),
        (["--scheduler", "tcp://localhost:1"], "--engine dask and --scheduler tcp://HOST:PORT go together"),
        (["--engine", "dask", "--scheduler", "localhost"], "localhost is no address of a scheduler"),
        (["--engine", "dask", "--scheduler", "tcp://localhost:1", "--jobs", "2"], "--jobs is for judges on this machine"),
        (["--engine", "dask", "--scheduler", "tcp://127.0.0.1:1"], "the scheduler tcp://127.0.0.1:1 cannot be reached"),
    ],
)
def test_a_wrong_address_is_one_line(
    arguments: list[str],
    line: str,
    submissions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("autograder.grading.cluster._CONNECT_SECONDS", 1)
    assert main(["grade", str(submissions), "--week", "2", "--out", str(tmp_path / "out"), "--quiet", *arguments]) == 2
    error = capsys.readouterr().err
    assert line in error and len(error.splitlines()) == 1


def test_a_scheduler_without_workers_is_one_line(
    submissions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autograder.grading.cluster._WORKER_SECONDS", 1)
    with cluster(tmp_path / "dask", 0) as found:
        words = ["grade", str(submissions), "--week", "2", "--out", str(tmp_path / "out"), "--quiet"]
        assert main([*words, "--engine", "dask", "--scheduler", found.address]) == 2
    error = capsys.readouterr().err
    assert f"has no workers: start some, in the course's folder, with `dask worker {found.address}" in error
    assert len(error.splitlines()) == 1


def test_a_local_run_imports_no_dask() -> None:
    program = (
        "import sys, autograder.grading.engine, autograder.grading.cluster\nassert not {'dask', 'distributed'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


def test_a_judge_process_refuses_what_it_cannot_do(week: Any) -> None:
    """A worker that joins late is asked as well, at its first batch."""
    from autograder.grading import cluster as ours
    from autograder.grading.engine import GradeError

    spec = ours.Spec(week.number, 1, "process", True, (("Python", "2.7"),))
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            ours.judge(spec, [], False)
        except GradeError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)  # as in a worker, not in the main thread
    thread.start()
    thread.join()
    assert "its Python is" in str(raised[0]) and "not 2.7" in str(raised[0])
