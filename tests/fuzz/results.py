"""results.py: an output folder whose files are not what a run wrote."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from autograder import results

_CHECK = {
    "name": "scale", "property": "p", "weight": 1.5, "gate": True, "status": "wrong", "message": "m", "misconception": None,
    "misconception_zh": None, "tier": "basic",
}  # fmt: skip
_TASK = {"id": "4.1", "score": 0, "max_score": 10, "status": "failed", "misconception": None, "message": "", "checks": [_CHECK]}
_RESULT = {
    "schema": 1, "student": "ada \u2028 \u4e2d", "week": 4, "seed": 1, "status": "graded", "score": 0, "max_score": 70,
    "tasks": [_TASK], "key": "k", "message": "", "notices": [], "isolation": "bwrap",
}  # fmt: skip
_RUN = {"week": 4, "seed": 1, "isolation": "bwrap"}
# run.json, then a line a result, then notebooks.jsonl behind an empty line.
SEEDS = [
    json.dumps(_RUN).encode() + b"\n" + results.line(_RESULT).encode() + b"\n" + results.line(_RESULT).encode(),
    json.dumps(_RUN).encode() + b"\n" + json.dumps({**_RESULT, "status": "ungraded", "score": None, "tasks": []}).encode(),
    b"{}\n{}\n\n{}",
    b"[" * 2000,
]


def one(data: bytes) -> None:
    """Read it in every way; only RunError may come."""
    head, _, labs = data.partition(b"\n\n")
    run, _, lines = head.partition(b"\n")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place)
        for name, contents in (("run.json", run), ("results.jsonl", lines), ("notebooks.jsonl", labs)):
            (folder / name).write_bytes(contents)
        with contextlib.suppress(results.RunError):
            _, found = results.read(folder)
            results.grades_csv(found)
        with contextlib.suppress(results.RunError):
            results.read_labs(folder)
        dict(results._read_places(folder / "results.jsonl", 4))  # as a run that goes on reads it
