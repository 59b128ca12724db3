"""A week as an assignment on GitHub: the students' repository for one week, with a workflow that checks every push.

It is a template repository, which any tool that hands such out can take; Classroom 50 can take its tests as well. What runs in a
student's repository can be changed by the student, so it is feedback. Marks come from `autograder grade` over the clones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from autograder.authoring import release
from autograder.manifest import Course, Week

WORKFLOW = ".github/workflows/classroom.yml"
TESTS = ".github/classroom/tests.json"
INSTALL = "python3 -m venv .venv && .venv/bin/python -m pip install -q -c constraints.txt -e ."
_TEMPLATE = Path(__file__).with_name("classroom.yml")
_SECONDS = 300  # of one task: its checks, and what it takes to import torch on a small machine


def write(out: Path, course: Course, week: Week, progress: Callable[[int, int], None]) -> int:
    """Write the repository to a new folder; returns how many files it has.

    Raises:
        ReleaseError: if the folder is there, or what would be released holds what it must not.
    """
    return release.write(out, course, [week], progress, 1, files(week))


def files(week: Week) -> dict[str, str]:
    """What makes it an assignment, by path: the workflow, and the tests as Classroom 50 takes them."""
    workflow = _TEMPLATE.read_text(encoding="utf-8").replace("@WEEK@", str(week.number)).replace("@INSTALL@", INSTALL)
    tests = [{"name": "setup", "type": "run", "run": INSTALL, "timeout": 600, "points": 0}]
    for task in week.core:
        command = f".venv/bin/autograder check {task.id}"
        tests.append({"name": task.id, "type": "run", "run": command, "timeout": _SECONDS, "points": task.points})
    return {WORKFLOW: workflow, TESTS: json.dumps(tests, indent=2) + "\n"}
