"""docs/writing-a-check.md, followed to the letter in a copy of the repository."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.guide import Copy, Ran, blocks, mutated
from tests.test_lectures import sections

GUIDE = ROOT / "docs" / "writing-a-check.md"
BANK = "autograder/bank/week13"
pytestmark = pytest.mark.bwrap  # the guide grades a class in the sandbox


BLOCKS = list(blocks(GUIDE.read_text(encoding="utf-8")))
MUTANTS = {Path(b.path).stem: tomllib.loads(b.text) for b in BLOCKS if b.path.startswith(f"{BANK}/mutants/")}
HELDOUT = {Path(b.path).stem: tomllib.loads(b.text) for b in BLOCKS if b.path.startswith(f"{BANK}/heldout/")}
FILES = {b.path: b.text for b in BLOCKS if b.kind == "write"}
REFERENCE = FILES["solutions/week13/balance.py"]


def test_the_commands_run_the_copy(copy: Copy) -> None:
    program = "import autograder.judge.runner as r; import autograder.inside.worker as w; print(r.ROOT, w.__file__)"
    said = copy.run(f"{shlex.quote(sys.executable)} -c '{program}'")
    assert said.output.split() == [str(copy.root), str(copy.root / "autograder/inside/worker.py")]


COMMANDS = [line for block in BLOCKS if block.kind == "sh" for line in block.text.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_guide_succeeds(ran: dict[str, Ran], command: str) -> None:
    assert ran[command].status == 0, ran[command].output


def test_the_guide_ends_with_the_selftest() -> None:
    assert COMMANDS[-1] == "autograder selftest --week 13"


def test_no_code_of_the_grader_is_touched() -> None:
    """The guide writes lectures, a reference, checks and answers; of what was there, only the manifest grows."""
    data = ("course/week13/", "solutions/week13/", "autograder/checks/week13/", f"{BANK}/")
    assert all(name.startswith(data) for name in FILES)
    assert [b.path for b in BLOCKS if b.kind == "append"] == ["course/course.toml"]


def test_what_the_checks_say_is_complete(copy: Copy, ran: dict[str, Ran]) -> None:
    said = copy.run(f"{shlex.quote(sys.executable)} -m pytest -q -p no:cacheprovider tests/test_texts.py -k week13")
    assert said.status == 0 and "4 passed" in said.output, said.output


def test_build_makes_the_stub_and_the_syllabus(copy: Copy, ran: dict[str, Ran]) -> None:
    made = ("exercises/week13/balance.py", "notebooks/week13.ipynb", "notebooks/zh/week13.ipynb", "syllabus.md", "syllabus.zh.md")
    for name in made:
        assert f"wrote {name}" in ran["autograder build"].output
        assert "balance" in (copy.root / name).read_text(encoding="utf-8")
    stub = (copy.root / "exercises/week13/balance.py").read_text(encoding="utf-8")
    assert 'raise NotImplementedError("Week 13, task 1: balance")' in stub
    assert "SOLUTION" not in stub and "norms_A" not in stub
    assert ran["autograder build --check"].output.strip() == "all generated files are in order"


def test_the_notebook_runs_and_earns_its_points(copy: Copy, ran: dict[str, Ran]) -> None:
    assert re.search(r"^week13 +[\d.]+ +[\d.]+$", ran["python benchmarks/notebooks.py 13"].output, re.MULTILINE)
    program = (
        "from pathlib import Path; from autograder.judge import answers; from autograder.manifest import load; "
        "handed_in = answers.read(Path('build/notebooks/week13.ipynb')); "
        "print([(s.status, s.points) for s in answers.score(load().week(13), handed_in)])"
    )
    said = copy.run(f'{shlex.quote(sys.executable)} -c "{program}"')
    assert said.output.strip() == "[('passed', 9)]"
    student = json.loads((copy.root / "notebooks/week13.ipynb").read_text(encoding="utf-8"))
    assert not any("small_b" in line for cell in student["cells"] for line in cell["source"])


def test_the_lecture_section_exists_in_both_languages(copy: Copy) -> None:
    for name in ("lecture.md", "lecture.zh.md"):
        assert sections(copy.root / "course/week13" / name)["balanced-factors"].strip()


def test_the_reference_is_full_and_the_stub_nothing(copy: Copy, ran: dict[str, Ran]) -> None:
    said = ran["autograder check 13 --file solutions/week13/balance.py"].output
    assert "13.1  balance: passed, 70 of 70 points" in said
    stub = copy.run("autograder check 13")
    assert stub.status == 1 and "13.1  balance: unattempted, 0 of 70 points" in stub.output


def test_a_student_reads_what_the_guide_shows(copy: Copy) -> None:
    shown = [block.text for block in BLOCKS if block.kind == "text"]
    assert len(shown) == 1
    wrong = copy.root / "build" / "wrong" / "balance.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text(mutated(next(iter(MUTANTS.values()))["edit"], REFERENCE), encoding="utf-8")
    said = copy.run("autograder check 13.1 --file build/wrong/balance.py")
    lines = iter(line.strip() for line in said.output.splitlines())
    for line in shown[0].splitlines():
        assert line in lines, f"{line!r} is not there, or not in this order:\n{said.output}"


@pytest.fixture(scope="module")
def results(copy: Copy) -> dict[str, dict]:
    """Every answer of the guide, and the stub, graded as a class."""
    alternative = FILES[f"{BANK}/alternatives/pair_by_pair/balance.py"]
    stub = (copy.root / "exercises/week13/balance.py").read_text(encoding="utf-8")
    answers = {"reference": REFERENCE, "alternative": alternative, "stub": stub}
    answers |= {f"mutant-{name}": mutated(mutant["edit"], REFERENCE) for name, mutant in MUTANTS.items()}
    answers |= {f"heldout-{name}": mutated(other["edit"], alternative) for name, other in HELDOUT.items()}
    for name, source in answers.items():
        place = copy.root / "build" / "class" / name
        place.mkdir(parents=True)
        (place / "balance.py").write_text(source, encoding="utf-8")
    said = copy.run("autograder grade build/class --week 13 --out build/graded --quiet")
    assert said.status == 0, said.output
    found = map(json.loads, (copy.root / "build/graded/results.jsonl").read_text(encoding="utf-8").splitlines())
    return {result["student"]: result for result in found}


def test_right_answers_get_full_marks_and_the_stub_none(results: dict[str, dict]) -> None:
    scores = {name: results[name]["score"] for name in ("reference", "alternative", "stub")}
    assert scores == {"reference": 70, "alternative": 70, "stub": 0}
    assert results["stub"]["tasks"][0]["status"] == "unattempted"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_loses_points_and_is_told_why(results: dict[str, dict], name: str) -> None:
    task = results[f"mutant-{name}"]["tasks"][0]
    assert task["score"] < 70
    assert task["misconception"] == MUTANTS[name]["misconception"]


@pytest.mark.parametrize("name", HELDOUT)
def test_another_spelling_is_told_the_same(results: dict[str, dict], name: str) -> None:
    task = results[f"heldout-{name}"]["tasks"][0]
    assert HELDOUT[name]["of"] == "pair_by_pair" and task["score"] < 70
    assert task["misconception"] == MUTANTS[HELDOUT[name]["mutant"]]["misconception"]


def test_the_guide_keeps_its_own_rules(copy: Copy) -> None:
    assert len(MUTANTS) >= 5
    assert {held["mutant"] for held in HELDOUT.values()} == set(MUTANTS)
    for command in ("check", "format --check"):
        names = " ".join(name for name in FILES if name.endswith(".py"))
        said = copy.run(f"{shlex.quote(sys.executable)} -m ruff {command} --force-exclude {names}")
        assert said.status == 0, said.output
