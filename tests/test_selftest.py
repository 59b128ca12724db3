"""The self-test finds what is wrong with a bank: each kind of fault is put into a small one and must be reported."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autograder import bank, cli
from autograder.judge.runner import reference_stub
from autograder.manifest import load
from autograder.proof import selftest
from autograder.proof.mutate import generate

WEEK = load().week(4)
REFERENCE = reference_stub(WEEK).read_text(encoding="utf-8")
SCALE = "self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank"
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A bank with one mutant, one held-out spelling and two generated mutants, and a way to add files to it."""
    folder = tmp_path / WEEK.folder

    def add(name: str, text: str) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    add("mutants/by_alpha.toml", mutant("scaled by alpha", SCALE, "self.rank, self.alpha, self.scaling = rank, alpha, alpha"))
    add("heldout/times_rank.toml", spelling("by_alpha", "y + F.linear(self.scaling *", "y + F.linear(self.rank * self.scaling *"))
    monkeypatch.setattr(bank, "BANK", tmp_path)
    changes = [m for m in generate(REFERENCE, WEEK.stub) if m.where == "LoRALinear.forward"]
    monkeypatch.setattr(selftest, "generate", lambda source, name: changes[:2])
    return add


def mutant(text: str, find: str, new: str) -> str:
    return f'task = "4.1"\nmisconception = "{text}"\nmisconception_zh = "{text}"\n[[edit]]\nfind = "{find}"\nreplace = "{new}"\n'


def spelling(name: str, find: str, new: str) -> str:
    return f'mutant = "{name}"\n[[edit]]\nfind = "{find}"\nreplace = "{new}"\n'


def run() -> selftest.Report:
    return selftest.run(WEEK, seed=1, jobs=1)


def test_a_bank_in_order(write: Write) -> None:
    report = run()
    assert report.problems == [] and report.survivors == []
    assert (report.right, report.mutants, report.killed, report.told) == (1, 1, 1, 1)
    assert (report.heldout, report.heldout_told, report.heldout_wrong) == (1, 1, 0)
    assert (report.generated, report.generated_killed) == (2, 2)
    text = "\n".join(report.lines())
    assert "in order" in text and "1 of 1 diagnosed (100.0%), 0 wrongly" in text and "2 of 2 lose points (100.0%)" in text


def test_what_is_wrong_is_reported(write: Write) -> None:
    write("mutants/no_bug.toml", mutant("nothing is wrong", "y = self.base(x)\\n", "y = self.base.forward(x)\\n"))
    write("alternatives/wrong/lora_linear.py", REFERENCE.replace(SCALE, SCALE + " / 2"))
    write("heldout/misled.toml", spelling("no_bug", "alpha, alpha / rank", "alpha, alpha"))
    entry = '[[equivalent]]\nwhere = "{}"\nbefore = "{}"\nafter = "{}"\nreason = "c"\n'
    change = selftest.generate(REFERENCE, WEEK.stub)[0]
    write("equivalents.toml", entry.format("f", "a", "b") + entry.format(change.where, change.before, change.after))
    found = "\n".join(run().problems)
    for expected in (
        "mutant no_bug keeps full marks on 4.1",
        "mutant no_bug is not told its own misconception",
        "heldout misled is told: scaled by alpha",
        r"alternative wrong loses points: 4.1, \w+: With in_features=2",
        "equivalents.toml: no such change of the reference: f: b",
        f"listed as equivalent but loses points: {change.where}: {re.escape(change.after)}",
        "fewer than 90% of the held-out spellings are diagnosed",
    ):
        assert re.search(expected, found), f"{expected!r} is not in\n{found}"


def test_survivors_and_missing_spellings(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    (bank.BANK / WEEK.folder / "heldout" / "times_rank.toml").unlink()
    right = replace(generate(REFERENCE, WEEK.stub)[0], source=REFERENCE, after="the same")
    monkeypatch.setattr(selftest, "generate", lambda source, name: [right])
    report = run()
    assert report.survivors == [right]
    assert report.problems == ["mutant by_alpha has no held-out spelling", "fewer than 97% of the generated mutants lose points"]
    assert any("+ the same" in line for line in report.lines())


def test_one_in_so_many(write: Write) -> None:
    found = [selftest.run(WEEK, seed=1, every=every, jobs=1) for every in (2, 0)]
    assert [(report.generated, report.mutants, report.problems) for report in found] == [(1, 1, []), (0, 1, [])]


def test_an_endless_loop_loses_points(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = replace(generate(REFERENCE, WEEK.stub)[0], source=REFERENCE.replace("y = self.base(x)", "while True: x = x"))
    monkeypatch.setattr(selftest, "generate", lambda source, name: [endless])
    report = run()
    assert (report.generated, report.generated_killed, report.problems) == (1, 1, [])


def test_the_command_says_what_it_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", "--week", "99"]) == 2
    assert cli.main(["selftest", "--jobs", "0"]) == 2
    assert cli.main(["selftest", "--every", "0"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "99" in said[0] and "--jobs" in said[1] and "--every" in said[2]
