"""Attacks on who reads and collects: the TA's browser, spreadsheets, zip files, nbgrader's folders and database, home."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_markdown_cell
from nbgrader.api import Gradebook

from autograder import intake, results
from autograder.grading import engine
from autograder.grading.engine import GradeError
from autograder.manifest import Course, Week
from autograder.marking import gradebook, nbjudge
from autograder.reports import feedback, review, sanitise
from tests.conftest import ROOT
from tests.test_exports import FORMULA
from tests.test_intake import zipped
from tests.test_nbjudge import book, result, scores  # noqa: F401  (a fixture)
from tests.test_nbjudge import zipped as archive_at
from tests.test_sanitise import assert_inert, body

# --- the TA's browser: markdown of a student's, and what must not be left of it ---

BROWSER = {
    "a_script": ("<script>window.pwned=1</script>", "<script"),
    "an_event_handler": ("<img src=x onerror=window.pwned=1>", "<img"),
    "a_javascript_link": ("[full marks](javascript:window.pwned=1)", "]("),
    "a_data_link": ("[x][1]\n\n[1]: data:text/html;base64,PHNjcmlwdD4=", "]["),
    "an_entity_for_a_tag": ("&lt;script&gt;&#106;avascript&colon;1", "&lt;s"),
    "a_tag_behind_terminal_codes": ("<\x1b[0mscript>window.pwned=1</\x1b]0;x\x07script>", "<script"),
    "svg": ("<svg xmlns='http://www.w3.org/2000/svg'><animate onbegin=window.pwned=1 /></svg>", "<svg"),
    "mathjax_link": ("$\\href{javascript:window.pwned=1}{x}$", "\\href"),
    "mathjax_box_with_css": ("$\\bbox[position:fixed;top:0;background:url(http://evil/t)]{x}$", "\\bbox"),
    "mathjax_macro_for_all": ("$\\renewcommand{\\alpha}{25/25}\\gdef\\beta{0}\\newenvironment{a}{b}{c}$", "\\renewcommand"),
    "mathjax_definition": ("$\\def\\x{\\require{html}}\\let\\y=\\x$", "\\def"),
    "bidirectional_controls": ("\u202egnissap\u202c \u2066x\u2069 \u061c", "\u202e"),
    "zero_width_and_tags": ("pa\u200bss\u00aded \u3164\u115f \U000e0041\U000e0042", "\U000e0041"),
    "a_line_within_a_line": ("# harmless\u2028import os\u0085x", "\u2028"),
    "a_fence_that_closes": ("```\n```\n<script>window.pwned=1</script>", "<script"),
}


@pytest.mark.parametrize("name", BROWSER)
def test_a_tas_browser_runs_and_hides_nothing(name: str) -> None:
    text, never = BROWSER[name]
    made = sanitise.markdown(text)
    assert never in text + "]["[: 2 * ("<" in never)] or "\x1b" in text
    assert never not in made
    assert_inert(body([new_markdown_cell(text)]))
    assert never not in sanitise.notebook({"cells": [{"cell_type": "markdown", "source": text}]}).cells[0].source


def test_a_review_of_hostile_code_is_inert(week: Week) -> None:
    """Names of files, code and what ruff says of it, in the material that a TA reads."""
    evil = "\n".join(text for text, _ in BROWSER.values())
    files = {
        week.stub: evil.encode("utf-8", "surrogatepass"),
        "<img src=x onerror=1>.py": b"# \xff\n",
        "a](javascript:1).py": b"import os",
    }
    for section in review.material(week, files, None, [("<script>alert(1)</script>", 0.9)]):
        fences = re.split(r"^`{3,}.*$", section.text, flags=re.MULTILINE)
        for running in [section.title, *fences[::2]]:
            assert not re.search(r"<[a-zA-Z/!]|\]\((?!#)|\u202e", running), running


# --- spreadsheets ---

CELLS = {
    "equals": "=HYPERLINK(\"http://evil\",\"x\")",
    "plus_minus_at": "+1+cmd|' /C calc'!A0",
    "at": "@SUM(1+1)*cmd|' /C calc'!A0",
    "dde_behind_a_space": " \t=cmd|' /C calc'!A0",
    "a_carriage_return": "\r=1+1",
    "full_width_equals": "\uff1d1+1",
    "a_semicolon_that_separates": "Ada;=cmd|' /C calc'!A0;x",
    "a_tab_that_separates": "Ada\t@SUM(1)",
    "a_line_in_quotes": 'Ada"\n=1+1\n"',
}  # fmt: skip


def cells_as(text: str, delimiter: str) -> list[str]:
    """What a spreadsheet takes a CSV file's cells to be, with the separator of its country, quotes or none."""
    quoted = [cell for row in csv.reader(io.StringIO(text), delimiter=delimiter) for cell in row]
    return [*quoted, *re.split(f"[{delimiter}\r\n]", text)]


