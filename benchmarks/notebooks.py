"""Runs the notebooks with the references, headless, and prints what each costs.

python benchmarks/notebooks.py            all of them
python benchmarks/notebooks.py 4 9        these weeks
python benchmarks/notebooks.py --out DIR  keep the executed notebooks (default build/notebooks)
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from pathlib import Path

from tqdm import tqdm

from autograder.authoring import notebooks
from autograder.manifest import load

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weeks", nargs="*", type=int, help="week numbers (default: all that have a notebook)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "notebooks", help="where the executed notebooks go")
    parser.add_argument("--lang", choices=("en", "zh"), default="en", help="the language of the text (default en)")
    arguments = parser.parse_args()
    found = list(notebooks.sources())
    wanted = [f"week{week:02d}" for week in arguments.weeks] or found
    if unknown := [folder for folder in wanted if folder not in found]:
        parser.error(f"no notebook for {', '.join(unknown)}")
    # The references, whatever stands in exercises/; one thread, as where it is marked.
    os.environ |= {"LAB_STUBS": "reference", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    import nbformat

    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{'notebook':10}{'wall s':>8}{'CPU s':>8}")
    failed = 0
    for folder in tqdm(wanted, unit=" notebook", leave=False):
        notebook = notebooks.solved(folder, load(), arguments.lang)
        wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            notebooks.execute(notebook, ROOT / notebooks.TARGETS[arguments.lang])
        except notebooks.NotebookError as error:
            failed += 1
            print(f"{folder}: {error}", file=sys.stderr)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        notebook.metadata["lora_graded"] = {"cpu_seconds": cpu}
        nbformat.write(notebook, arguments.out / f"{folder}.ipynb")
        tqdm.write(f"{folder:10}{time.perf_counter() - wall:8.1f}{cpu:8.1f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
