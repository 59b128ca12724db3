"""The Chinese texts of the course use the terms that are fixed in TERMINOLOGY.md, and none of those that it rules out."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "TERMINOLOGY.md"
TEXTS = [
    *sorted((ROOT / "course").rglob("*.zh.md")),
    *sorted((ROOT / "course").rglob("*.toml")),
    *sorted((ROOT / "docs").rglob("*.zh.md")),
    *sorted((ROOT / "notebooks" / "zh").glob("*.ipynb")),
    ROOT / "README.zh.md",
    ROOT / "docs" / "release" / "AGENTS.md",
    ROOT / "syllabus.zh.md",
]
MESSAGES = [
    *sorted((ROOT / "autograder" / "bank").rglob("*.toml")),
    *sorted((ROOT / "autograder" / "checks").glob("*/texts.toml")),
    ROOT / "autograder" / "judge" / "words.toml",
    ROOT / "autograder" / "refusals.toml",
    *sorted((ROOT / "solutions").glob("*/answers.toml")),
]


@functools.cache
def terms() -> list[tuple[str, list[str], list[str]]]:
    """The table: English, the terms, and what is ruled out."""
    rows = re.findall(r"^\| (?!English)([^|]+) \| ([^|]+) \| ?([^|]*) \|[^|]*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [
        (english, re.split("[；、]", chinese), [w for w in ruled_out.strip().split("、") if w])
        for english, chinese, ruled_out in rows
    ]


def chinese(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text, numbered; of a notebook those of its Markdown, numbered by cell."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(text)["cells"], 1):
            if cell["cell_type"] == "markdown":
                yield number, "".join(cell["source"])
    else:
        yield from enumerate(text.splitlines(), 1)


def deviations(path: Path) -> list[str]:
    ruled_out = [(word, "、".join(right)) for _, right, words in terms() for word in words]
    return [f"{path.name}:{n}: {word}, not {right}" for n, line in chinese(path) for word, right in ruled_out if word in line]


def test_the_table_is_whole() -> None:
    found = terms()
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(found) == len(rows) - 1 >= 80
    english, right, ruled_out = zip(*found, strict=True)
    assert list(english) == sorted(english, key=str.lower)
    words = [word for one in ruled_out for word in one]
    assert len(words) == len(set(words)) > 50
    allowed = [term for one in right for term in one]
    assert not [(word, term) for word in words for term in allowed if word in term]


def test_the_terms_are_in_use() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in TEXTS)
    assert not [term for _, right, _ in terms() for term in right if term not in texts]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_term_is_used(path: Path) -> None:
    assert not deviations(path)


def test_no_other_term_is_used_in_messages() -> None:
    assert len(MESSAGES) > 500
    assert not [line for path in MESSAGES for line in deviations(path)]


def test_another_term_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.zh.md").write_text("底座冻结。\n基座冻结。\n", encoding="utf-8")
    assert deviations(tmp_path / "a.zh.md") == ["a.zh.md:2: 基座, not 底座"]
    cells = [{"cell_type": "code", "source": ["基座"]}, {"cell_type": "markdown", "source": ["一\n", "基座"]}]
    (tmp_path / "b.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert deviations(tmp_path / "b.ipynb") == ["b.ipynb:2: 基座, not 底座"]
