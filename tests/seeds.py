"""Right answers on many seeds: `python -m tests.seeds --seeds 1000`, which `make nightly` runs. A failure is a check to mend.

One process a core goes through weeks and ranges of seeds; the checks are collected once for each.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed

# Before torch is imported by anything: two threads on a busy machine are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tqdm import tqdm

from autograder import bank
from autograder.judge.runner import Runner, loopback, reference_stub
from autograder.manifest import load

CHUNK = 20


def failures(number: int, seeds: range) -> list[str]:
    """What the reference and the alternatives of a week fail with these seeds, a line each."""
    week = load().week(number)
    runner = Runner(week, seeds[0])
    found: list[str] = []

    def body() -> None:
        for seed in seeds:
            runner.seed = seed
            for stub in (reference_stub(week), *bank.alternatives(week)):
                answer = "reference" if stub == reference_stub(week) else f"alternative {stub.parent.name}"
                for run in runner.run(loopback(stub)):
                    wrong = [o for o in run.outcomes if o.kind != "passed"]
                    found.extend(f"week {number}, seed {seed}, {answer}, {o.name}: {' '.join(o.message.split())}" for o in wrong)

    runner.run_in_pytest(body)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=1000, help="the first one (default 1000)")
    parser.add_argument("--week", type=int, action="append", help="only this week; again for more (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    arguments = parser.parse_args()
    weeks = arguments.week or [week.number for week in load().weeks if week.tasks]
    last = arguments.first + arguments.seeds
    # Seeds outside, weeks inside: stopped early, it has tried every week.
    chunks = [(w, range(s, min(s + CHUNK, last))) for s in range(arguments.first, last, CHUNK) for w in weeks]
    count = 0
    bar = tqdm(total=len(weeks) * arguments.seeds, unit=" seed", mininterval=1)
    with bar, ProcessPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(failures, *chunk): chunk for chunk in chunks}
        for future in as_completed(running):
            for line in future.result():
                count += 1
                bar.write(line)
            bar.update(len(running[future][1]))
    print(f"{arguments.seeds} seeds of {len(weeks)} weeks: {count} failures")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
