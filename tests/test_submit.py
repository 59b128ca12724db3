"""What `autograder submit` writes is what `autograder grade` marks, and its receipt says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from autograder import cli, intake
from autograder.manifest import Week, load
from autograder.reports import similar
from autograder.student import handin
from tests.conftest import ROOT

WEEK = load().week(2)
REFERENCE = ROOT / "solutions" / "week02" / WEEK.stub


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A student's copy: the stub and the notebooks of week 2."""
    root = tmp_path / "course of ada"
    for name in ("exercises/week02", "notebooks/week02.ipynb", "notebooks/zh/week02.ipynb"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    shutil.rmtree(root / "exercises/week02/__pycache__", ignore_errors=True)
    monkeypatch.setattr(handin, "ROOT", root)
    monkeypatch.setattr(handin, "NOTEBOOKS", root / "notebooks.json")
    monkeypatch.setenv("AUTOGRADER_LANG", "en")
    return root


def work_on(notebook: Path, text: str = "x = 1") -> None:
    """As if a cell had been run."""
    made = json.loads(notebook.read_text(encoding="utf-8"))
    cell = next(cell for cell in made["cells"] if cell["cell_type"] == "code")
    cell["outputs"], cell["source"] = [{"output_type": "stream", "name": "stdout", "text": "1"}], text
    notebook.write_text(json.dumps(made), encoding="utf-8")


def submit(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(["submit", *words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out, said.err


def test_it_is_graded_and_the_receipt_is_the_same(
    place: Path, tmp_path: Path, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place / "exercises" / "week02"
    (folder / WEEK.stub).write_text(REFERENCE.read_text(encoding="utf-8") + "\n\nimport svd\n")
    (folder / "svd.py").write_text('"""A helper."""\n')
    work_on(place / "notebooks" / "week02.ipynb")
    status, out, _ = submit("2", "--student", "ada", capsys=capsys)
    assert status == 0 and "note: " not in out, out
    made = place / "submissions" / "week02-ada.zip"
    receipt = json.loads(made.with_suffix(".receipt.json").read_text(encoding="utf-8"))
    assert f"receipt: {receipt['submission'][:16]}\n" in out and str(made) in out
    assert [file["name"] for file in receipt["files"]] == ["rank1_lora.py", "svd.py", "week02.ipynb"]
    first = made.read_bytes()
    assert submit("2", "--student", "ada", capsys=capsys)[0] == 0 and made.read_bytes() == first, "the same bytes"

    # Handed in as a zip file, as one in a folder, as the folder itself.
    root = tmp_path / "in"
    (root / "bob" / "week02").mkdir(parents=True)
    (root / "eve").mkdir()
    shutil.copy(made, root / "week02-ada.zip")
    shutil.copy(made, root / "bob" / "week02" / "any name.zip")
    shutil.copy(made.with_suffix(".receipt.json"), root / "bob" / "week02")
    for path in folder.glob("*.py"):
        shutil.copy(path, root / "eve")
    # In a process of its own: judges are forked, and other tests may have left threads in this one.
    command = [sys.executable, "-m", "autograder", "grade", str(root), "--week", "2", "--out", str(tmp_path / "out")]
    command += ["--seed", "1", "--jobs", "1", "--isolation", level, "--quiet"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    results = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines())
    assert [(r["student"], r["score"], r["submission"]) for r in results] == [
        (name, 70, receipt["submission"]) for name in ("ada", "bob", "eve")
    ]
    page = (tmp_path / "out" / "feedback" / "ada.md").read_text(encoding="utf-8")
    assert f"Receipt of what was marked: `{receipt['submission'][:16]}`." in page
    for student, handed in (("ada", True), ("bob", True), ("eve", False)):
        found = intake.notebook(dict(intake.students(root, WEEK))[student], WEEK)
        assert isinstance(found, bytes) == handed, found
    report = similar.run(root, WEEK, tmp_path / "similar")
    assert {frozenset((p.first, p.second)) for p in report.pairs if p.score == 1} >= {frozenset(("ada", "bob"))}


def test_verify(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("2", capsys=capsys)[0] == 0
    made = place / "submissions" / "week02.zip"
    receipt = json.loads(made.with_suffix(".receipt.json").read_text(encoding="utf-8"))["submission"]
    elsewhere = place / "mine.zip"
    shutil.copy(made, elsewhere)
    status, out, _ = submit("--verify", str(elsewhere), capsys=capsys)
    assert status == 0 and f"receipt: {receipt[:16]}  (in full: {receipt})" in out
    status, out, _ = submit("--verify", str(made), capsys=capsys)
    assert status == 0 and "as week02.receipt.json says" in out
    made.write_bytes(handin.pack({WEEK.stub: b"x = 1\n"}))
    status, out, _ = submit("--verify", str(made), capsys=capsys)
    assert status == 1 and "NOT what week02.receipt.json says" in out and receipt not in out
    made.write_bytes(b"PK")
    status, _, err = submit("--verify", str(made), capsys=capsys)
    assert status == 2 and "week02.zip cannot be opened (it is no zip file, or damaged)" in err
    status, _, err = submit("--verify", "nowhere.zip", capsys=capsys)
    assert status == 2 and "nowhere.zip cannot be read" in err


def test_what_is_missing_is_told(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place / "exercises" / "week02"
    (folder / "notes.txt").write_text("mine")
    (folder / "big.py").write_text("#" * (WEEK.limits.file_kib * 1024 + 1))
    (folder / ".backup").mkdir()
    (folder / ".backup" / "old.py").write_text("x = 1")
    status, out, _ = submit("2", capsys=capsys)
    assert status == 0 and "(rank1_lora.py)" not in out
    assert "note: not attempted yet: 2.1, 2.2, 2.3, 2.4\n" in out
    assert "note: no notebook: you worked on none of this week" in out
    assert "note: notes.txt: left out, only .py files are handed in\n" in out
    assert f"note: big.py: left out, it is larger than {WEEK.limits.file_kib} KiB\n" in out
    assert "old.py" not in out
    (folder / WEEK.stub).write_text("x = (\n")
    assert "rank1_lora.py, line 1: '(' was never closed; a file that is not Python" in submit("2", capsys=capsys)[1]
    monkeypatch.setenv("AUTOGRADER_LANG", "zh")
    assert "注意: 没有笔记本" in submit("2", capsys=capsys)[1]
    assert "note: no notebook" in submit("2", "--lang", "en", capsys=capsys)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["2"], "rank1_lora.py is empty: hand in the completed file"),
        ([], "name the week, such as `autograder submit 4`"),
        (["2.1"], "a whole week is handed in: autograder submit 2"),
        (["2", "--student", "../ada"], "--student is your id alone"),
        (["2", "--student", ""], "--student is your id alone"),
        (["3"], "lora_mechanics.py is not there, get it back with `autograder start 3`"),
        (["2", "--notebook", "nowhere.ipynb"], "nowhere.ipynb cannot be read"),
    ],
)
def test_what_the_grader_would_refuse_is_refused(
    place: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "exercises" / "week02" / WEEK.stub).write_text("\n")
    status, _, err = submit(*words, capsys=capsys)
    assert status == 2 and said in err and len(err.splitlines()) == 1
    assert not (place / "submissions").exists()


def test_a_renamed_stub_is_recognised(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "exercises" / "week02"
    (folder / WEEK.stub).rename(folder / "rank1_lora (1).py")
    status, _, err = submit("2", capsys=capsys)
    assert status == 2 and "but rank1_lora (1).py is: rename it to rank1_lora.py" in err


def test_which_notebook(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    en, zh = place / "notebooks" / "week02.ipynb", place / "notebooks" / "zh" / "week02.ipynb"

    def handed_in(*words: str) -> bytes | None:
        status, _, err = submit("2", *words, capsys=capsys)
        assert status == 0, err
        with zipfile.ZipFile(place / "submissions" / "week02.zip") as archive:
            return archive.read("week02.ipynb") if "week02.ipynb" in archive.namelist() else None

    digests = {path.relative_to(place).as_posix(): handin.cells_digest(path.read_bytes()) for path in (en, zh)}
    handin.NOTEBOOKS.write_text(json.dumps(digests))
    assert handed_in() is None and handed_in("--lang", "zh") is None, "none was worked on"
    made = json.loads(zh.read_text(encoding="utf-8"))
    made["cells"][0]["source"] = "mine"  # written, not run
    zh.write_text(json.dumps(made), encoding="utf-8")
    assert handed_in() == zh.read_bytes() == handed_in("--lang", "en"), "the only one"
    work_on(en)
    status, _, err = submit("2", capsys=capsys)
    assert status == 2 and "you worked on notebooks/week02.ipynb and notebooks/zh/week02.ipynb: say which" in err
    assert handed_in("--notebook", str(en)) == en.read_bytes() == handed_in("--lang", "en")
    assert handed_in("--lang", "zh") == zh.read_bytes()
    en.write_text("no notebook")
    status, _, err = submit("2", "--notebook", str(en), capsys=capsys)
    assert status == 2 and "week02.ipynb is not a Jupyter notebook" in err


def test_a_folder_that_cannot_be_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "submissions").write_text("a file")
    status, _, err = submit("2", capsys=capsys)
    assert status == 2 and "submissions" in err and len(err.splitlines()) == 1


def test_it_imports_nothing_heavy_and_works_where_fcntl_is_missing(place: Path) -> None:
    program = (
        "import sys, os\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'): sys.modules[name] = None\n"
        "for name in ('fork', 'O_DIRECTORY', 'O_NOFOLLOW', 'O_NONBLOCK'): delattr(os, name)\n"
        "from pathlib import Path\nfrom autograder import cli\nfrom autograder.student import handin\n"
        f"handin.ROOT = Path({str(place)!r})\n"
        "status = cli.main(['submit', '2', '--lang', 'en'])\n"
        "assert not {'torch', 'numpy', 'pytest', 'rich'} & set(sys.modules)\nsys.exit(status)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "receipt: " in done.stdout, done.stderr


def test_language(monkeypatch: pytest.MonkeyPatch, week: Week) -> None:
    from autograder.student.common import language

    for name in ("AUTOGRADER_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    assert language() == "en"
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert language() == "zh"
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert language() == "en"
    monkeypatch.setenv("AUTOGRADER_LANG", "zh")
    assert language() == "zh"
