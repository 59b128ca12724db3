"""The grader is graded: each known wrong answer loses points on its task, each other right answer keeps them all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autograder import bank
from autograder.judge import scoring
from autograder.judge.runner import Runner, TaskRun, loopback, reference_stub
from autograder.manifest import Week, load

WEEK = load().week(4)
REFERENCE = reference_stub(WEEK).read_text(encoding="utf-8")
MUTANTS = bank.mutants(WEEK, REFERENCE)
SEEDS = range(12)


def run(week: Week, stub: Path, seed: int, tasks: list[str] | None = None) -> dict[str, TaskRun]:
    runner = Runner(week, seed, tasks)
    found: list[TaskRun] = []
    runner.run_in_pytest(lambda: found.extend(runner.run(loopback(stub))))
    return {r.task.id: r for r in found}


@pytest.fixture(scope="module")
def mutant_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, TaskRun]]]:
    """Every mutant on every task, in one pytest session."""
    runner = Runner(WEEK, 7)
    runs: dict[str, dict[str, TaskRun]] = {}

    def body() -> None:
        for mutant in MUTANTS:
            stub = tmp_path_factory.mktemp(mutant.name) / WEEK.stub
            stub.write_text(mutant.source, encoding="utf-8")
            runs[mutant.name] = {r.task.id: r for r in runner.run(loopback(stub))}

    runner.run_in_pytest(body)
    yield runs


def test_the_bank_covers_every_task() -> None:
    assert len(MUTANTS) >= 30
    for task in WEEK.tasks:
        assert sum(m.task == task.id for m in MUTANTS) >= 5, task.id
    assert {m.task for m in MUTANTS} <= {t.id for t in WEEK.tasks}
    assert len(bank.alternatives(WEEK)) >= 3


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_killed(mutant: bank.Mutant, mutant_runs: dict[str, dict[str, TaskRun]]) -> None:
    assert scoring.share(mutant_runs[mutant.name][mutant.task].outcomes) < 1


def test_most_mutants_are_named(mutant_runs: dict[str, dict[str, TaskRun]]) -> None:
    """A failing trace is the mutant's own, so only ambiguity keeps a diagnosis back; a wrong name is never told."""
    told = {m.name: {o.misconception for o in mutant_runs[m.name][m.task].outcomes if o.misconception} for m in MUTANTS}
    named = [m for m in MUTANTS if m.misconception in told[m.name]]
    print(f"{len(named)} of {len(MUTANTS)} mutants are told their own misconception")
    assert len(named) >= 0.75 * len(MUTANTS)


@pytest.mark.parametrize("stub", [reference_stub(WEEK), *bank.alternatives(WEEK)], ids=lambda p: p.parent.name)
def test_a_right_answer_is_full_on_many_seeds(stub: Path) -> None:
    for seed in SEEDS:
        runs = run(WEEK, stub, seed)
        assert set(runs) == {t.id for t in WEEK.tasks}
        for r in runs.values():
            failures = [(o.name, o.message) for o in r.outcomes if o.kind != "passed"]
            assert not failures, (seed, failures)


@pytest.mark.parametrize("task", WEEK.tasks, ids=lambda t: t.id)
def test_each_task_is_doable_alone(task, tmp_path: Path) -> None:
    """A submission that has one task, and stubs for the others, gets that task's points in full and no others'."""
    from autograder.build import stub_source

    stub = tmp_path / WEEK.stub
    text = stub_source(REFERENCE, WEEK, keep={task.id})
    if task.id != "4.1":  # the helpers that the reference keeps among task 4.1's regions
        helpers = REFERENCE[REFERENCE.rindex("### BEGIN SOLUTION 4.1") : REFERENCE.rindex("### END SOLUTION")]
        text += helpers
    stub.write_text(text, encoding="utf-8")
    for task_id, r in run(WEEK, stub, 3).items():
        failures = [(o.name, o.message) for o in r.outcomes if o.kind != "passed"]
        assert scoring.share(r.outcomes) == (1.0 if task_id == task.id else 0.0), failures
        assert task_id == task.id or scoring.status(r.outcomes) == "unattempted"


def test_a_patch_that_does_not_apply_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / WEEK.folder / "mutants"
    folder.mkdir(parents=True)
    (folder / "x.toml").write_text(
        'task = "4.1"\nmisconception = "a"\nmisconception_zh = "b"\n[[edit]]\nfind = "no such"\nreplace = ""\n'
    )
    monkeypatch.setattr(bank, "BANK", tmp_path)
    with pytest.raises(bank.BankError, match=r"week04/mutants/x.toml: must occur exactly once"):
        bank.mutants(WEEK, REFERENCE)
