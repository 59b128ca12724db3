"""Notebooks: what labrun takes of a student's file, the answers in an executed one, and what a TA's browser gets."""

from __future__ import annotations

import json
import re
from typing import Any

from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from autograder.grading import labrun
from autograder.judge import answers
from autograder.manifest import load
from autograder.reports import sanitise
from course.labs.core import MIME

WEEK = load().week(4)
_ANSWER = {"kind": "answer", "id": "4.q1", "value": 3.5}
_CELLS = [
    new_markdown_cell(
        "# T <b>x</b> [a](javascript:1) $\\href{x}{y}$ &lt;", metadata={"nbgrader": {"grade_id": "q2", "points": 9}}
    ),
    new_code_cell(
        "x = 1",
        outputs=[
            new_output("stream", name="stdout", text="\x1b[1m<script>\u202e"),
            new_output("display_data", data={MIME: _ANSWER, "text/plain": "4.q1: 3.5", "text/html": "<svg/onload=x>"}),
            new_output("display_data", data={"image/png": "iVBORw0KGgo="}),
            new_output("error", ename="E", evalue="v", traceback=["t"]),
        ],
    ),
]
SEEDS = [json.dumps(new_notebook(cells=cells)).encode() for cells in ([], _CELLS[:1], _CELLS)]
SEEDS += [json.dumps({"cells": [{"cell_type": kind, "source": ["a", "b"]}]}).encode() for kind in ("code", "raw", "x")]
SEEDS += [b"{}", b"[" * 99, b'{"cells": [{"cell_type": "code", "source": "", "outputs": [{"data": ["x"]}]}]}']


def one(data: bytes) -> None:
    """Read it as a submission, as an executed notebook, and for a browser."""
    try:
        assert len(labrun._notebook(data).cells) <= 500
    except answers.UnreadableNotebook as error:
        assert "\n" not in str(error)
    try:
        parsed: Any = json.loads(data)
    except (ValueError, RecursionError):
        return
    made = {"cells": []}
    if isinstance(parsed, dict):
        made = parsed
        try:
            inert(sanitise.notebook(parsed))
        except RecursionError:  # deeper than json can be written: what labrun reads, it has written itself
            return
    scores = answers.score(WEEK, answers.found(made))
    assert 0 <= sum(score.points for score in scores) <= sum(q.points for q in WEEK.questions if not q.written)


def inert(made: Any) -> None:
    """What holds of every notebook that a TA sees."""
    for cell in made.cells:
        if cell.cell_type == "markdown" and not cell.source.startswith("```"):
            assert not re.search(r"<[A-Za-z/!?]|\][(\[:]|&[#A-Za-z](?!mp;)", cell.source), cell.source
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", cell.source)
        assert set(cell.metadata) <= {"nbgrader"}
        for output in cell.get("outputs", []):
            assert set(output.get("data", {})) <= {"text/plain", "image/png", "image/jpeg"}
