"""One submission, one score: whatever vector instructions the processor has that marks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autograder import bank
from autograder.judge.runner import Runner, loopback, reference_stub
from autograder.manifest import load
from tests.conftest import NIGHTLY

ROOT = Path(__file__).parents[1]
WEEKS = [week.number for week in load().weeks if week.tasks] if NIGHTLY else [2]
EVERY = 1 if NIGHTLY else 12  # of the mutants, every so many
# What torch's own kernels, MKL, oneDNN, OpenBLAS and NumPy take instead of the best that the processor has.
OLD = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_SKX AVX512F AVX512CD AVX2 FMA3",
}
NEWER = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


def graded(number: int, every: int) -> dict[str, Any]:
    """Each check's status and misconception, for the right answers and some of the mutants of a week."""
    week = load().week(number)
    reference = reference_stub(week)
    mutants = bank.mutants(week, reference.read_text(encoding="utf-8"))[::every]
    runner, found = Runner(week, 11), {}

    def run(name: str, stub: Path, task: str | None = None) -> None:
        runs = runner.run(loopback(stub), only=task)
        found[name] = {f"{r.task.id} {o.name}": [o.kind, o.misconception] for r in runs for o in r.outcomes}

    def body() -> None:
        for stub in (reference, *bank.alternatives(week)):
            run(str(stub.relative_to(ROOT)), stub)
        for mutant in mutants:
            stub = Path(sys.argv[3]) / mutant.name / week.stub
            stub.parent.mkdir()
            stub.write_text(mutant.source, encoding="utf-8")
            run(mutant.name, stub, mutant.task)

    runner.run_in_pytest(body)
    return found


def at_level(level: dict[str, str], number: int, folder: Path) -> tuple[str, dict[str, Any]]:
    """The processor that torch then believes to have, and what `graded` finds in a process of that kind."""
    folder.mkdir()
    known = {name: value for name, value in os.environ.items() if name not in OLD}
    environment = known | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | level
    words = [sys.executable, "-m", "tests.test_fairness", str(number), str(EVERY), str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["capability"], answer["graded"]


@pytest.mark.parametrize("number", WEEKS)
def test_vector_instructions_change_no_score_and_no_diagnosis(number: int, tmp_path: Path) -> None:
    (_, here), (old, at_old), (newer, at_newer) = (
        at_level(level, number, tmp_path / name) for name, level in (("here", {}), ("old", OLD), ("newer", NEWER))
    )
    assert old in ("DEFAULT", "NO AVX") and newer != old  # the switch has worked
    assert at_old == here
    assert at_newer == here
    right = [checks for name, checks in here.items() if name.endswith(".py")]
    assert len(right) >= 4
    assert {kind for checks in right for kind, _ in checks.values()} == {"passed"}


if __name__ == "__main__":
    found = graded(int(sys.argv[1]), int(sys.argv[2]))
    import torch

    print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "graded": found}))
