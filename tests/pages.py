"""What the tests of teaching pages share: sections, the equations that a script prints, numbers, formulas, links."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

FIGURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
# Left out where numbers are collected: citations and code; sections, weeks, types, indices, and the contract's "4 eps".
CITED = re.compile(r"\]\([^)]*\)|arXiv:[\d.]+|`[^`]*`|\b(?:19|20)\d\d\b")
PLACES = re.compile(r"section\s+\d\.\d|第\s*\d\.\d\s*节|week \d+|第 \d+ 周|\bb?float\d+|\\text\{[^}]*\}|_\d|4 \\varepsilon")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def sections(page: Path) -> dict[str, str]:
    """The text of each second-level section, by its heading's slug and by the id on the line before it."""
    source = page.read_text(encoding="utf-8")
    lines = source.splitlines()
    starts = []
    tokens = MarkdownIt().parse(source)
    for token, inline in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2" and token.map:
            above = lines[token.map[0] - 1]
            names = [slug(inline.content), *re.findall(r'^<a id="([^"]+)"></a>$', above)]
            starts.append((token.map[0], names))
    ends = [start for start, _ in starts[1:]] + [len(lines)]
    return {name: "\n".join(lines[start + 1 : end]) for (start, names), end in zip(starts, ends, strict=True) for name in names}


def printed(script: Path) -> dict[str, list[str]]:
    """The equations that a script prints, by section."""
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=script.parent)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        else:
            lines.append(line)
    return found


def numbers(text: str) -> set[str]:
    """Every number in a text, without its sign."""
    return set(re.findall(r"\d+(?:\.\d+)?", PLACES.sub(" ", CITED.sub(" ", FIGURE.sub(" ", text)))))


def formulas(text: str) -> set[str]:
    """What stands between dollar signs, each broken line joined."""
    return {" ".join(found.split()) for found in re.findall(r"\$\$?([^$]+)\$\$?", text)}


def shapes(svg: str) -> tuple[str, list[float]]:
    """A drawing's text with its numbers taken out, and the numbers: another processor may differ in their last digits.

    So may the names of clip paths, which are made of such numbers.
    """
    svg = re.sub(r"\bp[0-9a-f]{10}\b", "p#", svg)
    return re.sub(r"-?\d+\.\d+", "#", svg), [float(number) for number in re.findall(r"-?\d+\.\d+", svg)]
