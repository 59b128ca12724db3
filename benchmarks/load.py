"""A large class under load: throughput, latency, and whether memory grows.

    python benchmarks/load.py [--submissions 2000] [--weeks 2,4,6,8] [--jobs 2]

The class is that of `autograder sample` (right, wrong, unfinished and broken answers from the bank), divided among the weeks and
graded by the real engine, in a process of its own. Memory is sampled from /proc meanwhile: the engine, its judges and zygotes,
without the workers, which live for one task. It is the proportional set size where /proc tells it, so that shared pages count
once, else the resident one. Growth is the slope of a line through the samples after the first fifth of the class.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from autograder.judge.runner import ROOT
from autograder.manifest import load
from autograder.proof import sample

WARM_UP = 0.2
RUN = """
import json, sys
from pathlib import Path
from autograder.grading import engine
from autograder.manifest import load
folder, number, out, jobs, level = sys.argv[1:]
course = load()
summary = engine.grade(Path(folder), course.week(int(number)), Path(out), course, seed=1, jobs=int(jobs), isolation=level)
ungraded = sum(result["status"] != "graded" for result in summary.results)
print(json.dumps({"cpu": sum(summary.cpu_seconds.values()), "seconds": summary.seconds, "ungraded": ungraded}))
"""


def is_worker(pid: int) -> bool:
    """Whether a process is PID 1 of a namespace inside the sandbox's own."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    outer = len(Path("/proc/self/status").read_text().partition("NSpid:")[2].splitlines()[0].split())
    return len(line.split()) - 1 > outer + 1


def memory_mib(root: int) -> float:
    """Of the engine, its judges and zygotes."""
    total = 0
    engine = psutil.Process(root)
    for process in [engine, *engine.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, OSError, StopIteration):  # it ended meanwhile
            if not is_worker(process.pid):
                try:
                    total += process.memory_full_info().pss
                except psutil.AccessDenied:
                    total += process.memory_info().rss
    return total / 2**20


def run_week(folder: Path, number: int, out: Path, jobs: int, level: str) -> dict[str, Any]:
    """Grade one week's class; returns its figures."""
    command = [sys.executable, "-c", RUN, str(folder), str(number), str(out), str(jobs), level]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    path, samples, done, at = out / "results.jsonl", [], 0, 0
    while process.poll() is None:
        if path.exists():
            with open(path, "rb") as file:
                file.seek(at)
                new = file.read()
            done, at = done + new.count(b"\n"), at + len(new)
        if done:
            with contextlib.suppress(psutil.NoSuchProcess):
                samples.append((done, memory_mib(process.pid)))
        time.sleep(0.5)
    text = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"week {number}: the engine ended with {process.returncode}")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    seconds = sorted(line["seconds"] for line in lines)
    return json.loads(text.splitlines()[-1]) | {"each": seconds, "samples": samples, "bytes": path.stat().st_size}


def growth(samples: list[tuple[int, float]], count: int) -> tuple[float, float]:
    """(MiB more for each 1,000 submissions, its standard error) by a line through what follows the warm-up."""
    late = [(done, mib) for done, mib in samples if done >= WARM_UP * count]
    if len({done for done, _ in late}) < 3:
        return float("nan"), float("nan")
    x, y = (np.array(column, float) for column in zip(*late, strict=True))
    slope, offset = np.polyfit(x, y, 1)
    left = y - slope * x - offset
    error = np.sqrt((left**2).sum() / max(1, len(x) - 2) / ((x - x.mean()) ** 2).sum())
    return float(slope * 1000), float(error * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=2000)
    parser.add_argument("--weeks", default="2,4,6,8")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--isolation", default="bwrap", choices=("bwrap", "process"))
    arguments = parser.parse_args()
    numbers = [int(number) for number in arguments.weeks.split(",")]
    course = load()
    print(f"{arguments.submissions} submissions, {arguments.jobs} jobs, level {arguments.isolation}")
    print(
        "week  submissions  a second  CPU s each  p50 s  p99 s  peak MiB  MiB per 1,000 more  KiB a result  ungraded", flush=True
    )
    for i, number in enumerate(numbers):
        count = arguments.submissions // len(numbers) + (i < arguments.submissions % len(numbers))
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary)
            sample.write(place / "class", course.week(number), count)
            found = run_week(place / "class", number, place / "out", arguments.jobs, arguments.isolation)
        each, samples = found["each"], found["samples"]
        p99 = statistics.quantiles(each, n=100, method="inclusive")[98] if len(each) > 1 else each[0]
        slope, error = growth(samples, count)
        print(
            f"{number:>4}  {count:>11}  {count / found['seconds']:>8.2f}  {found['cpu'] / count:>10.3f}  "
            f"{statistics.median(each):>5.2f}  {p99:>5.2f}  {max((mib for _, mib in samples), default=0):>8.0f}  "
            f"{slope:>9.1f} ± {error:<6.1f}  {found['bytes'] / count / 1024:>12.1f}  {found['ungraded']:>8}",
            flush=True,
        )


if __name__ == "__main__":
    main()
