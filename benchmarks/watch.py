"""How much faster `autograder watch` answers than `autograder check`, in wall and CPU time.

    python benchmarks/watch.py            weeks 2, 4 and 5 and the first task of each, five answers each
    python benchmarks/watch.py 4.2 --runs 9
    python benchmarks/watch.py --release  in students' copies, which hold recorded answers instead of the reference

For a check: from its start to its end. For watch: from the save to the line that says that it waits again. Both on the
reference, of which every save is a new version.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from autograder.judge.runner import ROOT, reference_stub
from autograder.manifest import Week, load

_WAITS = "waiting for you to save"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", metavar="WEEK[.TASK]", nargs="*", default=["2.1", "2", "4.1", "4", "5.1", "5"])
    parser.add_argument("--runs", type=int, default=5, help="of which the median is taken (default 5)")
    parser.add_argument("--release", action="store_true", help="make a students' copy of each week, and measure there")
    arguments = parser.parse_args()
    print("| | check: wall, CPU (s) | watch: wall, CPU (s) | ratio: wall, CPU |\n|---|---|---|---|")
    for what in arguments.what:
        week = load().week(int(what.partition(".")[0]))
        with tempfile.TemporaryDirectory() as folder:
            copy = _release(week, Path(folder) / "copy") if arguments.release else ROOT
            stub = Path(folder) / week.stub
            shutil.copy(reference_stub(week), stub)
            check = [_check(what, stub, copy) for _ in range(arguments.runs)]
            watch = _watch(what, stub, arguments.runs, copy)
        (wall, cpu), (again, cpu_again) = (tuple(map(statistics.median, zip(*seen, strict=True))) for seen in (check, watch))
        ratios = f"{wall / again:.1f}, {cpu / cpu_again:.1f}"
        print(f"| {what} | {wall:.2f}, {cpu:.2f} | {again:.2f}, {cpu_again:.2f} | {ratios} |", flush=True)


def _release(week: Week, folder: Path) -> Path:
    words = [sys.executable, "-m", "autograder", "release", "--week", str(week.number), "--out", str(folder)]
    subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, check=True)
    return folder


def _command(command: str, what: str, stub: Path, copy: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "autograder", command, what, "--file", str(stub)]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "AUTOGRADER_LANG": "en"}
    return subprocess.Popen(words, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True)


def _check(what: str, stub: Path, copy: Path = ROOT) -> tuple[float, float]:
    start, used = time.perf_counter(), os.times()
    process = _command("check", what, stub, copy)
    process.communicate()
    now = os.times()
    cpu = now.children_user - used.children_user + now.children_system - used.children_system
    return time.perf_counter() - start, cpu


def _watch(what: str, stub: Path, runs: int, copy: Path = ROOT) -> list[tuple[float, float]]:
    process = _command("watch", what, stub, copy)
    assert process.stdout is not None
    text, found = stub.read_text(encoding="utf-8"), []
    try:
        next(line for line in process.stdout if _WAITS in line)
        for version in range(runs):
            time.sleep(0.2)
            start, used = time.perf_counter(), _cpu(process.pid)
            new = stub.with_suffix(".new")
            new.write_text(f"{text}\n# {version}\n", encoding="utf-8")
            os.replace(new, stub)
            next(line for line in process.stdout if _WAITS in line)
            found.append((time.perf_counter() - start, _cpu(process.pid) - used))
    finally:
        process.kill()
        process.wait()
    return found


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
