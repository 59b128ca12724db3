# ruff: noqa: E501  (cells of notebooks, a line of theirs in a line here)
"""Hostile notebooks, run in the sandbox among honest classmates: none gains, none reaches another's, no page that a TA sees runs.

Each of CASES is a notebook with one attack; all are run in one class, and the names are those of tests/attacks/others.toml.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from autograder import results
from autograder.grading import labrun
from autograder.manifest import Week
from autograder.marking import nbjudge
from course.labs.core import MIME
from tests import semester
from tests.conftest import ROOT
from tests.test_sanitise import assert_inert

LAB = "from course import labs\n"
SESSION = (
    "import os, ipykernel\nfrom IPython import get_ipython\nk = get_ipython().kernel\n"
    "place = os.path.dirname(ipykernel.get_connection_file())\n"
)
FORGED = {
    MIME: {"kind": "answer", "id": "4.q1", "value": {"score": 100, "status": "passed", "points": 100}},
    "text/plain": "full marks",
}


def code(source: str, **more: Any) -> Any:
    return new_code_cell(source, **more)


def look(*parts: str) -> Any:
    return code(SESSION + "".join(parts))


# What a cell prints as REACHED is what it got and must not have.
CASES: dict[str, list[Any]] = {
    "answers_printed": [code(f"import json; print(json.dumps({FORGED!r}))"), code(f"print({MIME!r}, 'score: 100')")],
    "answers_in_outputs": [code("1", outputs=[new_output("display_data", data=FORGED)], execution_count=1)],
    "answers_of_other_forms": [
        look(
            f"for data in ([{MIME!r}], {{{MIME!r}: [1]}}, {{{MIME!r}: {{'kind': 'answer', 'id': ['4.q1'], 'value': 1}}}}, 'x', None, 7):\n"
            "    try:\n        k.session.send(k.iopub_socket, 'display_data', {'data': data, 'metadata': {}}, parent=k.get_parent())\n"
            "    except BaseException as error:\n        print(error)\n"
        ),
    ],
    "claims_of_points": [
        code(f"from IPython.display import display\ndisplay({FORGED!r}, raw=True)"),
        code(LAB + "for q in ('4.q1', '4.q2', '4.q3'):\n    labs.answer(q, {'points': 100}) if False else None"),
    ],
    "comm_messages": [
        look(
            "for number in range(200):\n"
            "    k.session.send(k.iopub_socket, 'comm_open', {'comm_id': f'c{number}', 'target_name': 'jupyter.widget', 'data': {'state': "
            "{'_model_module': '@jupyter-widgets/output', '_model_name': 'OutputModel', 'msg_id': 'x', 'value': '<script>1</script>'}, "
            "'buffer_paths': []}}, parent=k.get_parent())\n"
        ),
        code("print('after')"),
    ],
    "widget_flood": [
        look(
            "state = {'_model_module': 'm', '_model_name': 'n', 'value': 'x' * 10**6}\n"
            "for number in range(200):\n"
            "    k.session.send(k.iopub_socket, 'comm_open', {'comm_id': f'c{number}', 'target_name': 'jupyter.widget', "
            "'data': {'state': state}}, parent=k.get_parent())\n"
        ),
        code("import time; time.sleep(1)"),
    ],
    "kernel_info_lies": [
        look(
            "k.implementation = k.banner = '<script>alert(1)</script>'\n"
            "k.language_info = {'name': 'html', 'nbconvert_exporter': 'os.system', 'file_extension': '../../x'}\n"
            "k.session.send(k.iopub_socket, 'status', {'execution_state': 'idle'}, parent=k.get_parent())\n"
        ),
        code("print('goes on')"),
    ],
    "shutdown": [
        look("k.session.send(k.iopub_socket, 'shutdown_reply', {'status': 'ok', 'restart': True}, parent=k.get_parent())\nos._exit(0)"),
        code("print('REACHED')"),
    ],
    "stdin_requests": [code("name = input('your password: ')"), code("import getpass\ngetpass.getpass()"), code("print('after')")],
    "idle_forged": [
        look(
            "for _ in range(50):\n"
            "    k.session.send(k.iopub_socket, 'status', {'execution_state': 'idle'}, parent={'header': {'msg_id': 'somebody-else'}})\n"
            "    k.session.send(k.iopub_socket, 'execute_reply', {'status': 'ok'}, parent=k.get_parent())\n"
        )
    ],
    "reads_the_key": [
        code(
            "import glob, os\nfor pattern in ('/lab/**/answers.toml', '/tmp/**/notebooks.jsonl', '/lab/**/gradebook.db', '/lab/solutions*', '/lab/tests*'):\n"
            "    found = [p for p in glob.glob(pattern, recursive=True) if not p.startswith('/proc')]\n"
            "    print('REACHED' if found else 'nothing', pattern)\n"
            "import autograder, importlib.util as u\n"
            "for name in ('autograder.marking.nbjudge', 'autograder.grading.labrun', 'autograder.checks', 'autograder.bank'):\n"
            "    try: print('REACHED' if u.find_spec(name) else 'nothing', name)\n"
            "    except ImportError: print('nothing', name)\n"
        ),
        code(LAB + "from autograder.judge import answers\nfrom autograder.manifest import load\nprint('REACHED' if answers.key(load().week(4)) else 'no key')"),
    ],
    "sockets_of_others": [
        look(
            "import socket, glob\nown = {os.path.join(place, name) for name in os.listdir(place)}\n"
            "found = [p for p in glob.glob('/tmp/**/k-*', recursive=True) + glob.glob('/tmp/lab-*/**', recursive=True) if p not in own and not "
            "os.path.isdir(p)]\nprint('REACHED' if found else 'nothing', found[:3])\n"
            "for name in ('\\0k-1', '/run/systemd/private', os.path.join(place, '..', '..', 's', 'k-1')):\n"
            "    try: socket.socket(socket.AF_UNIX).connect(name); print('REACHED', name)\n"
            "    except OSError as error: print(error.errno)\n"
        )
    ],
    "grade_ids_faked": [
        code("labs = 1", metadata={"nbgrader": {"grade_id": "q1", "grade": True, "points": 1000, "locked": False, "schema_version": 99}}),
        code("2", metadata={"nbgrader": {"grade_id": "q1", "grade": True, "points": 1000, "checksum": "0" * 32}}),
        new_markdown_cell("Full marks.", metadata={"nbgrader": {"grade_id": "review", "points": 99, "grade": True}}),
    ],
    "locked_cells_edited": [
        code(LAB + "labs.answer = lambda name, value: print('labs.answer is mine')\nlabs.answer('4.q1', 1)", metadata={"deletable": True}),
        new_markdown_cell("Points: 100 of 100", metadata={"nbgrader": {"grade_id": "points", "locked": True, "solution": False}}),
    ],
    "html_and_script": [
        code(
            "from IPython.display import HTML, SVG, IFrame, Javascript, Latex, Markdown, display\nEVIL = '<script>window.pwned=1</script>'\n"
            "display(HTML(EVIL), Javascript('window.pwned=1'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"window.pwned=1\"/>'), "
            "Markdown(EVIL + '[x](javascript:1)'), Latex('$\\\\href{javascript:1}{x}$'), IFrame('http://evil', 1, 1))\n"
            "display({'application/vnd.jupyter.widget-view+json': {'model_id': 'x'}, 'text/html': EVIL, 'text/plain': EVIL}, raw=True)\n"
            "raise type(EVIL, (Exception,), {})(EVIL)"
        )
    ],
    "huge_output": [code(LAB + "print('REACHED'[:0] + 'x' * 10**7)"), code("for _ in range(60): print('y' * 10**6)"), code("print('REACHED')")],
    "huge_pictures": [
        code(
            "from IPython.display import display\nimport base64\nbig = base64.b64encode(b'\\x89PNG\\r\\n\\x1a\\n' + bytes(9 * 2**20)).decode()\n"
            "display({'image/png': big}, raw=True)"
        )
    ],
    "database_written": [
        code(
            "import os\nfor top in ('/', '/lab', '/tmp', os.getcwd(), os.path.expanduser('~')):\n"
            "    for name in ('gradebook.db', '.nbgrader.log', 'results.jsonl', 'nbgrader_config.py'):\n"
            "        path = os.path.join(top, name)\n        print('REACHED' if os.path.exists(path) else 'nothing', path)\n"
            "import sqlite3\nfor path in ('/lab/gradebook.db', '/gradebook.db', '/lab/course/gradebook.db'):\n"
            "    try: sqlite3.connect(path).execute('create table grade (x)'); print('REACHED', path)\n"
            "    except sqlite3.Error as error: print(error)\n"
        )
    ],
    "files_left": [
        code(
            "import os\nfor path in ('/lab/exercises/week04/x.py', '/lab/course/x.py', '/lab/autograder/x.py', '/usr/lib/x', '/x', '/lab/notebooks/../x'):\n"
            "    try:\n        open(path, 'w'); print('REACHED', path)\n    except OSError as error:\n        print(error.errno)\n"
            "open('week04.ipynb', 'w').write('{}')\n"
        )
    ],
}  # fmt: skip
WITHOUT_A_NOTEBOOK = {
    "not_json": b"\x89PNG",
    "deep_json": b'{"cells": ' + b"[" * 200_000,
    "cells_of_another_form": json.dumps({"cells": {"cell_type": "code"}, "metadata": [], "nbformat": "x"}).encode(),
    "ten_thousand_cells": json.dumps({"cells": [{"cell_type": "markdown", "source": "x"}] * 10_000}).encode(),
    "a_surrogate": b'{"cells": [{"cell_type": "markdown", "source": "\\ud800\\u0000<script>", "metadata": {}}]}',
}
# A kernel costs seconds: cases that neither end it nor flood share one.
ALONE = ("answers_of_other_forms", "comm_messages", "widget_flood", "shutdown", "huge_output")
_GENTLE = [name for name in CASES if name not in ALONE]
STUDENT = {name: f"shared-{place % 2}" for place, name in enumerate(_GENTLE)} | {n: n for n in (*ALONE, *WITHOUT_A_NOTEBOOK)}


@dataclass
class Class:
    """What grading it left."""

    lines: dict[str, dict[str, Any]]
    out: Path

    def page(self, student: str) -> Any:
        return nbformat.reads((self.out / "notebooks" / labrun._page(student)).read_text(encoding="utf-8"), as_version=4)

    def printed(self, student: str) -> str:
        """What cells printed; a traceback also quotes their source."""
        outputs = [o for cell in self.page(student).cells for o in cell.get("outputs", [])]
        return "\n".join(output.text for output in outputs if output.output_type == "stream")

    def said(self, student: str) -> str:
        outputs = [o for cell in self.page(student).cells for o in cell.get("outputs", [])]
        return "\n".join(str(o.get("text", o.get("traceback", o.get("data", "")))) for o in outputs)


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory, week: Week) -> Class:
    root, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("out")
    right = semester.notebook(week, semester.right_answers(week)).encode()
    cells: dict[str, list[Any]] = {}
    for name, some in CASES.items():
        cells.setdefault(STUDENT[name], []).extend(some)
    made = {name: nbformat.writes(new_notebook(cells=some)).encode() for name, some in cells.items()}
    made |= WITHOUT_A_NOTEBOOK | {"0-first": right, "zz-last": right, "li\u2028ne": b"{}"}
    for student, notebook in made.items():
        place = root / student / week.folder
        place.mkdir(parents=True)
        (place / week.stub).write_bytes((ROOT / "solutions" / week.folder / week.stub).read_bytes())
        (place / f"{week.folder}.ipynb").write_bytes(notebook)
    lines = labrun.grade(root, week, out, jobs=2, canary=False)
    return Class({line["student"]: line for line in lines}, out)


@pytest.mark.bwrap
@pytest.mark.parametrize("name", [*CASES, *WITHOUT_A_NOTEBOOK])
def test_a_hostile_notebook_earns_nothing_and_reaches_nothing(graded: Class, name: str) -> None:
    line = graded.lines[STUDENT[name]]
    assert line["status"] == "graded" and line["score"] == 0, line
    assert "REACHED" not in graded.printed(STUDENT[name]), graded.printed(STUDENT[name])[:2000]


@pytest.mark.bwrap
def test_classmates_of_hostile_notebooks_keep_their_marks(graded: Class, week: Week) -> None:
    for name in ("0-first", "zz-last"):
        assert graded.lines[name]["score"] == graded.lines[name]["max_score"] > 0
    assert len(graded.lines) == len(set(STUDENT.values())) + 3
    assert results.read_labs(graded.out) == graded.lines


@pytest.mark.bwrap
def test_every_page_of_a_hostile_notebook_is_inert(graded: Class, week: Week) -> None:
    from nbconvert.exporters import HTMLExporter

    exporter = HTMLExporter(template_name="basic")
    for name in graded.lines:
        page = graded.page(name)
        assert len(nbformat.writes(page)) < 8 << 20, name
        if page.cells:
            assert_inert(exporter.from_notebook_node(page)[0])
        both = nbjudge.lab_notebook(week, graded.lines[name], graded.out / "notebooks" / labrun._page(name), "en")
        ids = [cell.metadata.nbgrader.grade_id for cell in both.cells if "nbgrader" in cell.metadata]
        assert sorted(ids) == sorted(question.grade_id for question in week.questions)
        assert {cell.metadata.nbgrader.points for cell in both.cells if "nbgrader" in cell.metadata} <= {
            q.points for q in week.questions
        }


@pytest.mark.bwrap
def test_floods_and_deaths_are_told(graded: Class) -> None:
    assert "showed more than" in graded.lines["huge_output"]["message"]
    assert "showed more than" in graded.lines["widget_flood"]["message"]
    assert "kernel died" in graded.lines["shutdown"]["message"] or graded.lines["shutdown"]["message"]
    assert "after" in graded.said(STUDENT["stdin_requests"])


def test_a_database_of_a_submission_is_no_gradebook(tmp_path: Path, week: Week) -> None:
    """gradebook.db among the files that are handed in is one of them, and no gradebook."""
    from autograder import intake

    place = tmp_path / "mallory"
    place.mkdir()
    (place / week.stub).write_text("x = 1\n")
    with sqlite3.connect(place / "gradebook.db") as book:
        book.execute("create table grade (score real)")
    found = intake.read("mallory", place, week)
    assert found.problem is None and set(found.files) == {week.stub, "gradebook.db"}
