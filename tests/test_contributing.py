"""CONTRIBUTING.md: its recipe for a task, followed to the letter in a copy of the repository; what it names exists."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from autograder.cli import main
from tests.conftest import ROOT
from tests.guide import Copy, Ran, blocks, mutated

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPE = PAGE.split("## Add a task in ten minutes\n")[1].split("\n## ")[0]
BLOCKS = list(blocks(RECIPE))
FILES = {block.path: block for block in BLOCKS if block.path}
BANK = "autograder/bank/week02"
MUTANTS = {Path(path).stem: tomllib.loads(b.text) for path, b in FILES.items() if path.startswith(f"{BANK}/mutants/")}


def test_every_command_of_the_recipe_succeeds(ran: dict[str, Ran]) -> None:
    assert [command.split()[1] for command in ran] == ["build", "build", "check", "selftest"]
    assert {command: one.output for command, one in ran.items() if one.status} == {}


def test_no_code_of_the_grader_is_touched() -> None:
    data = ("course/", "solutions/week02/", "autograder/checks/week02/", f"{BANK}/")
    assert len(FILES) >= 18 and all(path.startswith(data) for path in FILES)


def test_the_commands_say_what_the_recipe_shows(ran: dict[str, Ran]) -> None:
    shown = [block.text for block in BLOCKS if block.kind == "text"]
    said = list(ran.values())
    assert said[1].output == shown[0]
    assert said[3].output.endswith(shown[1])
    assert "2.7  stable_rank: a rank that noise does not change: passed" in said[2].output


def test_the_students_get_the_task(copy: Copy, ran: dict[str, Ran]) -> None:
    assert "wrote exercises/week02/rank1_lora.py" in next(iter(ran.values())).output
    stub = (copy.root / "exercises/week02/rank1_lora.py").read_text(encoding="utf-8")
    assert (
        'raise NotImplementedError("Week 2, task 7: stable_rank")' in stub
        and "compute_uv" not in stub.split("def stable_rank")[1]
    )
    assert "stable_rank" in (copy.root / "syllabus.zh.md").read_text(encoding="utf-8")
    hint = copy.run("autograder hint 2.7 --stage 3 --lang zh")
    assert hint.status == 0 and "compute_uv=False" in hint.output


def test_a_student_with_the_first_mutant_is_told_why(copy: Copy) -> None:
    reference = (copy.root / "solutions/week02/rank1_lora.py").read_text(encoding="utf-8")
    wrong = copy.root / "build" / "rank1_lora.py"
    wrong.parent.mkdir()
    wrong.write_text(mutated(next(iter(MUTANTS.values()))["edit"], reference), encoding="utf-8")
    said = copy.run("autograder check 2.7 --file build/rank1_lora.py")
    assert said.status == 1 and "The norms are divided without their squares." in said.output


def test_the_recipe_keeps_the_rules_of_the_banks(copy: Copy) -> None:
    files = "tests/test_bank.py tests/test_hints.py tests/test_texts.py"
    chosen = "-k 'covers and week02 or both_languages and (week02 or 2.7) or test_texts and week02'"
    said = copy.run(f"{shlex.quote(sys.executable)} -m pytest -q -p no:cacheprovider {files} {chosen}")
    assert said.status == 0 and re.search(r"\b7 passed", said.output), said.output
    names = " ".join(path for path in FILES if path.endswith(".py"))
    for command in ("check", "format --check"):
        said = copy.run(f"{shlex.quote(sys.executable)} -m ruff {command} --force-exclude {names}")
        assert said.status == 0, said.output


def test_the_targets_and_paths_that_it_names_exist() -> None:
    targets = set(re.findall(r"`make (\w+)", PAGE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets >= {"lint", "test", "selftest"} and all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in targets)


@pytest.mark.parametrize("more", [[], ["--translated", "course/week02"]])
def test_a_week_goes_with_check_only(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--week", "2", *more]) == 2
    error = capsys.readouterr().err
    assert "--week goes with --check" in error and error.count("\n") == 1
