"""Targets for coverage-guided fuzzing: what reads bytes that a student chose.

Each module has `SEEDS`, inputs to begin with, made from real messages and files, and `one(data)`, which raises for a finding:
an exception other than the declared ones, or a result outside the limits. `scripts/fuzz.py` adds the limits on memory and time.
`found/TARGET/` keeps inputs that once were findings; tests/test_fuzz.py tries them, the seeds, and small changes of the seeds.
"""

from __future__ import annotations

from pathlib import Path

TARGETS = ("wire", "archive", "folder", "notebook", "results", "files")
FOUND = Path(__file__).parent / "found"
