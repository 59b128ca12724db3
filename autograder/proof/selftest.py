"""The grader is graded: wrong answers must lose points and hear why, right answers must keep them all.

For a week: the reference and the alternatives (right, written differently) score full and are told no misconception; every
mutant of the bank loses points on its task and is told its own misconception, and so is every held-out spelling; and most of
the generated mutants of the reference (autograder/proof/mutate.py) lose points. Everything here is our own code, run in this
process's children over a loopback.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from autograder import bank
from autograder.judge import scoring
from autograder.judge.runner import Runner, loopback, reference_stub
from autograder.manifest import Week
from autograder.proof.mutate import Generated, generate

AIM = 0.97  # share of the generated mutants that must be killed
ACCURACY = 0.90  # share of the held-out spellings that must be told their misconception
_BATCH = 12


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to run.

    Attributes:
        kind: "right", "mutant", "heldout" or "generated".
        tasks: whose checks to run, in order; a generated mutant's run stops at the first task that loses points.
        misconception: what a wrong answer should be told.
        beside: a folder with helper modules.
    """

    kind: str
    name: str
    source: str
    tasks: tuple[str, ...]
    misconception: str = ""
    beside: Path | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a job: the tasks below full marks, what was told, and the first failure of each such task."""

    lost: frozenset[str]
    told: frozenset[str]
    failures: tuple[str, ...] = ()


@dataclass
class Report:
    """A week's rates, and `problems`: one line for each thing to mend."""

    week: Week
    seed: int
    right: int = 0
    mutants: int = 0
    killed: int = 0
    told: int = 0
    heldout: int = 0
    heldout_told: int = 0
    heldout_wrong: int = 0
    generated: int = 0
    generated_killed: int = 0
    equivalent: int = 0
    unnamed: list[str] = field(default_factory=list)
    survivors: list[Generated] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report as it is printed."""
        week = f"week {self.week.number}, seed {self.seed}"
        yield f"{week}: {'in order' if not self.problems else f'{len(self.problems)} to mend'}"
        yield f"  right answers      {self.right} (the reference and alternatives)"
        yield f"  mutants            {self.killed} of {self.mutants} lose points, {self.told} are told their own misconception"
        share = _percent(self.heldout_told, self.heldout)
        yield f"  held-out spellings {self.heldout_told} of {self.heldout} diagnosed ({share}), {self.heldout_wrong} wrongly"
        if self.generated:
            rate = _percent(self.generated_killed, self.generated)
            yield (
                f"  generated mutants  {self.generated_killed} of {self.generated} lose points ({rate}); "
                f"{self.equivalent} more are equivalent (listed by hand)"
            )
        for name in self.unnamed:
            yield f"    no diagnosis: {name}"
        for m in self.survivors:
            yield f"    survives: {self.week.folder}/{self.week.stub}:{m.line} in {m.where}"
            yield f"      - {m.before}"
            yield f"      + {m.after or '(dropped)'}"
        for problem in self.problems:
            yield f"  MEND {problem}"


def run(
    week: Week, seed: int = 0, *, every: int = 1, jobs: int = 2, progress: Callable[[int, int], None] = lambda *_: None
) -> Report:
    """Run everything that a week's bank and reference give rise to.

    Args:
        every: one in so many of the generated mutants is run, and all that are listed as equivalent; 0: none.
        progress: called with the number of answers done and of all.

    Raises:
        bank.BankError: if a file of the bank is malformed.
    """
    report = Report(week, seed)
    path = reference_stub(week)
    reference = path.read_text(encoding="utf-8")
    tasks = tuple(t.id for t in week.tasks)
    todo = [Job("right", "the reference", reference, tasks)]
    for stub in bank.alternatives(week):
        todo.append(Job("right", f"alternative {stub.parent.name}", stub.read_text(encoding="utf-8"), tasks, beside=stub.parent))
    mutants = bank.mutants(week, reference)
    todo += [Job("mutant", m.name, m.source, (m.task,), m.misconception) for m in mutants]
    spellings = bank.heldout(week, reference)
    todo += [Job("heldout", h.name, h.source, (h.mutant.task,), h.mutant.misconception, h.beside) for h in spellings]
    spelt = {h.mutant.name for h in spellings}
    report.problems += [f"mutant {m.name} has no held-out spelling" for m in mutants if m.name not in spelt]
    changes = generate(reference, path.name) if every else []
    equivalents = bank.equivalents(week) if every else []
    changes = [m for i, m in enumerate(changes) if i % every == 0 or any(_is(m, e) for e in equivalents)]
    for m in changes:
        own_first = (m.task, *(t for t in tasks if t != m.task))
        todo.append(Job("generated", f"{m.where}:{m.line}", m.source, own_first))

    seen = _run_all(week, seed, todo, jobs, progress)
    for job, result in zip(todo, seen, strict=True):
        if job.kind != "generated":
            _note(report, job, result)
    _weigh(report, changes, seen[len(todo) - len(changes) :], equivalents)
    if report.heldout_told < ACCURACY * report.heldout:
        report.problems.append(f"fewer than {ACCURACY:.0%} of the held-out spellings are diagnosed")
    if report.generated_killed < AIM * report.generated:
        report.problems.append(f"fewer than {AIM:.0%} of the generated mutants lose points")
    return report


def together(reports: Sequence[Report]) -> tuple[str, bool]:
    """One line on the generated mutants of several weeks, and whether they reach the aim together."""
    generated, killed = sum(r.generated for r in reports), sum(r.generated_killed for r in reports)
    reached = killed >= AIM * generated
    aim = "" if reached else f": MEND, the aim is {AIM:.0%}"
    return f"together: {killed} of {generated} generated mutants lose points ({_percent(killed, generated)}){aim}", reached


def _note(report: Report, job: Job, seen: Seen) -> None:
    own, other = job.misconception in seen.told, seen.told - {job.misconception}
    if job.kind == "right":
        report.right += 1
        report.problems += [f"{job.name} loses points: {failure}" for failure in seen.failures]
        report.problems += [f"{job.name} is told: {text}" for text in sorted(seen.told)]
        return
    if not seen.lost:
        report.problems.append(f"{job.kind} {job.name} keeps full marks on {job.tasks[0]}")
    if job.kind == "mutant":
        report.mutants += 1
        report.killed += bool(seen.lost)
        report.told += own
        if not own:
            report.problems.append(f"mutant {job.name} is not told its own misconception")
    else:
        report.heldout += 1
        report.heldout_told += own and not other
        report.heldout_wrong += bool(other)
        if not own and not other:
            report.unnamed.append(job.name)
    report.problems += [f"{job.kind} {job.name} is told: {text}" for text in sorted(other)]


def _weigh(report: Report, changes: Sequence[Generated], seen: Sequence[Seen], equivalents: list[bank.Equivalent]) -> None:
    used = set()
    for change, result in zip(changes, seen, strict=True):
        match = next((e for e in equivalents if _is(change, e)), None)
        if match is not None:
            used.add(match)
            if result.lost:
                report.problems.append(f"listed as equivalent but loses points: {change.where}: {change.after}")
            report.equivalent += 1
            continue
        report.generated += 1
        report.generated_killed += bool(result.lost)
        if not result.lost:
            report.survivors.append(change)
    if changes:
        report.problems += [
            f"equivalents.toml: no such change of the reference: {e.where}: {e.after}" for e in equivalents if e not in used
        ]


def _is(change: Generated, equivalent: bank.Equivalent) -> bool:
    return (change.where, change.before, change.after) == (equivalent.where, equivalent.before, equivalent.after)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


# --- running ---


def _run_all(week: Week, seed: int, todo: list[Job], jobs: int, progress: Callable[[int, int], None]) -> list[Seen]:
    """What came of each job, in their order. Diagnosis is prepared once, here; children forked from here share it."""
    runner = Runner(week, seed)
    runner.run_in_pytest(runner.prepare)
    batches = [range(i, min(i + _BATCH, len(todo))) for i in range(0, len(todo), _BATCH)]
    found: dict[int, Seen] = {}
    progress(0, len(todo))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), _start, (runner,)) as pool:
        running: dict[Future[list[Seen]], range] = {pool.submit(_run_batch, [todo[i] for i in b]): b for b in batches}
        try:
            for future in as_completed(running):
                found.update(zip(running[future], future.result(), strict=True))
                progress(len(found), len(todo))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [found[i] for i in range(len(todo))]


_runner: Runner | None = None


class _TooLong(Exception):
    """A mutant that does not come to an end."""


def _start(runner: Runner) -> None:
    global _runner
    _runner = runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
    signal.signal(signal.SIGPROF, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise _TooLong("more CPU time than the task may take")


def _run_batch(batch: list[Job]) -> list[Seen]:
    assert _runner is not None
    runner = _runner
    seen: list[Seen] = []
    runner.run_in_pytest(lambda: seen.extend(_run_job(runner, job) for job in batch))
    return seen


def _run_job(runner: Runner, job: Job) -> Seen:
    lost, told, failures = set(), set(), []
    limits = {t.id: t.limits.cpu_seconds for t in runner.week.tasks}
    with _written(job, runner.week) as stub:
        for task in job.tasks:
            signal.setitimer(signal.ITIMER_PROF, limits[task], 0.1)  # again and again: student code may catch the first
            try:
                outcomes = [o for r in runner.run(loopback(stub), only=task) for o in r.outcomes]
            except _TooLong as stopped:
                lost.add(task)
                failures.append(f"{task}: {stopped}")
                outcomes = []
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            told |= {o.misconception for o in outcomes if o.misconception}
            worst = scoring.headline(outcomes)
            if worst is not None:
                lost.add(task)
                failures.append(f"{task}, {worst.name}: {' '.join(worst.message.split())}")
            if lost and job.kind == "generated":
                break
    return Seen(frozenset(lost), frozenset(told), tuple(failures))


@contextlib.contextmanager
def _written(job: Job, week: Week) -> Iterator[Path]:
    """The job's stub file in a folder of its own, helper modules beside it."""
    with tempfile.TemporaryDirectory() as folder:
        if job.beside is not None:
            shutil.copytree(job.beside, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        stub = Path(folder) / week.stub
        stub.write_text(job.source, encoding="utf-8")
        yield stub
