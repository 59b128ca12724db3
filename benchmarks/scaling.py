"""Grading by Dask workers: how throughput grows with their number, and what a large class costs.

    python benchmarks/scaling.py [--submissions 60] [--week 2] [--workers 1,2] [--class 100000]

Starts a scheduler and that many workers on this machine, one judge each, and grades two classes with each number of them: a small
one, and the whole. Both pay for the judges' starts (a sandbox, the canary, the bank's mutants), so their difference is
submissions alone. With more workers than free cores the ratios say nothing.
The cost of a large class is computed from the CPU seconds of a submission and of a start that were measured here.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from distributed import LocalCluster

from autograder.grading import engine
from autograder.manifest import Week, load
from autograder.proof import sample

SMALL = engine.FEW + 1  # the smallest class for which a judge runs all mutants at its start


def graded(folder: Path, week: Week, out: Path, address: str) -> engine.Summary:
    return engine.grade(folder, week, out, load(), seed=1, scheduler=address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=60, help="at least 30")
    parser.add_argument("--week", type=int, default=2)
    parser.add_argument("--workers", default="1,2", help="numbers of workers, with commas (default 1,2)")
    parser.add_argument("--class", dest="size", type=int, default=100_000, help="the large class (default 100000)")
    arguments = parser.parse_args()
    week = load().week(arguments.week)
    numbers = [int(number) for number in arguments.workers.split(",")]
    count = max(30, arguments.submissions)
    first = each = start = 0.0
    print(f"{count} submissions of week {week.number}; {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    print("workers  seconds  of these start  a second, warm  ratio", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        sample.write(place / "small", week, SMALL)
        sample.write(place / "class", week, count)
        for number in numbers:
            with LocalCluster(
                n_workers=number,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                local_directory=str(place / "dask"),
            ) as cluster:
                small = graded(place / "small", week, place / f"small{number}", cluster.scheduler_address)
                whole = graded(place / "class", week, place / f"out{number}", cluster.scheduler_address)
            more, seconds = count - SMALL, max(whole.seconds - small.seconds, 1e-9)
            rate = more / seconds
            first = first or rate
            # Of two runs with the same starts, the difference is submissions alone.
            each = (sum(whole.cpu_seconds.values()) - sum(small.cpu_seconds.values())) / more
            start = max(0.0, sum(small.cpu_seconds.values()) - SMALL * each) / number
            print(
                f"{number:>7}  {whole.seconds:>7.1f}  {whole.seconds - count / rate:>14.1f}  {rate:>14.2f}  {rate / first:>5.2f}",
                flush=True,
            )
    hours = arguments.size * each / 3600
    print(f"\nCPU seconds: {each:.3f} a submission, {start:.1f} a judge's start")
    print(f"{arguments.size:,} submissions: {hours:.1f} CPU hours; on 64 workers {(hours * 3600 / 64 + start) / 60:.0f} minutes")


if __name__ == "__main__":
    sys.exit(main())
