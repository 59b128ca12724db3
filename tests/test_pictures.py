"""The README's pictures show what the command says today."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from autograder.judge.runner import TaskRun
from autograder.manifest import Lang
from course.site import pictures


@pytest.fixture(scope="module")
def found() -> list[TaskRun]:
    return pictures.runs()


@pytest.mark.parametrize("lang", pictures.FILES)
def test_a_picture_shows_what_the_command_says(found: list[TaskRun], lang: Lang) -> None:
    made = pictures.text_of(pictures.picture(pictures.shown(found, lang), lang))
    kept = pictures.text_of(pictures.FILES[lang].read_text(encoding="utf-8"))
    assert kept == made, "make them again: python -m course.site.pictures"
    assert len(made) > 10 and "alpha / rank" in " ".join(made)


@pytest.mark.parametrize("lang", pictures.FILES)
def test_a_picture_is_whole_and_loads_nothing(lang: Lang) -> None:
    svg = pictures.FILES[lang].read_text(encoding="utf-8")
    ET.fromstring(svg)
    assert not re.search(r'(?:href|url)\(?=?["(]?https?:|@import|@font-face|<script', svg)
