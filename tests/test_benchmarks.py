"""The benchmarks run and say what they have measured; how long anything took is for docs/benchmarks.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINE = r"^\| .+ \| \d+ ms \| .+ \| \d+ ms \| [\d.]+ \| (?:at (?:most|least) [\d.]+ \| (?:not )?reached| \| ) \|$"


def peers(*words: str) -> str:
    command = [sys.executable, "benchmarks/peers.py", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_comparison_prints_a_ratio_its_aim_and_whether_it_is_reached() -> None:
    printed = peers("help", "check", "references", "--weeks", "2", "--runs", "1")
    names = [row.split(" | ")[0] for row in re.findall(LINE, printed, re.M)]
    assert names == [
        "| `autograder --help`",
        "| `autograder check 2.1`",
        "| NF4 quantise (wall)",
        "| NF4 dequantise (wall)",
        "| LoRA forward and backward (wall)",
    ]
    assert re.search(r"^\d+ s; load [\d.]+ before, [\d.]+ after, on \d+ cores", printed, re.M)


def test_help_imports_nothing_heavy() -> None:
    assert "it imports" not in peers("help", "--runs", "1")


@pytest.mark.bwrap
def test_grading_is_held_against_pytest_and_nbgrader() -> None:
    printed = peers("grading", "--weeks", "2", "--students", "2", "--peers", "1")
    rows = re.findall(LINE, printed, re.M)
    assert [peer in row for row, peer in zip(rows, ("python -m pytest", "nbgrader autograde"), strict=True)] == [True, True]
    assert "name its interpreter with --otter" in printed


def test_an_unknown_comparison_is_refused_with_the_known_ones() -> None:
    command = [sys.executable, "benchmarks/peers.py", "speed"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "choose from help, check" in done.stderr
