"""The banks' own order, right answers on many seeds, and tasks that can be done alone; `autograder selftest` does the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from autograder import bank
from autograder.authoring.build import regions, stub_source
from autograder.judge import scoring
from autograder.judge.runner import Runner, TaskRun, loopback, reference_stub
from autograder.manifest import Task, Week, load
from tests.conftest import NIGHTLY

WEEKS = [week for week in load().weeks if week.tasks]
SEEDS = range(100, 110 if NIGHTLY else 101)
SAMPLE = WEEKS[-1]  # any week does


def reference(week: Week) -> str:
    return reference_stub(week).read_text(encoding="utf-8")


def run(week: Week, stub: Path, seed: int) -> list[TaskRun]:
    runner = Runner(week, seed)
    found: list[TaskRun] = []
    runner.run_in_pytest(lambda: found.extend(runner.run(loopback(stub))))
    return found


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.folder)
def test_the_bank_covers_every_task(week: Week) -> None:
    mutants = bank.mutants(week, reference(week))
    for task in week.tasks:
        assert sum(m.task == task.id for m in mutants) >= 5, task.id
    assert {m.task for m in mutants} <= {t.id for t in week.tasks}
    assert {h.mutant.name for h in bank.heldout(week, reference(week))} == {m.name for m in mutants}
    assert len(bank.alternatives(week)) >= 3
    assert all(len(e.reason) > 10 for e in bank.equivalents(week))


@pytest.mark.parametrize("week", WEEKS, ids=lambda w: w.folder)
def test_a_misconception_is_told_in_both_languages(week: Week) -> None:
    for m in bank.mutants(week, reference(week)):
        assert m.misconception.strip().endswith((".", "?")), m.name
        assert any("\u4e00" <= c <= "\u9fff" for c in m.misconception_zh), m.name


# In CI the references; `autograder selftest` runs the alternatives on another seed, and make nightly all on ten.
STUBS = [(w, stub) for w in WEEKS for stub in (reference_stub(w), *(bank.alternatives(w) if NIGHTLY else ()))]


@pytest.mark.parametrize(("week", "stub"), STUBS, ids=[f"{w.folder}-{stub.parent.name}" for w, stub in STUBS])
def test_a_right_answer_is_full_on_many_seeds(week: Week, stub: Path) -> None:
    for seed in SEEDS:
        runs = run(week, stub, seed)
        assert [r.task.id for r in runs] == [t.id for t in week.tasks]
        failures = [(o.name, o.message) for r in runs for o in r.outcomes if o.kind != "passed"]
        assert not failures, (seed, failures)


TASKS = [(w, t) for w in WEEKS for t in w.tasks if NIGHTLY or w.number % 2 == 0]


@pytest.mark.parametrize(("week", "task"), TASKS, ids=[t.id for _, t in TASKS])
def test_each_task_is_doable_alone(week: Week, task: Task, tmp_path: Path) -> None:
    """A submission that has one task, and stubs for the others, gets that task's points in full and no others'."""
    lines = reference(week).splitlines()
    for region in reversed(regions(reference(week), week.stub)):
        if not region.indent:  # a helper, which a student would have written too
            del lines[region.last], lines[region.first]
    stub = tmp_path / week.stub
    stub.write_text(stub_source("\n".join(lines), week, keep={task.id}), encoding="utf-8")
    for r in run(week, stub, 3):
        failures = [(o.name, o.message) for o in r.outcomes if o.kind != "passed"]
        assert scoring.share(r.outcomes) == (1.0 if r.task.id == task.id else 0.0), failures
        assert r.task.id == task.id or scoring.status(r.outcomes) == "unattempted"


def test_a_patch_that_does_not_apply_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / SAMPLE.folder / "mutants"
    folder.mkdir(parents=True)
    (folder / "x.toml").write_text(
        'task = "4.1"\nmisconception = "a"\nmisconception_zh = "b"\n[[edit]]\nfind = "no such"\nreplace = ""\n'
    )
    monkeypatch.setattr(bank, "BANK", tmp_path)
    with pytest.raises(bank.BankError, match=rf"{SAMPLE.folder}/mutants/x.toml: must occur exactly once"):
        bank.mutants(SAMPLE, reference(SAMPLE))
