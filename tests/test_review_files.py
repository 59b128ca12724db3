"""Every week has a file to review, which says how many bugs it has, and a key that explains as many."""

from __future__ import annotations

import ast
import re

import pytest

from autograder.manifest import Week, load
from tests.conftest import ROOT

WEEKS = [week for week in load().weeks if week.tasks]
NUMBERS = {"three": 3, "four": 4, "five": 5}


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.folder)
def test_the_key_explains_as_many_bugs_as_the_file_announces(week: Week) -> None:
    source = (ROOT / "course" / week.folder / "review.py").read_text(encoding="utf-8")
    said = re.search(r"\b(three|four|five) (?:planted )?bugs\b", ast.get_docstring(ast.parse(source)) or "", re.IGNORECASE)
    assert said, "the docstring does not say how many bugs there are"
    key = (ROOT / "solutions" / week.folder / "review.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|", key, re.MULTILINE)[2:]  # below the heading of a table
    items = re.findall(r"^\d\. ", key, re.MULTILINE)
    assert len(rows or items) == NUMBERS[said[1].lower()], "the key is a table or a list with an entry for each bug"
    assert 30 <= len(source.splitlines()) <= 120
