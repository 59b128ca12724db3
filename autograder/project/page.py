"""The Markdown pages of a project, read by line: headings, sections, figures, tables and their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from autograder.project.handbook import Section

_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+(?:['’.-][^\W_{_HAN}]+)*")
_NUMBERING = re.compile(r"^(?:[\d.]+|[一二三四五六七八九十]+[、.])[\s.·、]*")
_TARGET = re.compile(r"<([^>]{0,400})>|([^\s)]{0,400})")
_COLUMNS = {
    "系统": "system", "指标": "metric", "均值": "mean", "区间": "interval",
    "系统一": "first", "系统二": "second", "差": "difference",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """A Markdown page without its code and comments, by line; its headings as (line, depth, title in small letters)."""

    lines: list[str]
    headings: list[tuple[int, int, str]]

    def section(self, section: Section) -> tuple[int, list[str]] | None:
        """The line of a section's heading and the lines below it, of the deeper headings too; the first that fits."""
        wanted = (section.title.en.casefold(), section.title.zh.casefold())
        for place, (line, depth, title) in enumerate(self.headings):
            if title.startswith(wanted):
                ends = [other for other, d, _ in self.headings[place + 1 :] if d <= depth]
                return line, self.lines[line : ends[0] - 1 if ends else None]
        return None


def parse(text: str) -> Page:
    """Read a page; its line breaks are newlines."""
    pieces: list[str] = []
    place = 0
    while (start := text.find("<!--", place)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        pieces += text[place:start], "\n" * text.count("\n", start, end)
        place = end + 3
    text = "".join(pieces) + text[place:]
    lines: list[str] = []
    headings: list[tuple[int, int, str]] = []
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        mark = re.match(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if fence:
            if mark and mark[1][0] == fence[0] and len(mark[1]) >= len(fence) and not mark[2].strip():
                fence = ""
            lines.append("")
        elif mark:
            fence = mark[1]
            lines.append("")
        else:
            lines.append(line)
            if heading := re.match(r" {0,3}(#{1,6})[ \t]+(.*)", line):
                title = heading[2].strip().rstrip("#").strip(" *_").casefold()
                headings.append((number, len(heading[1]), _NUMBERING.sub("", title)))
    return Page(lines, headings)


def words(lines: list[str]) -> int:
    """How many words lines have; a Chinese character is one."""
    return sum(len(_WORD.findall(line)) for line in lines)


def number(text: str) -> tuple[float, float] | None:
    """A cell's number and the unit of its last digit; a percentage is a share."""
    text = text.strip().replace("−", "-").replace("–", "-")
    share = text.endswith(("%", "％"))
    try:
        value = Decimal(text.rstrip("%％ ")) if len(text) <= 40 else Decimal("nan")
    except InvalidOperation:
        return None
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > 30:
        return None
    scale = 0.01 if share else 1.0
    return float(value) * scale, 10.0 ** min(exponent, 0) * scale


def rows(lines: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of every table that has a delimiter row, as cells by column, the columns' names in English and small letters."""
    head: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("|"):
            head = []
            continue
        inner = line.strip()[1:]
        cells = [re.sub(r"\\\|", "|", cell).strip().strip("*`").strip() for cell in re.split(r"(?<!\\)\|", inner)]
        if cells and cells[-1] == "":
            cells.pop()
        if not head:
            below = lines[number] if number < len(lines) else ""
            if re.fullmatch(r"[\s|:-]*-[\s|:-]*", below):
                head = [_COLUMNS.get(cell, cell.casefold()) for cell in cells]
        elif not re.fullmatch(r"[\s|:-]*", line):
            yield number, dict(zip(head, [*cells, *[""] * len(head)], strict=False))


def figures(lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """(line, alternative text, target) of each picture, in Markdown or as an <img>."""
    for number, line in enumerate(lines, 1):
        place = 0
        while (start := line.find("![", place)) >= 0 and (middle := line.find("](", start)) >= 0:
            target = _TARGET.match(line, middle + 2)
            yield number, line[start + 2 : middle], (target[1] or target[2] or "") if target else ""
            place = middle + 2
        for tag in re.findall(r"<img\b[^<>]{0,2000}", line, re.IGNORECASE):
            found = {
                key.lower(): a or b
                for key, a, b in re.findall(r"\b(src|alt)\s{0,4}=\s{0,4}(?:\"([^\"]*)\"|'([^']*)')", tag, re.IGNORECASE)
            }
            yield number, found.get("alt", ""), found.get("src", "")
