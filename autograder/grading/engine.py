"""Grades a class: a pool of judges, each with a zygote of its own in one sandbox. Linux only.

The pool is a `concurrent.futures` one: processes of this machine, or Dask workers (cluster.py). It takes batches
of submissions, whose results come back here, to the only process that writes.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from autograder import UserError, intake, results
from autograder.authoring.build import stub_source
from autograder.grading import sandbox
from autograder.inside import confine
from autograder.inside.wire import WireError
from autograder.intake import Submission
from autograder.judge import scoring
from autograder.judge.recorded import PUBLIC_SEED
from autograder.judge.runner import Broken, Opener, Runner, Shaken, TaskRun, checks_digest, reference_stub
from autograder.judge.session import LinkDown
from autograder.manifest import Course, Lang, Task, Week
from autograder.reports import feedback

BATCH = 6
RESTARTS = 3  # in a row, with no result between them
LOSSES = 2  # judges that may die over one submission that runs alone, before it is left ungraded
THREADS_END = 10  # seconds for the threads of a pool that broke
PATIENCE = 30  # seconds without a result, after which the pool is asked whether it still lives
FEW = 12  # submissions for which it is cheaper to run a mutant when a failure asks for it than all of them before the judges fork
Item = tuple[Submission, str]  # a submission and the key of its result


JUDGE_DIED = "a judge process died; its submissions were graded again by another"


class GradeError(UserError):
    """The class cannot be graded; the text is one line that says what to do."""


class JudgeDied(Exception):
    """A judge died, and its batch with it; the text is a line for the instructor."""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        results: one a student, by name.
        reused: how many were there already from an earlier run.
        lines: what the instructor should know, a line each.
        cpu_seconds: this run's, by part: "engine" (this process), "judges", "zygote", "workers" (its children).
    """

    results: Sequence[results.Result]
    reused: int = 0
    lines: list[str] = field(default_factory=list)
    cpu_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: float = 0.0

    def add(self, judged: Judged) -> None:
        """Count what a batch took."""
        for part, seconds in judged.cpu_seconds.items():
            self.cpu_seconds[part] += seconds
        self.lines += [line for line in judged.lines if line not in self.lines]

    def note(self, zygotes: sandbox.Zygotes) -> None:
        """Count a sandbox, and say where it falls short."""
        self.add(Judged([], {"zygote": zygotes.cpu_seconds}, shortfalls(zygotes)))


def shortfalls(zygotes: sandbox.Zygotes) -> tuple[str, ...]:
    """Lines about what a sandbox lacks."""
    if not zygotes.shared_account:
        return ()
    return (f"student code ran under the grader's own account: {zygotes.shared_account}",)


def digest(week: Week) -> str:
    """sha256 over everything that decides a score besides the submission and the seed."""
    return hashlib.sha256(checks_digest(week).encode() + reference_stub(week).read_bytes()).hexdigest()


