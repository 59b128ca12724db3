"""The stubs as they were released, and the way of one task's code back to them."""

from __future__ import annotations

import ast
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence

from autograder import ROOT
from autograder.manifest import Task, Week

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Unavailable(Exception):
    """The released stub is not in this copy of the course."""


class Unparsable(Exception):
    """The student's file is no Python; `line` is where, or 0."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class Lacking(Exception):
    """The student's file has no function of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def source(week: Week) -> str:
    """The week's stub as released: made from the reference, or in a students' copy from the week's recorded answers.

    Raises:
        Unavailable: if this copy has neither.
    """
    reference = ROOT / "solutions" / week.folder / week.stub
    if reference.is_file():
        from autograder.authoring import build

        return build.stub_source(reference.read_text(encoding="utf-8"), week)
    try:
        with zipfile.ZipFile(ROOT / "autograder" / "recorded" / f"{week.folder}.zip") as file:
            return file.read("stub").decode("utf-8")
    except (OSError, KeyError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise Unavailable(week.number) from None


def names(stub: str, task: Task) -> list[str]:
    """The dotted names of a task's functions: those in which the released stub raises NotImplementedError for it."""
    return [name for name, node in _functions(ast.parse(stub)).items() if _is_of(node, task)]


def unattempted(text: str, task: Task) -> list[str]:
    """Those of a task's functions that a student's file still leaves as they were released; none if it is no Python."""
    try:
        return [name for name, node in _functions(ast.parse(text)).items() if _is_of(node, task)]
    except (SyntaxError, ValueError, RecursionError):
        return []


def restored(text: str, stub: str, task: Task) -> str:
    """A student's file with the code of one task as it was released, and all the rest untouched.

    What is replaced are whole functions, from the first decorator to the last line or comment inside. The file keeps its line
    endings, and the indentation at which its functions stand.

    Args:
        text: the student's file, decoded, with the line endings that it has.
        stub: the released one.

    Raises:
        Unparsable: if the student's file is no Python.
        Lacking: if it has no function of a name that the task needs.
    """
    try:
        present = _functions(ast.parse(text))
    except SyntaxError as error:
        raise Unparsable(error.lineno or 0) from None
    except (ValueError, RecursionError, MemoryError):  # a null byte; nesting without end
        raise Unparsable(0) from None
    lines, released = _LINE.findall(text), _LINE.findall(stub)
    ending, origin = newline(text), _functions(ast.parse(stub))
    places: list[tuple[int, int, list[str]]] = []
    for name in names(stub, task):
        if name not in present:
            raise Lacking(name)
        first, end = _extent(present[name], lines)
        start, stop = _extent(origin[name], released)
        ours, theirs = _indent(released[start]), _indent(lines[first])
        segment = [_moved(line.rstrip("\r\n"), ours, theirs) + ending for line in released[start:stop]]
        places.append((first, end, segment))
    for first, end, segment in sorted(places, reverse=True):
        lines[first:end] = segment
    result = "".join(lines)
    try:
        ast.parse(result)
    except SyntaxError as error:  # tabs and spaces in a mixture that does not fit the released lines
        raise Unparsable(error.lineno or 0) from None
    return result


def newline(text: str) -> str:
    """The line ending that a file has: Windows', or the usual one."""
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def _functions(tree: ast.Module) -> dict[str, Function]:
    """Functions of a module and methods of its classes by dotted name; of several with one name the last, which Python takes."""
    return dict(_walk(tree.body, ""))


def _walk(nodes: Sequence[ast.AST], prefix: str) -> Iterator[tuple[str, Function]]:
    for node in nodes:
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _walk(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.stmt | ast.excepthandler):  # `if`, `try`, `with` at the top
            yield from _walk(list(ast.iter_child_nodes(node)), prefix)


def _is_of(function: Function, task: Task) -> bool:
    start = f"Week {task.week}, task {task.number}:"
    calls = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    told = [call.args[0] for call in calls if getattr(call.func, "id", "") == "NotImplementedError" and call.args]
    return any(isinstance(one, ast.Constant) and str(one.value).startswith(start) for one in told)


def _extent(function: Function, lines: Sequence[str]) -> tuple[int, int]:
    """A function's lines, [first, end), with its decorators and the comments that stand inside it after its last statement."""
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)]) - 1
    end = function.end_lineno or function.lineno
    depth = len(_indent(lines[first]).expandtabs())
    for number in range(end, len(lines)):
        line = lines[number].strip()
        if line.startswith("#") and len(_indent(lines[number]).expandtabs()) > depth:
            end = number + 1
        elif line:
            break
    return first, end


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _moved(line: str, ours: str, theirs: str) -> str:
    return theirs + line[len(ours) :] if line.startswith(ours) and line.strip() else line
