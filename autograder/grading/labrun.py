"""Runs a class's lab notebooks in the sandbox and scores their answers. Linux only.

Each notebook has a kernel in a sandbox of its own, and a process of its own that talks to it: what a kernel sends can at most end
that process. `python -m autograder.grading.labrun` is that process; it knows neither the key nor another student.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from autograder import UserError, intake, results
from autograder.inside import confine
from autograder.judge import answers
from autograder.judge.runner import ROOT, reference_stub
from autograder.manifest import Week
from autograder.reports.feedback import page_name

SCHEMA = 1
CELL_SECONDS, NOTEBOOK_SECONDS = 300, 1200  # of wall time
_OUTPUT_MIB = 32  # what a notebook may show, all in all
_CLIENT_MIB = 4096  # address space of the process that talks to a kernel
_CELLS = 500
Line = dict[str, Any]


class LabError(UserError):
    """The notebooks cannot be run on this machine; the text is one line."""


def grade(
    submissions: Path,
    week: Week,
    out: Path,
    *,
    jobs: int | None = None,
    isolation: str = "bwrap",
    canary: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Line]:
    """Run and score every student's `weekNN.ipynb`; the same call goes on where a stopped one was.

    Writes `out/notebooks.jsonl` (docs/results.md) and `out/notebooks/<student>.ipynb`, inert, for who marks the rest.

    Args:
        jobs: notebooks at the same time; by default one a core.
        isolation: "bwrap", or "process": no sandbox for the kernel.
        canary: whether the reference's notebook must earn full marks here first, if there is anything to run.
        progress: called with how many of how many students are done.

    Raises:
        LabError, RunError, IntakeError, SandboxError: with one line for the instructor.
    """
    if not week.questions:
        raise LabError(f"week {week.number} has no questions in its notebook")
    folders = intake.students(submissions, week)
    with results.locked(out):
        pages = out / "notebooks"
        pages.mkdir(exist_ok=True)
        known = _known(out / "notebooks.jsonl")
        found: dict[str, Line] = {}
        pending = []
        for student, folder in folders:
            submission = intake.read(student, folder, week)
            source = intake.notebook(folder, week)
            key = _key(week, submission.files, source, isolation)
            line = known.get(student, {})
            if line.get("key") == key and line["status"] == "graded" and (pages / _page(student)).is_file():
                found[student] = line
            else:
                pending.append((student, submission.files, source, key))
        progress(len(found), len(folders))
        if canary and any(isinstance(source, bytes) for _, _, source, _ in pending):
            _canary(week, isolation)
        with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
            futures = {pool.submit(_one, week, pages, isolation, *job): job for job in pending}
            again: list[Any] = []
            try:
                for future in as_completed(futures):
                    first = future.result()
                    if first is None:
                        again.append(futures[future])
                        continue
                    found[first["student"]] = first
                    results.append(out / "notebooks.jsonl", first)
                    progress(len(found), len(folders))
                for student, files, source, key in again:  # alone
                    second = _one(week, pages, isolation, student, files, source, key, last=True)
                    found[student] = second or {}
                    results.append(out / "notebooks.jsonl", found[student])
                    progress(len(found), len(folders))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        lines = [found[name] for name, _ in folders]
        results.replace(out / "notebooks.jsonl", "".join(map(results.line, lines)))
        for page in pages.glob("*.ipynb"):
            if page.name not in {_page(name) for name, _ in folders}:
                page.unlink()
    return lines


def _one(
    week: Week,
    pages: Path,
    isolation: str,
    student: str,
    files: dict[str, bytes],
    source: bytes | str,
    key: str,
    last: bool = False,
) -> Line | None:
    """Run and score one notebook; None if it is to be run again, alone, since a busy machine must cost nobody points."""
    from autograder.reports import sanitise

    start = time.perf_counter()
    line: Line = {
        "schema": SCHEMA, "student": student, "week": week.number, "isolation": isolation, "status": "graded", "score": 0,
        "max_score": sum(q.points for q in week.questions if not q.written), "message": "", "questions": [], "key": key,
    }  # fmt: skip
    made: dict[str, Any] = {"cells": []}
    if isinstance(source, str):
        line["message"] = source
    else:
        try:
            ran = run(week, files, source, isolation)
        except Exception as error:  # whatever it is, it must not end the class
            ran = _stopped("") | {"ours": intake.clean(f"{type(error).__name__}: {error}")}
        if not last and (ran["ours"] or ran["message"]):
            return None
        made, line["message"] = ran["notebook"], ran["message"]
        if ran["ours"]:
            line |= {"status": "ungraded", "score": None, "message": f"the grader failed, not the submission ({ran['ours']})"}
    if line["status"] == "graded":
        scored = {score.question.id: score for score in answers.score(week, answers.found(made))}
        for question in week.questions:
            score = scored.get(question.id)
            entry = {"id": question.id, "max_score": question.points, "status": "written", "score": None, "answer": ""}
            if score is not None:
                told = score.misconception
                entry |= {"status": score.status, "score": score.points, "answer": _short(score.answer)}
                entry["misconception"] = {"en": told[0], "zh": told[1]} if told else None
            line["questions"].append(entry)
        line["score"] = sum(entry["score"] or 0 for entry in line["questions"])
    page = pages / _page(student)
    results.replace(page, json.dumps(sanitise.notebook(made), ensure_ascii=True, indent=1) + "\n")
    line["seconds"] = round(time.perf_counter() - start, 3)
    return line


def run(week: Week, files: dict[str, bytes], source: bytes, isolation: str) -> dict[str, Any]:
    """Execute a notebook in a process and a sandbox of its own.

    Args:
        files: the student's, beside the stub.
        source: the notebook's bytes.

    Returns:
        "notebook" with its outputs, "message" for the student where it did not come to its end, "ours": why the grader failed.
    """
    place = tempfile.mkdtemp(prefix="labrun-")
    try:
        job, answer = Path(place) / "job.json", Path(place) / "answer.json"
        own = {name: data.decode("latin-1") for name, data in files.items()}
        job.write_text(
            json.dumps({"week": week.number, "files": own, "source": source.decode("latin-1"), "isolation": isolation})
        )
        command = [sys.executable, "-B", "-m", "autograder.grading.labrun", str(job), str(answer)]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT), "HOME": place, "LANG": "C.UTF-8", "TMPDIR": place
        }  # fmt: skip
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            _, said = process.communicate(timeout=NOTEBOOK_SECONDS + 60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return _stopped(f"it ran for more than {NOTEBOOK_SECONDS} s")
        finally:
            if process.poll() is None:
                process.kill()
        try:
            if answer.stat().st_size > (_OUTPUT_MIB + 64) << 20:
                return _stopped("it showed too much")
            ran: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
            return ran
        except (OSError, ValueError, RecursionError):
            last = (said.decode(errors="replace").strip().splitlines() or ["it ended without a word"])[-1][:200]
            if "SandboxError" in last:
                return _stopped("") | {"ours": last.partition(": ")[2]}
            return _stopped(f"its kernel could not be talked to any more: {intake.clean(last)}")
    finally:
        confine.remove_tree(Path(place))


def _stopped(message: str) -> dict[str, Any]:
    return {"notebook": {"cells": []}, "message": message, "ours": ""}


def _canary(week: Week, isolation: str) -> None:
    """The graded cells' right answers, in this very sandbox, must earn full marks.

    Raises:
        LabError: if they do not.
    """
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    cells = ["from course import labs", f"labs.student({week.number})"]
    cells += [f"labs.answer('{week.number}.{name}', {value!r})" for name, value in answers.right(answers.key(week)).items()]
    text = nbformat.writes(new_notebook(cells=[new_code_cell(cell) for cell in cells]))
    ran = run(week, {week.stub: reference_stub(week).read_bytes()}, text.encode(), isolation)
    if ran["ours"]:
        raise LabError(f"notebooks do not run on this machine: {ran['ours']}")
    wrong = [score.question.id for score in answers.score(week, answers.of(ran["notebook"])) if score.status != "passed"]
    if wrong or ran["message"]:
        why = ran["message"] or f"the right answer to {wrong[0]} earned nothing"
        raise LabError(f"notebooks do not run on this machine: {why}")


def _key(week: Week, files: dict[str, bytes], source: bytes | str, isolation: str) -> str:
    sha = hashlib.sha256(repr((SCHEMA, isolation, sorted(files), answers.key(week), week.questions, _library())).encode())
    for name in sorted(files):
        sha.update(hashlib.sha256(files[name]).digest())
    sha.update(source if isinstance(source, bytes) else source.encode())
    return sha.hexdigest()


@functools.cache
def _library() -> str:
    """sha256 over what a notebook runs on besides its own: the lab library and its data."""
    sha = hashlib.sha256()
    for path in sorted(path for path in (ROOT / "course").rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        if path.suffix not in (".md", ".pyc"):
            sha.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def _page(student: str) -> str:
    return page_name(student).removesuffix(".md") + ".ipynb"


def _known(path: Path) -> dict[str, Line]:
    found = {}
    with contextlib.suppress(OSError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                if entry["schema"] == SCHEMA and isinstance(entry["key"], str) and entry["status"] in ("graded", "ungraded"):
                    found[str(entry["student"])] = entry
    return found


def _short(answer: Any) -> str:
    shown = json.dumps(answer, ensure_ascii=True, default=str) if answer is not None else ""
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


# --- in the process of one notebook ---


def main(arguments: list[str]) -> None:
    """Read a job, run it, write the answer."""
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    resource.setrlimit(resource.RLIMIT_AS, (_CLIENT_MIB << 20, _CLIENT_MIB << 20))
    from autograder.manifest import load

    week = load().week(job["week"])
    files = {name: data.encode("latin-1") for name, data in job["files"].items()}
    ran = _execute(week, files, job["source"].encode("latin-1"), job["isolation"])
    results.replace(Path(arguments[1]), json.dumps(ran))


def _execute(week: Week, files: dict[str, bytes], source: bytes, isolation: str) -> dict[str, Any]:
    import zmq
    import zmq.asyncio
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    from autograder.grading import kernel

    try:
        nb = _notebook(source)
    except answers.UnreadableNotebook as error:
        return _stopped(str(error))

    class Client(NotebookClient):
        """Stops keeping what a notebook shows once it is too much."""

        left = _OUTPUT_MIB << 20
        until = time.monotonic() + NOTEBOOK_SECONDS

        def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
            # Widgets' messages too: nbclient keeps what they say of themselves.
            self.left -= len(repr(msg["content"])) + sum(map(len, msg.get("buffers") or ()))
            if self.left < 0:
                raise _Enough
            if time.monotonic() > self.until:
                raise CellTimeoutError("the notebook")
            return super().process_message(msg, cell, cell_index)

    # A message larger than this closes its socket before it is allocated.
    context = zmq.asyncio.Context()
    context.setsockopt(zmq.MAXMSGSIZE, 16 << 20)
    context.setsockopt(zmq.RCVHWM, 100)
    message = ""
    with kernel.manager(week, files, isolation) as made:
        made.context = context
        client = Client(nb, km=made, timeout=CELL_SECONDS, startup_timeout=120, allow_errors=True, store_widget_state=False)
        try:
            client.execute()
        except _Enough:
            message = f"it showed more than {_OUTPUT_MIB} MiB; what came before counts"
        except CellTimeoutError:
            message = (
                f"a cell took more than {CELL_SECONDS} s, or the notebook more than {NOTEBOOK_SECONDS} s; what came before counts"
            )
        except DeadKernelError:
            message = "its kernel died (memory, processes or CPU time ran out, or a crash); what came before counts"
    return {"notebook": nb, "message": message, "ours": ""}


class _Enough(Exception):
    """A notebook showed too much."""


def _notebook(source: bytes) -> Any:
    """A student's notebook as nbclient wants it: its cells' sources alone, so that nothing else of the file has to be right.

    Raises:
        UnreadableNotebook: if it is no notebook.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    try:
        cells = json.loads(source)["cells"]
        made = []
        for place, cell in enumerate(cells[:_CELLS]):
            text = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            new = (new_code_cell if cell["cell_type"] == "code" else new_markdown_cell)(text, id=f"cell-{place}")
            own = cell.get("metadata", {}).get("nbgrader", {})
            if isinstance(own, dict) and isinstance(own.get("grade_id"), str):
                new.metadata["nbgrader"] = {"grade_id": own["grade_id"][:20]}
            made.append(new)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        raise answers.UnreadableNotebook("the file is not a Jupyter notebook") from None
    return new_notebook(cells=made, metadata={"language_info": {"name": "python"}})


def progress_lines(lines: list[Line]) -> Iterator[str]:
    """What `autograder grade --notebooks` says at the end."""
    graded = [line for line in lines if line["status"] == "graded"]
    handed = [line for line in graded if not line["message"].endswith("was not handed in")]
    yield f"{len(handed)} of {len(lines)} notebooks ran; full marks in their answers: " + str(
        sum(line["score"] == line["max_score"] for line in handed)
    )
    for line in lines:
        if line["status"] == "ungraded":
            yield f"{intake.clean(line['student'])}: {line['message']}"


if __name__ == "__main__":
    main(sys.argv[1:])