def grade(
    submissions: Path,
    week: Week,
    out: Path,
    course: Course,
    *,
    seed: int | None = None,
    jobs: int | None = None,
    isolation: str | None = None,
    scheduler: str | None = None,
    lang: Lang = "en",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Grade every student's folder below `submissions` and write results, grades and feedback to `out`.

    Results stay on the disk: what a class takes in memory is some hundred bytes a student.

    Args:
        seed: what checks draw their inputs from; by default that of the run that `out` holds, or a secret one.
        jobs: judges at the same time; by default one a core.
        isolation: "bwrap" (default) or "process".
        scheduler: address of a Dask scheduler whose workers judge; by default this machine does.
        lang: of the feedback pages.
        progress: called with how many of how many students are done.

    Raises:
        GradeError, IntakeError, RunError, SandboxError: with one line for the instructor.
    """
    began = time.perf_counter()
    used = time.process_time()
    folders = intake.students(submissions, week)
    isolation = isolation or "bwrap"
    jobs = max(1, min(jobs or os.cpu_count() or 1, -(-len(folders) // 2)))
    if not week.tasks:
        raise GradeError(f"week {week.number} has no tasks yet")
    if seed == PUBLIC_SEED:
        raise GradeError(f"seed {PUBLIC_SEED} is the public one, whose answers students have on file: leave --seed out")
    with results.locked(out):
        known = results.read_run(out) or {}
        seed = seed if seed is not None else known.get("seed", secrets.randbits(53))
        checks = digest(week)
        run = {"schema": results.SCHEMA, "week": week.number, "seed": seed, "isolation": isolation}
        run |= {"manifest_sha256": course.sha256, "checks_sha256": checks}
        store = results.Store(out, run)
        summary = Summary([], lines=intake.strays(submissions, week))

        # Only what has a result already is read now, to see whether it still holds; the rest when its turn comes.
        held = {n for n, f in folders if n in store and store.holds(n, _key(intake.read(n, f, week), checks, seed))}
        pending = [(name, folder) for name, folder in folders if name not in held]
        summary.reused = len(held)
        progress(len(held), len(folders))
        if pending:
            todo = ((s, _key(s, checks, seed)) for s in (intake.read(n, f, week) for n, f in pending))
            few = len(pending) <= FEW
            if scheduler is None:
                crew = functools.partial(_pool, week, seed, isolation, jobs, summary, few)
            else:
                from autograder.grading import cluster

                crew = functools.partial(cluster.pool, scheduler, cluster.Spec(week.number, seed, isolation, few), week)
            with contextlib.closing(_run(week, seed, isolation, crew, todo, summary)) as results_of:
                for done, result in enumerate(results_of, len(held) + 1):
                    store.add(result)
                    progress(done, len(folders))
        summary.results = store.finish([name for name, _ in folders])
        with results.writing(out):
            feedback.write_pages(out / "feedback", summary.results, week, lang)
    summary.seconds = time.perf_counter() - began
    summary.cpu_seconds["engine"] = time.process_time() - used
    return summary


# --- in the parent ---


@dataclass
class Crew:
    """A pool as `_run` uses it.

    Attributes:
        submit: starts judging a batch; the flag says that nothing else runs meanwhile.
        width: how many batches should be on their way at a time.
        check: called when nothing has come for long.

    Raises:
        JudgeDied: from a future, if the batch was lost with its judge.
        BrokenProcessPool: from a future, if the whole pool was.
        GradeError: from a future or from `check`, if it makes no sense to go on.
    """

    submit: Callable[[list[Item], bool], Future[Judged]]
    width: Callable[[], int]
    check: Callable[[], None] = lambda: None


def _run(
    week: Week,
    seed: int,
    isolation: str,
    crew: Callable[[], contextlib.AbstractContextManager[Crew]],
    todo: Iterable[Item],
    summary: Summary,
) -> Generator[results.Result, None, None]:
    """Yield each submission's result as they come.

    A submission whose judge died is run again alone, so that one which takes judges down with it cannot hold up the others.
    """
    alone: list[Item] = []
    losses: Counter[str] = Counter()  # by key
    source = iter(todo)
    setbacks = 0

    def lost(batch: list[Item], was_alone: bool) -> Iterator[results.Result]:
        for submission, key in batch:
            losses[key] += was_alone
            if losses[key] < LOSSES:
                alone.append((submission, key))
            else:
                yield _ungraded(week, seed, isolation, submission, key, "the judge died")

    def start(pool: Crew, batch: list[Item], is_alone: bool) -> None:
        try:
            running[pool.submit(batch, is_alone)] = batch, is_alone
        except BaseException:  # the pool broke before it had them
            alone.extend(batch)
            raise

    while True:
        running: dict[Future[Judged], tuple[list[Item], bool]] = {}
        try:
            with crew() as pool:
                while True:
                    while len(running) < pool.width() and (batch := list(islice(source, BATCH))):
                        start(pool, batch, False)
                    if not running and alone:  # the class is through: what shook is run again, with nothing beside it
                        start(pool, [alone.pop()], True)
                    if not running:
                        return
                    finished = wait(running, PATIENCE, FIRST_COMPLETED).done
                    if not finished:
                        pool.check()
                    for future in finished:
                        try:
                            judged = future.result()
                        except JudgeDied as error:
                            summary.lines.append(str(error))
                            yield from lost(*running.pop(future))
                            continue
                        batch, _ = running.pop(future)
                        summary.add(judged)
                        for item, answer in zip(batch, judged.answers, strict=True):
                            if answer.again:
                                alone.append(item)
                            else:
                                setbacks = 0
                                yield answer.result
        except BrokenProcessPool:
            setbacks += 1
            summary.lines.append(JUDGE_DIED)
            for batch, was_alone in list(running.values()):
                yield from lost(batch, was_alone)
            if setbacks > RESTARTS:
                raise GradeError("judge processes keep dying (out of memory?); run again with --jobs 1") from None


@contextlib.contextmanager
def _pool(week: Week, seed: int, isolation: str, jobs: int, summary: Summary, few: bool) -> Iterator[Crew]:
    """A sandbox that has passed its canary, and judges that were forked warm from this process."""
    _one_thread(week)
    with prepared(week, seed, isolation, jobs, few) as (runner, zygotes):
        summary.note(zygotes)
        # What the judges share is never collected, so a collection does not copy its pages.
        gc.collect()
        gc.freeze()
        context = multiprocessing.get_context("fork")
        turn = context.Value("i", 0)
        with ProcessPoolExecutor(jobs, context, _start_judge, (runner, zygotes.sockets, isolation, turn)) as pool:
            try:
                yield Crew(lambda batch, alone: pool.submit(judge, batch, alone), lambda: jobs + 1)
            except BaseException:
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                pool.shutdown(cancel_futures=True)  # waits for its threads: the next pool is forked without them
                raise
            finally:
                gc.unfreeze()


@contextlib.contextmanager
def prepared(week: Week, seed: int, isolation: str, count: int, few: bool) -> Iterator[tuple[Runner, sandbox.Zygotes]]:
    """A runner, and a sandbox with `count` zygotes that has passed its canary.

    Args:
        few: run a mutant when a failure asks for it, not all of them now.

    Raises:
        GradeError, SandboxError: if this machine cannot grade.
    """
    runner = Runner(week, seed)
    own = f"autograder.inside.{week.folder}"  # the week's own builders and probes, if it has any
    preload = [*week.preload, own] if find_spec(own) else week.preload
    with contextlib.closing(sandbox.Zygotes(isolation, count, preload, week.hidden_packages)) as zygotes:
        runner.run_in_pytest(lambda: runner.prepare(mutants=not few))  # while the zygotes warm up
        zygotes.wait()
        _canary(runner, zygotes.sockets[0])
        yield runner, zygotes


def _one_thread(week: Week) -> None:
    """Judges are forked, and a fork of a process with running threads can wait for ever on their locks.

    Raises:
        GradeError: if there are others already.
    """
    if "torch" in week.preload:
        import torch

        torch.set_num_threads(1)
    # onnxruntime's one thread sleeps until there is work for it, and holds no lock meanwhile.
    allowed = 1 + ("onnxruntime" in sys.modules)
    deadline = time.monotonic() + THREADS_END
    while len(os.listdir("/proc/self/task")) > allowed:  # those of a pool that broke take a moment to go, joined as they are
        if time.monotonic() > deadline:
            raise GradeError("this process has running threads; set OMP_NUM_THREADS=1 before torch or numpy is imported")
        time.sleep(0.01)


def _canary(runner: Runner, control: socket.socket) -> None:
    """Before any student: the reference must score full in this very sandbox, and the stub nothing.

    Raises:
        GradeError: naming what does not work on this machine.
    """
    week = runner.week
    reference = reference_stub(week).read_bytes()
    stub = stub_source(reference_stub(week).read_text(encoding="utf-8"), week).encode()

    def body() -> None:
        for source, wanted in ((reference, 1.0), (stub, 0.0)):
            for run in runner.run(_opener(control, week, {week.stub: source})):
                worst = scoring.headline(run.outcomes)
                if scoring.share(run.outcomes) != wanted:
                    why = f"{worst.name}: {worst.message}" if worst else "it passed"
                    what = "reference" if wanted else "empty stub"
                    raise GradeError(
                        f"the grader does not work on this machine: the {what}, task {run.task.id}, {_one_line(why)}"
                    )

    try:
        runner.run_in_pytest(body)
    except Broken as error:
        raise GradeError(f"the grader does not work on this machine: {_one_line(str(error))}") from None


def _opener(control: socket.socket, week: Week, files: dict[str, bytes]) -> Opener:
    def open_link(task: Task) -> contextlib.AbstractContextManager[sandbox.SandboxLink]:
        return sandbox.spawned(control, task.limits, week.stub, files)

    return open_link


def _key(submission: Submission, checks: str, seed: int) -> str:
    return hashlib.sha256(f"{submission.digest()}:{checks}:{seed}".encode()).hexdigest()


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- in a judge ---


@dataclass(frozen=True, slots=True)
class Answer:
    """A judge's answer about one submission; `again`: it has to be run alone before anything counts."""

    result: results.Result
    cpu_seconds: float = 0.0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge says of a batch: answers in its order, CPU seconds by part, and lines for the instructor."""

    answers: list[Answer]
    cpu_seconds: dict[str, float]
    lines: tuple[str, ...] = ()


_judge_state: tuple[Runner, socket.socket, str] | None = None


def _start_judge(runner: Runner, sockets: Sequence[socket.socket], isolation: str, turn: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the judges
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    confine.die_with_parent()  # and if it is killed, they must not hold its folder
    with turn.get_lock():
        mine = turn.value
        turn.value += 1
    be_judge(runner, sockets[mine], isolation)


def be_judge(runner: Runner, control: socket.socket, isolation: str) -> None:
    """From now on `judge` works in this process."""
    global _judge_state
    _judge_state = runner, control, isolation


def judge(batch: list[Item], alone: bool) -> Judged:
    """Judge a batch in this process."""
    assert _judge_state is not None
    runner, control, isolation = _judge_state
    answers: list[Answer] = []

    def body() -> None:
        for submission, key in batch:
            answers.append(_judge_one(runner, control, isolation, submission, key, alone))
            if answers[-1].again and sandbox.gone(control):
                os._exit(1)  # nothing more can be judged here: the pool starts anew, with another sandbox

    start = time.process_time()
    runner.run_in_pytest(body)
    workers = sum(answer.cpu_seconds for answer in answers)
    return Judged(answers, {"judges": time.process_time() - start, "workers": workers})


def _judge_one(runner: Runner, control: socket.socket, isolation: str, submission: Submission, key: str, alone: bool) -> Answer:
    start = time.perf_counter()
    week = runner.week
    runs: list[TaskRun] = []
    if submission.problem is None:
        try:
            runs = runner.run(_opener(control, week, submission.files), alone=alone)
        except Shaken:
            return Answer({}, again=True)
        except (Broken, OSError, MemoryError, WireError, LinkDown) as error:
            if not alone or sandbox.gone(control):
                return Answer({}, again=True)
            return Answer(
                _ungraded(week, runner.seed, isolation, submission, key, _one_line(f"{type(error).__name__}: {error}"), start)
            )
    result = _blank(week, runner.seed, isolation, submission, key, start)
    if submission.problem:
        result["message"] = submission.problem
        result["tasks"] = [_missing_task(task, submission.problem) for task in week.tasks]
    else:
        result["tasks"] = [task_result(run) for run in runs]
        result["message"] = runs[0].unloadable
    result["score"] = round(sum(t["score"] for t in result["tasks"]), 2)
    return Answer(result, sum(run.cpu_seconds for run in runs))


def _blank(week: Week, seed: int, isolation: str, submission: Submission, key: str, start: float) -> results.Result:
    return {
        "schema": results.SCHEMA,
        "student": submission.student,
        "week": week.number,
        "seed": seed,
        "isolation": isolation,
        "status": "graded",
        "score": 0,
        "max_score": sum(t.points for t in week.core),
        "seconds": round(time.perf_counter() - start, 3),
        "message": "",
        "notices": list(submission.notices),
        "submission": submission.digest(),
        "tasks": [],
        "key": key,
    }


def _ungraded(
    week: Week, seed: int, isolation: str, submission: Submission, key: str, failure: str, start: float | None = None
) -> results.Result:
    message = f"the grader failed, not the submission ({failure}); run the same command again"
    blank = _blank(week, seed, isolation, submission, key, time.perf_counter() if start is None else start)
    return blank | {"status": "ungraded", "score": None, "message": message}


def task_result(run: TaskRun) -> dict[str, Any]:
    """A task's part of a result."""
    worst = scoring.headline(run.outcomes)
    return {
        "id": run.task.id,
        "status": scoring.status(run.outcomes),
        "score": round(run.task.points * scoring.share(run.outcomes), 2),
        "max_score": run.task.points,
        "message": worst.message if worst else "",
        "misconception": next((o.misconception for o in run.outcomes if o.misconception), None),
        "seconds": round(run.seconds, 3),
        "checks": [
            {
                "name": o.name,
                "property": o.summary,
                "weight": o.info.weight,
                "gate": o.info.gate,
                "status": o.kind,
                "message": o.message,
                "misconception": o.misconception,
            }
            for o in run.outcomes
        ],
    }


def _missing_task(task: Task, problem: str) -> dict[str, Any]:
    blank = {"id": task.id, "status": "error", "score": 0, "max_score": task.points, "message": problem}
    return blank | {"misconception": None, "seconds": 0.0, "checks": []}