@pytest.mark.parametrize("name", CELLS)
def test_no_cell_of_a_spreadsheet_is_run(name: str, week: Week) -> None:
    made = results.grades_csv([{"student": CELLS[name], "week": 4, "status": "graded", "score": 0, "max_score": 70, "tasks": []}])
    for delimiter in (",", ";", "\t"):
        for cell in cells_as(made, delimiter):
            assert not cell.lstrip(' \t\r\n\0"').startswith(FORMULA), (delimiter, cell)
    assert results.spreadsheet_safe("Li, Ada; Lovelace-Byron 1+1") == "Li, Ada; Lovelace-Byron 1+1"


# --- zip files ---


def _bomb() -> bytes:
    return zipped(("lora_linear.py", b"\0" * (8 << 20)), *((f"x{n}.py", b"\0" * (1 << 20)) for n in range(60)))


def _overlapping() -> bytes:
    """Two hundred entries whose data are one and the same."""
    whole = zipped(("aaaa.py", b"x" * 5000))
    directory = whole.index(b"PK\1\2")
    entry, end = whole[directory : whole.index(b"PK\5\6")], whole[whole.index(b"PK\5\6") :]
    entries = b"".join(entry.replace(b"aaaa.py", b"a%03d.py" % n) for n in range(200))
    return whole[:directory] + entries + end[:8] + struct.pack("<HHLL", 200, 200, len(entries), directory) + end[20:]


def _changed(at: bytes, offset: int, value: bytes) -> bytes:
    made = bytearray(zipped(("lora_linear.py", b"x = 1")))
    place = made.index(at) + offset
    made[place : place + len(value)] = value
    return bytes(made)


