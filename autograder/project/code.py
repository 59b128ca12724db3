"""What may not stand in the code of a project: unpinned packages, pickles, remote code, secrets. Nothing is imported or run."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator

Hint = tuple[str, int, dict[str, str]]  # a kind of finding, its line (0: the whole file), what its text is filled with

_SECRETS = {
    "Hugging Face": rb"\bhf_[A-Za-z0-9]{30,}",
    "AWS": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub": rb"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "GitLab": rb"\bglpat-[A-Za-z0-9_-]{20,}",
    "Google": rb"\bAIza[A-Za-z0-9_-]{35}",
    "OpenAI": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "Slack": rb"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "Weights & Biases": rb"(?i)\bwandb[_a-z]{0,20}[\"']?\s{0,4}[:=(]\s{0,4}(?:key\s{0,4}=\s{0,4})?[\"']?[0-9a-f]{40}\b",
    "SSH, TLS": rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY",
}
MOST = 512 << 10  # bytes of a page, a program or a configuration; nobody writes more, and parsing it costs
_LINE = 1000  # characters of a requirement
_PINNED = re.compile(
    r"[A-Za-z0-9][\w.-]*(?:\[[\w\s,.-]*\])?\s*(?:===?\s*[\w.+!-]+|@\s*\S+(?:@[0-9a-f]{40}|#sha256=[0-9a-f]{64})\S*)\s*(?:[;#].*)?"
)
_UNPICKLERS = {
    f"{module}.{name}" for module in ("pickle", "dill", "cloudpickle", "joblib") for name in ("load", "loads", "Unpickler")
} | {"pandas.read_pickle", "shelve.open"}  # fmt: skip


def secrets(data: bytes) -> Iterator[Hint]:
    """What looks like a key or a token; its text is never repeated."""
    plain = data.replace(b"\0", b"")  # UTF-16 would hide one
    for kind, pattern in _SECRETS.items():
        line, place = 1, 0
        for match in re.finditer(pattern, plain):
            line, place = line + plain.count(b"\n", place, match.start()), match.start()
            yield "secret", line, {"kind": kind}


def python(text: str) -> Iterator[Hint]:
    """What is wrong with a Python file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an invalid escape in the student's file, say
            tree = ast.parse(text)
    except SyntaxError as error:
        yield "syntax", error.lineno or 0, {"why": error.msg}
        return
    except ValueError as error:
        yield "syntax", 0, {"why": str(error)}
        return
    except (RecursionError, MemoryError):
        yield "syntax", 0, {"why": "nested too deep"}
        return
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and not _is(value, False):
                    yield "remote_code", key.lineno, {}
        elif isinstance(node, ast.Call):
            yield from _call(node, _dotted(node.func, known))


def _call(node: ast.Call, function: str) -> Iterator[Hint]:
    keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if not _is(keywords.get("trust_remote_code"), False, None):
        yield "remote_code", node.lineno, {}
    if function == "torch.load" and not _is(keywords.get("weights_only"), True):
        yield "torch_load", node.lineno, {}
    elif function in _UNPICKLERS or not _is(keywords.get("allow_pickle"), False, None):
        yield "unpickle", node.lineno, {"name": function if function in _UNPICKLERS else "allow_pickle=True"}
    elif function in ("eval", "exec"):
        yield "eval", node.lineno, {"name": function}


def notebook(text: str) -> Iterator[tuple[int, Hint]]:
    """What is wrong with the code cells of a notebook, with the number of the cell.

    Raises:
        ValueError: it is not a notebook, or has more code than is checked.
    """
    try:
        cells = [
            (number, cell["source"]) for number, cell in enumerate(json.loads(text)["cells"], 1) if cell["cell_type"] == "code"
        ]
        codes = [(number, source if isinstance(source, str) else "".join(source)) for number, source in cells]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if sum(len(code) for _, code in codes) > MOST:
        raise ValueError("too much code")
    for number, code in codes:
        lines = ("" if line.lstrip().startswith(("%", "!")) else line for line in code.split("\n"))
        for hint in python("\n".join(lines)):
            if hint[0] != "syntax":  # a cell may hold what only IPython reads
                yield number, hint


def requirements(text: str) -> Iterator[Hint]:
    """Packages without a version; a file that names none."""
    names, number = 0, 0
    for line in re.sub(r"\\\n", " \0", text).split("\n"):  # a \0 stands for a line that is continued
        number += 1
        here, number = number, number + line.count("\0")
        words = line.replace("\0", " ").partition(" #")[0].split()
        bare = " ".join(word for word in words if not word.startswith("--hash="))
        if bare and not bare.startswith(("#", "-")):
            names += 1
            if len(bare) > _LINE or not re.fullmatch(_PINNED, bare) or "*" in bare.partition(";")[0]:
                yield "unpinned", here, {"what": bare}
    if not names:
        yield "no_requirement", 0, {}


def _is(node: ast.expr | None, *wanted: bool | None) -> bool:
    """Whether an expression is one of these constants; None in `wanted` also stands for one that is not there."""
    if node is None:
        return None in wanted
    return isinstance(node, ast.Constant) and any(node.value is value for value in wanted)


def _dotted(node: ast.expr, known: dict[str, str]) -> str:
    """The name of a function as its module has it; "" for what is no name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([known.get(node.id, node.id), *reversed(parts)])
