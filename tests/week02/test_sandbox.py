"""A week without torch is graded in the sandbox, stand-ins and probes included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autograder import bank
from autograder.authoring.build import stub_source
from autograder.judge.runner import reference_stub
from autograder.manifest import load
from tests.conftest import ROOT

WEEK = load().week(2)
REFERENCE = reference_stub(WEEK).read_text(encoding="utf-8")
FOLDED = "return (A @ x.reshape(n, q) @ B.T).ravel()"
# Forms the product and forges the measurement of memory; the largest sizes do not fit into the sandbox all the same.
DECEIVED = "import tracemalloc; tracemalloc.get_traced_memory = lambda: (0, 0); return np.kron(A, B) @ x"


@pytest.mark.bwrap
def test_a_class_is_graded(tmp_path: Path) -> None:
    helpers = next(p.parent for p in bank.alternatives(WEEK) if p.parent.name == "with_helpers")
    answers = {
        "reference": {WEEK.stub: REFERENCE},
        "helpers": {p.name: p.read_text(encoding="utf-8") for p in helpers.glob("*.py")},
        "one task": {WEEK.stub: stub_source(REFERENCE, WEEK, keep={"2.3"})},
        "formed": {WEEK.stub: next(m.source for m in bank.mutants(WEEK, REFERENCE) if m.name == "kron_formed")},
        "deceiver": {WEEK.stub: REFERENCE.replace(FOLDED, DECEIVED)},
        "by torch": {WEEK.stub: "import torch\n" + REFERENCE},
    }
    for student, files in answers.items():
        (tmp_path / "class" / student).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "class" / student / name).write_text(text, encoding="utf-8")
    # In a process of its own: judges are forked, and other tests may have started threads in this one.
    command = [sys.executable, "-m", "autograder", "grade", "class", "--week", "2", "--out", "out", "--quiet"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    lines = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    scores = {r["student"]: [t["score"] for t in r["tasks"][:4]] for r in map(json.loads, lines)}
    assert scores == {
        "reference": [15, 25, 15, 15],
        "helpers": [15, 25, 15, 15],
        "one task": [0, 0, 15, 0],
        "formed": [15, 25, 15, 0],
        "deceiver": [15, 25, 15, 0],
        "by torch": [0, 0, 0, 0],
    }
