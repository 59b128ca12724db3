"""Prints lines, paragraphs and tables: with colour and wrapped by words on a terminal, as plain text of any width in a pipe.

`rich` does the terminal's part. Where it is not installed, a terminal gets the plain text as well.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

Span = tuple[str, str]  # a text and its style, such as "bold green"
Cell = str | Span | list[Span]

_BARS = (("█", "▒", "░"), ("#", "=", "."))
_MARKS = (("✓", "◐", "✗", "·"), ("*", "+", "x", "-"))


class Screen:
    """Standard output.

    Attributes:
        bars: three characters that the output can show: of a bar's full part, its second part, its rest.
        marks: four: passed, partly right, failed, nothing yet.
    """

    def __init__(self) -> None:
        encoding = getattr(sys.stdout, "encoding", None) or "ascii"
        try:
            "".join((*_BARS[0], *_MARKS[0])).encode(encoding)
            kind = 0
        except (UnicodeEncodeError, LookupError):
            kind = 1
        self.bars, self.marks = _BARS[kind], _MARKS[kind]
        if hasattr(sys.stdout, "reconfigure"):  # a character that is not in the encoding is better shown as "?" than a traceback
            sys.stdout.reconfigure(errors="replace")
        self._console = _console()

    def line(self, *cells: Cell) -> None:
        """One line, with a space between the cells, which is never broken: a command or a path can be copied from it."""
        spans: list[Span] = []
        for cell in cells:
            if not cell:
                continue
            gap = "" if not spans or spans[-1][0].endswith(("：", "，", "。")) else " "  # these take their space along
            spans += [(gap, ""), *_spans(cell)]
        if self._console is None:
            print("".join(text for text, _ in spans).rstrip())
        else:
            self._console.print(_text(spans), soft_wrap=True)

    def paragraph(self, cell: Cell, indent: int = 0, first: str = "") -> None:
        """A text that a terminal wraps by words, indented below its first line, which may begin with a bullet or the like."""
        spans = _spans(cell)
        if self._console is None:
            print(" " * indent + first + "".join(text for text, _ in spans))
            return
        if not indent and not first:
            self._console.print(_text(spans))
            return
        from rich.table import Table

        grid = Table(box=None, show_header=False, pad_edge=False, padding=0)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(_text([(" " * indent + first, "")]), _text(spans))
        self._console.print(grid)

    def table(
        self,
        rows: Sequence[Sequence[Cell]],
        heads: Sequence[str] = (),
        right: Sequence[int] = (),
        indent: int = 0,
        widths: Sequence[int] = (),
    ) -> None:
        """A table whose last column may have several lines, and is wrapped by words on a terminal; the others never are.

        Args:
            heads: of the columns, or none.
            right: columns that are flush right.
            widths: at least so wide are the first columns, so that several tables align.
        """
        if self._console is None:
            self._plain_table(rows, heads, right, indent, widths)
            return
        from rich.padding import Padding
        from rich.table import Table

        table = Table(box=None, show_header=bool(heads), pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        count = len(rows[0]) if rows else len(heads)
        for column in range(count):
            last = column == count - 1
            table.add_column(
                heads[column] if heads else "",
                justify="right" if column in right else "left",
                no_wrap=not last,
                overflow="fold" if last else "ellipsis",
                min_width=widths[column] if column < len(widths) else None,
            )
        for row in rows:
            table.add_row(*(_text(_spans(cell)) for cell in row))
        self._console.print(Padding(table, (0, 0, 0, indent)))

    def bar(self, done: float, earlier: float, width: int = 10) -> Cell:
        """A bar of two shares, each from 0 to 1: what is done now, and what an earlier version of the file had beyond that."""
        first = min(width, int(done * width + 0.5))
        second = min(width - first, int((done + earlier) * width + 0.5) - first)
        full, part, rest = self.bars
        return [(full * first, "green"), (part * second, "yellow"), (rest * (width - first - second), "dim")]

    def _plain_table(
        self, rows: Sequence[Sequence[Cell]], heads: Sequence[str], right: Sequence[int], indent: int, least: Sequence[int]
    ) -> None:
        shown = [["".join(text for text, _ in _spans(cell)) for cell in row] for row in rows]
        if heads:
            shown.insert(0, list(heads))
        for row in shown:
            start = " " * indent
            for number, text in enumerate(row[:-1]):
                width = max([columns(other[number]) for other in shown] + list(least[number : number + 1]))
                start += fill(text, width, number in right) + "  "
            for number, piece in enumerate(row[-1].split("\n")):
                print(((start if number == 0 else " " * columns(start)) + piece).rstrip())


def fill(text: str, width: int, right: bool = False) -> str:
    """A text in a column so wide as a terminal shows it."""
    space = " " * (width - columns(text))
    return space + text if right else text + space


def columns(text: str) -> int:
    """How wide a terminal shows a text: Chinese characters take two columns."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _console() -> Any:
    """rich's console on a terminal (or where FORCE_COLOR asks for one); None in a pipe, and without rich."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else None


def _spans(cell: Cell) -> list[Span]:
    if isinstance(cell, str):
        return [(cell, "")]
    return cell if isinstance(cell, list) else [cell]


def _text(spans: list[Span]) -> Text:
    from rich.text import Text

    return Text.assemble(*spans)
