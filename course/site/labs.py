"""The students' notebooks with outputs: executed with the references behind them, nothing answered, nothing given away."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.authoring import notebooks
from autograder.manifest import Lang
from course.labs.core import MIME, ROOT

if TYPE_CHECKING:
    from nbformat import NotebookNode

LEFT_OUT = {
    "en": "(left out here: this output would give away an answer; run the cell to see it)",
    "zh": "（此处略去：这段输出会透露答案；请自行运行该单元格查看）",
}
_PACKAGES = ("bitsandbytes", "diffusers", "matplotlib", "numpy", "peft", "torch", "transformers")  # what outputs depend on
_SHORTEST_LINE = 12  # characters; a shorter line of a solution, such as `return x`, may stand anywhere
_SHORTEST_NUMBER = 4  # digits; likewise


def execute(cache: Path, jobs: int) -> Iterator[tuple[str, int]]:
    """Execute every notebook whose outputs are not kept; yields each name when it is done, and how many there are.

    Raises:
        NotebookError: if a cell fails.
    """
    cache.mkdir(parents=True, exist_ok=True)
    wanted = [(folder, lang) for folder in notebooks.sources() for lang in notebooks.TARGETS]
    missing = [each for each in wanted if not kept(cache, *each).is_file()]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(_execute, kept(cache, *each), *each): each for each in missing}
        try:
            for done in as_completed(running):
                done.result()
                yield "/".join(running[done]), len(missing)
        finally:
            pool.shutdown(cancel_futures=True)


def kept(cache: Path, folder: str, lang: Lang) -> Path:
    """Where a notebook's outputs are kept: the name changes with all that they follow from."""
    own = [ROOT / notebooks.TARGETS[lang] / f"{folder}.ipynb", ROOT / "course" / folder / "lab.toml"]
    digest = hashlib.sha256(_shared().encode())
    for path in [*own, *sorted((ROOT / "solutions" / folder).glob("*.py"))]:
        digest.update(path.read_bytes() if path.is_file() else b"")
    return cache / f"{folder}-{lang}-{digest.hexdigest()[:16]}.ipynb"


@functools.cache
def _shared() -> str:
    digest = hashlib.sha256("".join(f"{name}=={version(name)} " for name in _PACKAGES).encode())
    for path in sorted(path for path in (ROOT / "course" / "labs").rglob("*") if path.suffix in (".py", ".safetensors", ".toml")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _execute(target: Path, folder: str, lang: Lang) -> None:
    """In a process of its own."""
    import nbformat

    place = ROOT / notebooks.TARGETS[lang]
    for name in [name for name in os.environ if name.startswith("LAB_")]:
        del os.environ[name]
    os.environ |= {"LAB_STUBS": "reference", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    notebook = nbformat.read(place / f"{folder}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as runs:  # both languages train at the same time
        os.environ["LAB_RUNS"] = runs
        try:
            notebooks.execute(notebook, place, timeout=1200)
        except notebooks.NotebookError as error:
            raise notebooks.NotebookError(f"the notebook of {folder} ({lang}): {error}") from None
    draft = target.with_suffix(".tmp")
    nbformat.write(notebook, draft)
    draft.replace(target)


def shown(notebook: NotebookNode, folder: str, lang: Lang) -> NotebookNode:
    """What the page shows of a notebook: no answers and no pieces of the solution; pictures keep their descriptions."""
    lines, numbers = secrets(folder)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if cell.metadata.get("nbgrader"):
            cell.outputs = []
        outputs = _merged([output for output in cell.outputs if MIME not in output.get("data", {})])
        cell.outputs = [_shown(output, lines, numbers, lang) for output in outputs]
        described = [output.metadata.get("image/png", {}).get("alt", "") for output in cell.outputs if _is_picture(output)]
        cell.metadata = type(notebook.metadata)({"mystnb": {"image": {"alt": " ".join(described)}}} if any(described) else {})
    return notebook


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """What was printed in pieces, as one text that reads as a terminal shows it: a progress bar overwrites itself."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and merged and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    for output in merged:
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text.replace("\r\n", "\n"))
    return [output for output in merged if output.get("text", "x").strip()]


def _is_picture(output: NotebookNode) -> bool:
    return "image/png" in output.get("data", {})


def _shown(output: NotebookNode, lines: set[str], numbers: set[float], lang: Lang) -> NotebookNode:
    from nbformat import v4

    data = output.get("data", {})
    kinds = ("text/plain", "text/html", "text/markdown")
    text = "\n".join([output.get("text", ""), *(str(data.get(kind, "")) for kind in kinds)])
    if gives_away(text, lines, numbers):
        return v4.new_output("stream", name="stdout", text=LEFT_OUT[lang])
    if _is_picture(output):  # its text is an object's name
        data.pop("text/plain", None)
    return output


def gives_away(text: str, lines: set[str], numbers: set[float]) -> bool:
    """Whether a text holds a line of the solution or a number of the key."""
    found = {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}
    return bool(found & numbers) or any(line.strip() in lines for line in text.splitlines())


@functools.cache
def secrets(folder: str) -> tuple[set[str], set[float]]:
    """The lines of a week's solution that neither stub nor notebook has, and the numbers of its key."""
    stubs = (path.read_text(encoding="utf-8") for path in (ROOT / "exercises" / folder).glob("*.py"))
    known = _lines("\n".join([*stubs, *_notebook_code(folder)]))
    lines = {
        line for path in (ROOT / "solutions" / folder).glob("*.py") for line in _lines(path.read_text(encoding="utf-8")) - known
    }
    path = ROOT / "solutions" / folder / "answers.toml"
    key = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    numbers = {float(number) for value in key.values() for number in _numbers(value)}
    return lines, {number for number in numbers if len(re.sub(r"\D", "", f"{number:g}")) >= _SHORTEST_NUMBER}


def _notebook_code(folder: str) -> Iterable[str]:
    path = ROOT / notebooks.TARGETS["en"] / f"{folder}.ipynb"
    return notebooks.code(path.read_text(encoding="utf-8")) if path.is_file() else ()


def _lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= _SHORTEST_LINE}


def _numbers(value: dict[str, Any]) -> Iterator[float]:
    if "number" in value:
        yield value["number"]
    yield from value.get("numbers", ())
