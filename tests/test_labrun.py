"""A student's notebook runs in a sandbox: it earns what its answers are worth, and reaches nothing."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from autograder import intake
from autograder.grading import kernel, labrun
from autograder.manifest import Course, Week
from tests import semester
from tests.conftest import ROOT

REFERENCE = ROOT / "solutions/week04/lora_linear.py"


def notebook(*cells: str) -> str:
    return str(nbformat.writes(new_notebook(cells=[new_code_cell(cell) for cell in cells])))


def hand_in(root: Path, student: str, text: str | bytes, stub: Path = REFERENCE) -> Path:
    place = root / student / "week04"
    place.mkdir(parents=True, exist_ok=True)
    (place / "lora_linear.py").write_bytes(stub.read_bytes())
    (place / "week04.ipynb").write_bytes(text.encode() if isinstance(text, str) else text)
    return place


def ran(week: Week, *cells: str) -> dict[str, Any]:
    return labrun.run(week, {"lora_linear.py": REFERENCE.read_bytes()}, notebook(*cells).encode(), "bwrap")


def said(result: dict[str, Any]) -> str:
    return "".join(
        str(o.get("text", o.get("traceback", ""))) for cell in result["notebook"]["cells"] for o in cell.get("outputs", [])
    )


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory, week: Week, course: Course) -> tuple[Path, Path, list[dict[str, Any]]]:
    root, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("labs")
    right = semester.right_answers(week)
    hand_in(root, "right", semester.notebook(week, right))
    hand_in(root, "own-file", notebook("from course import labs", "own = labs.student(4)", "labs.answer('4.q1', own.SIX)"))
    (root / "own-file/week04/lora_linear.py").write_text(f"SIX = {right['q1']}\n")
    hand_in(root, "goes-on", notebook("1 / 0", "from course import labs", f"labs.answer('4.q1', {right['q1']!r})"))
    hand_in(
        root,
        "last-counts",
        notebook("from course import labs", f"labs.answer('4.q1', {right['q1']!r})", "labs.answer('4.q1', 1)"),
    )
    hand_in(root, "nonsense", b"\x89PNG nonsense")
    hand_in(root, "deep", b'{"cells": ' + b"[" * 100_000)
    (hand_in(root, "none", "") / "week04.ipynb").unlink()
    linked = hand_in(root, "linked", "") / "week04.ipynb"
    linked.unlink()
    os.symlink(root / "right/week04/week04.ipynb", linked)
    return root, out, labrun.grade(root, week, out, jobs=2)


def test_answers_earn_their_points(graded: tuple[Path, Path, list[dict[str, Any]]], week: Week) -> None:
    lines = {line["student"]: line for line in graded[2]}
    points = {question.id: question.points for question in week.questions}
    assert {line["status"] for line in lines.values()} == {"graded"}
    assert lines["right"]["score"] == lines["right"]["max_score"] == sum(q.points for q in week.questions if not q.written)
    for name in ("own-file", "goes-on"):
        assert lines[name]["score"] == points["4.q1"], lines[name]
    for name in ("last-counts", "nonsense", "deep", "none", "linked"):
        assert lines[name]["score"] == 0, name
    assert lines["none"]["message"] == "week04.ipynb was not handed in"
    assert "not a Jupyter notebook" in lines["nonsense"]["message"] and "not a Jupyter notebook" in lines["deep"]["message"]
    assert "hand in the file itself" in lines["linked"]["message"]


def test_the_same_call_runs_what_changed_alone(
    graded: tuple[Path, Path, list[dict[str, Any]]], week: Week, course: Course
) -> None:
    root, out, before = graded
    (root / "own-file/week04/lora_linear.py").write_text("SIX = 6\n")
    counts: list[tuple[int, int]] = []
    lines = labrun.grade(root, week, out, canary=False, progress=lambda done, total: counts.append((done, total)))
    assert counts == [(7, 8), (8, 8)]
    changed = [new["student"] for old, new in zip(before, lines, strict=True) if old != new]
    assert changed == ["own-file"]
    written = [json.loads(line) for line in (out / "notebooks.jsonl").read_text().splitlines()]
    assert written == lines
    assert len(list((out / "notebooks").iterdir())) == 8


def test_it_reaches_nothing(week: Week, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.txt").write_text("SECRET")
    monkeypatch.setenv("LORA_SECRET", "SECRET")
    look = (
        "import os\nhits = []\n"
        "for top, folders, files in os.walk('/'):\n"
        "    if top.startswith(('/proc', '/sys')) or 'site-packages' in top: folders[:] = []; continue\n"
        "    names = 'answers.toml', 'results.jsonl', 'gradebook.db', 'secret.txt'\n"
        "    hits += [os.path.join(top, f) for f in files if f in names]\n"
        "    hits += [top] if top.endswith(('/solutions', '/bank', '/checks')) else []\n"
        "print('HITS', hits)"
    )
    result = ran(
        week, look, f"print(open({str(tmp_path / 'secret.txt')!r}).read())", f"print(open({str(REFERENCE)!r}).read())",
        "import os; print([v for v in os.environ.values() if v == 'SECRET'])", "open('/lab/course/x', 'w')",
        "import socket; socket.create_connection(('127.0.0.1', 22), 2)",
        "os.kill(os.getppid(), 9); os.kill(1, 9); print('ALIVE')",
        "import ctypes; print('UNSHARE', ctypes.CDLL(None).unshare(0x10000000))",
    )  # fmt: skip
    text = said(result)
    assert "HITS []" in text and "SECRET" not in text.replace("'SECRET'", "")
    assert text.count("No such file or directory") >= 2 and "Read-only file system" in text and "refused" in text.lower()
    assert "UNSHARE -1" in text and result["ours"] == ""


def test_the_folder_of_the_sockets_holds_nothing_else_and_costs_nobody_anything(week: Week) -> None:
    place = "import os, ipykernel\nos.chdir(os.path.dirname(ipykernel.get_connection_file()))\n"
    deep = place + "for _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\n"
    closed = place + "open('x', 'wb').write(bytes(10**6))\nos.chmod('.', 0)\n"
    for cell in (deep, closed):
        before = set(Path(tempfile.gettempdir()).glob("lab*"))
        result = ran(week, cell, "import time; time.sleep(30)")
        assert "kernel died" in result["message"] and result["ours"] == ""
        assert set(Path(tempfile.gettempdir()).glob("lab*")) <= before


def test_a_linked_folder_is_nobodys_notebook(week: Week, tmp_path: Path) -> None:
    hand_in(tmp_path, "alice", notebook("1"))
    (tmp_path / "bob").mkdir()
    os.symlink(tmp_path / "alice/week04", tmp_path / "bob/week04")
    assert intake.notebook(tmp_path / "bob", week) == "week04.ipynb cannot be read: hand in the file itself"
    assert isinstance(intake.notebook(tmp_path / "alice", week), bytes)


def test_a_failure_of_ours_is_ungraded_and_ends_no_class(
    week: Week, tmp_path: Path, course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        hand_in(tmp_path / "class", name, notebook("1"))

    def run(week: Week, files: dict[str, bytes], source: bytes, isolation: str) -> dict[str, Any]:
        raise RecursionError("deep")

    monkeypatch.setattr(labrun, "run", run)
    lines = labrun.grade(tmp_path / "class", week, tmp_path / "out", canary=False)
    assert [(line["status"], line["score"]) for line in lines] == [("ungraded", None)] * 2


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("import os\nos.kill(os.getpid(), 9)", "kernel died"),
        ("while True: print('x' * 10**6)", "showed more than"),
        ("import os\nwhile True: os.fork()", "kernel died"),
        ("x = []\nwhile True: x.append(bytearray(2**28))", ""),
    ],
    ids=["killed", "flood", "forks", "memory"],
)
def test_what_ends_it_costs_what_comes_after(week: Week, cell: str, why: str) -> None:
    first = "from course import labs\nlabs.answer('4.q1', 1)"
    result = ran(week, first, cell, "print('AFTER')")
    assert why in result["message"], result["message"]
    assert result["ours"] == ""
    if why != "showed more than":
        assert result["notebook"]["cells"][0]["outputs"], "what came before counts"
    assert ("AFTER" in said(result)) == (why == "")


def test_messages_that_are_none_end_its_own_process_alone(week: Week) -> None:
    forge = (
        "from IPython import get_ipython\nk = get_ipython().kernel\n"
        "for part in (b'', b'nonsense', b'\\xff' * 100_000):\n"
        "    k.iopub_socket.send_multipart([b'x', part, b'<IDS|MSG>', b'bad', b'{', b'{', b'{', b'['])\n"
    )
    result = ran(week, "from course import labs\nlabs.answer('4.q1', 1)", forge, "labs.answer('4.q2', 2)")
    assert result["ours"] == ""


def test_an_endless_cell_is_stopped(week: Week, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labrun, "CELL_SECONDS", 3)
    job = notebook("from course import labs\nlabs.answer('4.q1', 1)", "import time\nwhile True: time.sleep(1)").encode()
    result = labrun._execute(week, {"lora_linear.py": REFERENCE.read_bytes()}, job, "bwrap")
    assert "a cell took more than 3 s" in result["message"]
    assert result["notebook"]["cells"][0]["outputs"]


def test_nothing_is_left_running(week: Week) -> None:
    ran(week, "import subprocess\nsubprocess.Popen(['sleep', '98765'], start_new_session=True)")
    end = time.monotonic() + 10
    while time.monotonic() < end and (found := _sleepers()):
        time.sleep(0.1)
    assert not found


def _sleepers() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if b"sleep\x0098765" in text:
            found.append(str(path))
    return found


def test_without_a_sandbox_there_is_one_line(week: Week, tmp_path: Path, course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.sandbox, "bwrap_problem", lambda: "bubblewrap is not installed")
    with pytest.raises(kernel.sandbox.SandboxError, match="not installed"), kernel.manager(week, {}):
        pass
