"""Makes a student's notebook inert: what a teacher's browser gets to see of it is text, pictures and nothing that runs.

Everything is rebuilt from what is known to be harmless; what is not known is named and left out.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from course.labs.core import MIME

_TEXT = 20_000  # characters of one output or error
_SOURCE = 200_000  # characters of one cell
_IMAGE = 4 << 20
_OUTPUTS = 100  # of one cell
_CELLS = 1000
_MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
_ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?", re.DOTALL)
# Controls, separators of lines, what sets the direction of writing, and what has no width, the tags of plane 14 among it.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff]"
)
# What makes a link, loads, styles (a box of any CSS covers the page), or changes the formulas of everybody else on the page.
_MACROS = re.compile(
    r"\\(href|url|require|cssId|class|style|data|html\w*|includegraphics|unicode|mmlToken|action|toggle|texttip|mathtip|tip|bbox|[gex]?def"
    r"|(?:re)?newcommand|providecommand|(?:re)?newenvironment|DeclareMathOperator|let)(?![a-zA-Z])"
)


def notebook(nb: Mapping[str, Any]) -> NotebookNode:
    """An inert copy of a notebook. Of the cells' metadata only nbgrader's `grade_id` is kept, as a plain name."""
    cells = []
    for place, cell in enumerate(list(nb.get("cells", []))[:_CELLS]):
        source = _join(cell.get("source", ""))
        kind = cell.get("cell_type")
        if kind == "code":
            made = new_code_cell(text(source, _SOURCE), id=f"cell-{place}")
            count = cell.get("execution_count")
            made.execution_count = count if type(count) is int and 0 <= count < 1e6 else None
            made.outputs = outputs(cell.get("outputs", []))
        elif kind == "markdown":
            made = new_markdown_cell(markdown(source), id=f"cell-{place}")
        else:
            made = new_raw_cell(text(source, _SOURCE), id=f"cell-{place}")
            made.cell_type = "markdown"
            made.source = fenced(source)
        metadata = cell.get("metadata")
        own = metadata.get("nbgrader") if isinstance(metadata, Mapping) else None
        name = own.get("grade_id") if isinstance(own, Mapping) else None
        if isinstance(name, str) and re.fullmatch(r"[a-z0-9]{1,20}", name):
            made.metadata["nbgrader"] = {"grade_id": name}
        cells.append(made)
    made = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    made.nbformat_minor = 5
    nbformat.validate(made)
    return made


def text(value: Any, most: int = _TEXT) -> str:
    """Plain text without terminal codes; characters that are not seen, or turn the line round, are shown as `\\u202e`."""
    plain = _ANSI.sub("", _join(value))
    plain = plain.replace("\r\n", "\n")
    plain = _INVISIBLE.sub(_named, plain)
    return plain if len(plain) <= most else f"{plain[:most]}\n[{len(plain) - most} more characters]"


def _named(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\n" if code == 13 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def markdown(value: Any) -> str:
    """Markdown in which no HTML, link or picture is left, and no command of MathJax that makes one.

    A tag begins with `<` and a letter; with a space between them it is text, in code and in a formula as well.
    """
    plain = text(value, _SOURCE)
    plain = re.sub(r"<(?=[A-Za-z/!?])", "< ", plain)
    plain = re.sub(r"\](?=[(\[:])", "] ", plain)
    plain = re.sub(r"&(?=#|[A-Za-z])", "&amp;", plain)
    plain = re.sub(r"(?i)\b(javascript|vbscript|data)(\s*):", r"\1\2 :", plain)
    return _MACROS.sub(r"\\ \1", plain)


def fenced(value: Any, language: str = "") -> str:
    """Text as a code block of Markdown that it cannot close."""
    plain = text(value, _SOURCE)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", plain)), default=0))
    return f"{fence}{language}\n{plain}\n{fence}"


def outputs(given: Any) -> list[NotebookNode]:
    """The outputs of a cell that are text or a picture; the others are named."""
    made: list[NotebookNode] = []
    for output in given if isinstance(given, list) else []:
        if not isinstance(output, Mapping):
            continue
        if len(made) == _OUTPUTS:
            made.append(_said("[more outputs were left out]"))
            break
        match output.get("output_type"):
            case "stream":
                name = "stderr" if output.get("name") == "stderr" else "stdout"
                made.append(new_output("stream", name=name, text=text(output.get("text", ""))))
            case "error":
                lines = text("\n".join(map(str, _list(output.get("traceback")))))
                name, value = text(output.get("ename", "error"), 100), text(output.get("evalue", ""))
                made.append(new_output("error", ename=name, evalue=value, traceback=[lines or f"{name}: {value}"]))
            case "display_data" | "execute_result":
                made += _display(output.get("data"))
    return made


def _display(data: Any) -> list[NotebookNode]:
    if not isinstance(data, Mapping):
        return []
    shown: list[NotebookNode] = []
    for mime, magic in _MAGIC.items():
        picture = _picture(data.get(mime), magic) if mime in data and not shown else None
        if picture:
            shown = [new_output("display_data", data={mime: picture})]
    if not shown and "text/plain" in data:
        shown = [new_output("display_data", data={"text/plain": text(data["text/plain"])})]
    removed = [mime for mime in map(str, data) if mime not in (*_MAGIC, "text/plain", MIME)]
    if removed:
        shown.append(_said(f"[removed: {', '.join(text(mime, 60) for mime in removed[:5])}]"))
    return shown


def _picture(data: Any, magic: bytes) -> str | None:
    encoded = _join(data)
    if len(encoded) > _IMAGE * 4 // 3 + 4:
        return None
    try:
        raw = base64.b64decode(encoded.replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    return base64.b64encode(raw).decode() if raw.startswith(magic) else None


def _said(line: str) -> NotebookNode:
    return new_output("stream", name="stdout", text=line + "\n")


def _join(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