ZIPS: dict[str, Callable[[], bytes]] = {
    "a_bomb": _bomb,
    "overlapping_entries": _overlapping,
    "a_size_that_lies": lambda: _changed(b"PK\1\2", 24, struct.pack("<L", 2**31)),
    "an_offset_that_lies": lambda: _changed(b"PK\1\2", 42, struct.pack("<L", 2**32 - 1)),
    "a_name_that_leads_out": lambda: zipped(("../0-first/lora_linear.py", b"x"), ("/etc/x.py", b"x"), ("..\\x.py", b"x")),
    "a_name_with_a_null": lambda: _changed(b"PK\1\2", 46, b"lora\0"),
    "a_link": lambda: zipped((_link("lora_linear.py"), b"/etc/passwd")),
    "two_of_a_name": lambda: zipped(("other.py", b"1"), ("other.py", b"2")),
    "nested": lambda: zipped(("inner.zip", zipped(("lora_linear.py", b"x")))),
    "a_directory_without_end": lambda: b"PK\1\2" * 20_001 + b"PK\5\6" + bytes(18),
}


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ZIPS)
def test_a_hostile_zip_gives_nothing_to_run_and_stays_within_the_limits(name: str, week: Week, tmp_path: Path) -> None:
    (tmp_path / "mallory.zip").write_bytes(ZIPS[name]())
    (tmp_path / "0-first").mkdir()
    (tmp_path / "0-first" / week.stub).write_text("x = 1\n")
    found = {student: intake.read(student, place, week) for student, place in intake.students(tmp_path, week)}
    mallory = found["mallory"]
    assert sum(map(len, mallory.files.values())) <= week.limits.total_kib << 10 and len(mallory.files) <= week.limits.files
    assert week.stub not in mallory.files and mallory.problem
    assert found["0-first"].files == {week.stub: b"x = 1\n"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-first", "mallory.zip"]


@pytest.mark.parametrize("name", ["week04-...zip", "week04-..zip", "week04- .zip"])
def test_the_name_of_a_zip_is_never_another_folder(name: str, week: Week, tmp_path: Path) -> None:
    """An archive called week04-...zip was the student "..": its files were a classmate's, beside the folder of its own."""
    assert intake.archive_student(name, week).strip(". ")
    archives, out = tmp_path / "week04" / "archive", tmp_path / "week04" / "extracted"
    archive_at(archives / "week04-victim.zip", ("lora_linear.py", "right"))
    archive_at(archives / name, ("extracted/victim/torch.py", "evil"), ("extracted/victim/lora_linear.py", "evil"))
    nbjudge.CarefulExtractor().extract(str(archives), str(out))
    assert {path.relative_to(tmp_path / "week04").as_posix() for path in tmp_path.rglob("*.py")} == {
        "extracted/victim/lora_linear.py"
    }
    assert (out / "victim" / "lora_linear.py").read_text() == "right"


# --- nbgrader's database ---


def _names(week: Week) -> list[str]:
    return ["ada'); drop table grade; --", 'ada"', "ada\0", "%", "王小明 "]


def test_a_name_is_no_sql(week: Week, tmp_path: Path) -> None:
    with Gradebook(f"sqlite:///{tmp_path / 'b.db'}") as opened:
        for name in ("ada", *_names(week)):
            opened.add_student(name)
        assert sorted(student.id for student in opened.students) == sorted(["ada", *_names(week)])
        assert opened.find_student("ada").id == "ada"


def test_a_result_of_one_enters_no_mark_of_another(book: Gradebook, week: Week) -> None:  # noqa: F811
    """Scores beyond the maximum's cell, of unknown tasks and for a classmate's name within a name go nowhere else."""
    before = scores(book, week, "ada")
    forged = result(week, "王小明", 0.5)
    forged["tasks"].append({"id": "4.99", "score": 1000, "max_score": 1000})
    try:
        gradebook.enter_code(book, week, [forged])
    except gradebook.GradebookError as error:
        assert "\n" not in str(error)
    assert scores(book, week, "ada") == before
    assert all((auto or 0) <= 70 for auto, _, _ in scores(book, week, "王小明").values())


def test_cells_twice_with_forged_points_and_checksums_are_the_manifests(week: Week, tmp_path: Path) -> None:
    forged = {
        "grade_id": "q1",
        "grade": True,
        "points": 1000,
        "checksum": "0" * 32,
        "locked": False,
        "schema_version": 99,
        "task": True,
    }
    cells = [{"cell_type": "code", "source": "1", "metadata": {"nbgrader": forged}, "outputs": []}] * 3
    page = tmp_path / "mallory.ipynb"
    page.write_text(json.dumps(sanitise.notebook({"cells": cells})), encoding="utf-8")
    made = nbjudge.lab_notebook(week, {"message": "", "questions": []}, page, "en")
    graded = [cell.metadata.nbgrader for cell in made.cells if "nbgrader" in cell.metadata]
    assert [cell.grade_id for cell in graded].count("q1") == 1
    assert {cell.grade_id: cell.points for cell in graded} == {q.grade_id: q.points for q in week.questions}
    assert all(cell.get("checksum") != "0" * 32 for cell in graded)


def test_a_database_beside_the_code_is_a_file_among_others(week: Week, tmp_path: Path) -> None:
    place = tmp_path / "mallory"
    place.mkdir()
    (place / week.stub).write_text("x = 1\n")
    for name in ("gradebook.db", "nbgrader_config.py", "results.jsonl", "run.json"):
        (place / name).write_bytes(b"x")
    found = intake.read("mallory", place, week)
    assert found.problem is None and len(found.files) == 5
    assert [name for name, _ in intake.students(tmp_path, week)] == ["mallory"]


# --- marks from home ---


def test_the_public_seed_marks_nobody(course: Course, week: Week, tmp_path: Path) -> None:
    """Its answers are in every student's copy, autograder/recorded: a submission that plays them back would be right."""
    (tmp_path / "class" / "ada").mkdir(parents=True)
    with pytest.raises(GradeError, match="seed 0 is the public one"):
        engine.grade(tmp_path / "class", week, tmp_path / "out", course, seed=0)
    assert not (tmp_path / "out" / "results.jsonl").exists()


@pytest.mark.parametrize("name", [".autograder/progress.json", "week04-ada.receipt.json", "results.jsonl"])
def test_what_is_said_at_home_is_no_mark(name: str, week: Week, tmp_path: Path) -> None:
    """Forged progress, a forged receipt or result beside the stub changes nothing of what is marked."""
    place, forged = tmp_path / "plain" / "ada", tmp_path / "forged" / "ada"
    for folder in (place, forged):
        folder.mkdir(parents=True)
        (folder / week.stub).write_bytes((ROOT / "exercises" / week.folder / week.stub).read_bytes())
    path = forged / name
    path.parent.mkdir(exist_ok=True)
    tasks = {task.id: {"share": 1.0, "status": "passed", "digest": "x", "hint": 0} for task in week.tasks}
    path.write_text(json.dumps({"schema": 1, "tasks": tasks, "student": "ada", "score": 70, "status": "graded"}))
    plain, other = (intake.read("ada", folder, week) for folder in (place, forged))
    assert {k: v for k, v in other.files.items() if k.endswith(".py")} == plain.files and other.problem is None
    folders = [*(ROOT / "autograder" / "judge").glob("*.py"), *(next((ROOT / "autograder").rglob(f"{n}.py")) for n in _MARKING)]
    for file in (Path(f) for f in folders):
        assert "progress" not in re.findall(
            r"^\s*(?:from|import) .*?(progress)\b", file.read_text(encoding="utf-8"), re.MULTILINE
        )


_MARKING = ("engine", "intake", "results", "gradebook", "marks", "labrun", "nbjudge", "regrade", "feedback")


def test_feedback_quotes_a_hostile_name(week: Week) -> None:
    name = "<img src=x onerror=1>\u202e [x](javascript:1)\x1b[2J"
    line: dict[str, Any] = {"student": name, "status": "ungraded", "message": f"`````\n{name}", "week": 4}
    page = feedback.page(line, feedback.Words(week))
    assert "<img" not in re.sub(r"^`{6,}text\n.*?^`{6,}$", "", page, flags=re.MULTILINE | re.DOTALL)
    assert "\x1b" not in page and "\u202e" not in page and "/" not in feedback.page_name(name)
