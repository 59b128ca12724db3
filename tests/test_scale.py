"""What docs/scale.md tells people to run: the benchmark of load, small, and the script for SLURM."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_the_load_benchmark_prints_a_row_a_week(level: str) -> None:
    words = [sys.executable, "benchmarks/load.py", "--submissions", "24", "--weeks", "2", "--jobs", "1", "--isolation", level]
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    title, head, row = done.stdout.splitlines()
    assert title == f"24 submissions, 1 jobs, level {level}"
    assert head.split("  ")[:3] == ["week", "submissions", "a second"] and "p99 s" in head and "MiB per 1,000 more" in head
    cells = row.replace("±", "").split()
    assert cells[:2] == ["2", "24"] and cells[-1] == "0" and len(cells) == 11
    assert all(float(cell) > 0 for cell in cells[2:7])


def test_the_script_for_slurm_explains_itself() -> None:
    words = [sys.executable, "scripts/slurm.py", "--help"]
    done = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    for option in ("--jobs", "--queue", "--interface", "--show"):
        assert option in done.stdout and option in page
