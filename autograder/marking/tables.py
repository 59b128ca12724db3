"""The CSV tables that an instructor keeps in a course folder: read strictly, a mistake told in one line with file and line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autograder import UserError

ROSTER = ("student", "name", "email", "canvas_id", "sis_id", "sis_login", "section", "moodle_id")  # columns of roster.csv


class TableError(UserError):
    """A table cannot be used; the text is one line that names the file, the line and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it stands, and its cells by column, without the space around them ("" where empty)."""

    path: Path
    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")

    def error(self, why: str) -> TableError:
        """An error about this row."""
        return TableError(f"{self.path}, line {self.line}: {why}")


def read(path: Path, needed: Sequence[str], known: Sequence[str] | None = None) -> list[Row]:
    """The rows of a CSV file in UTF-8, with or without a byte order mark; empty rows are passed over, and no file is no rows.

    Args:
        needed: columns that must be there.
        known: the optional ones; a column that is neither is an error. None: any may be there.

    Raises:
        TableError: the file cannot be read, or its columns or rows are not as they must be.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise TableError(f"{path} is not UTF-8: save it as `CSV UTF-8`") from None
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    head: list[str] | None = None
    try:
        start = 1
        for cells in reader:
            line, start = start, reader.line_num + 1
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if head is None:
                head = _head(path, cells, needed, known)
            elif len(cells) > len(head) and any(cells[len(head) :]):
                raise TableError(f"{path}, line {line}: {len(cells)} cells under {len(head)} columns: quote a cell with a comma")
            else:
                rows.append(Row(path, line, dict(zip(head, cells, strict=False))))
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: {error}: correct the quotes") from None
    if head is None:
        raise TableError(f"{path} is empty: its first line must be {','.join(needed)}")
    return rows


def _head(path: Path, cells: list[str], needed: Sequence[str], known: Sequence[str] | None) -> list[str]:
    for name in needed:
        if name not in cells:
            raise TableError(f"{path} has no column {name!r}: its first line must have {','.join(needed)}")
    for name in cells:
        if name and cells.count(name) > 1:
            raise TableError(f"{path} has two columns {name!r}: keep one")
        if name and known is not None and name not in (*needed, *known):
            raise TableError(f"{path} has an unknown column {name!r}; it may have {','.join([*needed, *known])}")
    return cells
