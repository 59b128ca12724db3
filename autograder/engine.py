"""Grades a class: a pool of judges, each with a zygote of its own in one sandbox. Linux only.

The pool is `concurrent.futures`; a judge is one of its processes. It takes batches of submissions, whose results come
back here, to the only process that writes.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from autograder import UserError, feedback, intake, results, sandbox
from autograder.build import stub_source
from autograder.inside import confine
from autograder.inside.wire import WireError
from autograder.intake import Submission
from autograder.judge import scoring
from autograder.judge.recorded import PUBLIC_SEED
from autograder.judge.runner import Broken, Opener, Runner, Shaken, TaskRun, checks_digest, reference_stub
from autograder.judge.session import LinkDown
from autograder.manifest import Course, Lang, Task, Week

BATCH = 6
RESTARTS = 3
FEW = 12  # submissions for which it is cheaper to run a mutant when a failure asks for it than all of them before the judges fork
Item = tuple[Submission, str]  # a submission and the key of its result


class GradeError(UserError):
    """The class cannot be graded; the text is one line that says what to do."""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        results: one a student, by name.
        reused: how many were there already from an earlier run.
        lines: what the instructor should know, a line each.
        cpu_seconds: this run's, by part: "engine" (this process), "judges", "zygote", "workers" (its children).
    """

    results: list[results.Result]
    reused: int = 0
    lines: list[str] = field(default_factory=list)
    cpu_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: float = 0.0


def _digest(week: Week) -> str:
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
    lang: Lang = "en",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Grade every student's folder below `submissions` and write results, grades and feedback to `out`.

    Args:
        seed: what checks draw their inputs from; by default that of the run that `out` holds, or a secret one.
        jobs: judges at the same time; by default one a core.
        isolation: "bwrap" (default) or "process".
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
        checks = _digest(week)
        run = {"schema": results.SCHEMA, "week": week.number, "seed": seed, "isolation": isolation}
        run |= {"manifest_sha256": course.sha256, "checks_sha256": checks}
        store = results.Store(out, run)
        summary = Summary([], lines=intake.strays(submissions, week))

        pending: list[tuple[str, Path]] = []
        kept = 0
        for name, folder in folders:
            key = _key(intake.read(name, folder, week), checks, seed)
            if store.results.get(name, {}).get("key") == key and store.results[name]["status"] == "graded":
                kept += 1
            else:
                pending.append((name, folder))
        summary.reused = kept
        progress(kept, len(folders))
        if pending:
            todo = ((s, _key(s, checks, seed)) for s in (intake.read(n, f, week) for n, f in pending))
            results_of = _run(week, seed, isolation, jobs, todo, summary, few=len(pending) <= FEW)
            for done, result in enumerate(results_of, kept + 1):
                store.add(result)
                progress(done, len(folders))
        summary.results = store.finish([name for name, _ in folders])
        feedback.write_pages(out / "feedback", summary.results, week, lang)
    summary.seconds = time.perf_counter() - began
    summary.cpu_seconds["engine"] = time.process_time() - used
    return summary


# --- in the parent ---


def _run(
    week: Week, seed: int, isolation: str, jobs: int, todo: Iterable[Item], summary: Summary, few: bool
) -> Iterator[results.Result]:
    """Yield each submission's result as they come."""
    waiting: list[Item] = []
    alone: list[Item] = []
    source = iter(todo)
    for restart in range(RESTARTS + 1):
        try:
            with _pool(week, seed, isolation, jobs, summary, few) as pool:
                running: dict[Future[tuple[list[Answer], dict[str, float]]], list[Item]] = {}
                try:
                    while True:
                        while len(running) < jobs + 1:
                            batch = _take(waiting, source)
                            if not batch:
                                break
                            running[pool.submit(_judge, batch, False)] = batch
                        if not running and not alone:
                            return
                        if not running:  # the class is through: what shook is run again, with nothing beside it
                            batch = [alone.pop()]
                            running[pool.submit(_judge, batch, True)] = batch
                        for future in wait(running, return_when=FIRST_COMPLETED).done:
                            answers, cpu_seconds = future.result()
                            for part, seconds in cpu_seconds.items():
                                summary.cpu_seconds[part] += seconds
                            batch = running.pop(future)
                            for item, answer in zip(batch, answers, strict=True):
                                if answer.again:
                                    alone.append(item)
                                else:
                                    yield answer.result
                finally:
                    waiting += [item for batch in running.values() for item in batch]
                    running.clear()
        except BrokenProcessPool:
            summary.lines.append("a judge process died; its submissions were graded again by another")
            if restart == RESTARTS:
                raise GradeError("judge processes keep dying (out of memory?); run again with --jobs 1") from None


def _take(waiting: list[Item], source: Iterator[Item]) -> list[Item]:
    batch = waiting[:BATCH]
    del waiting[:BATCH]
    return batch + list(islice(source, BATCH - len(batch)))


@contextlib.contextmanager
def _pool(week: Week, seed: int, isolation: str, jobs: int, summary: Summary, few: bool) -> Iterator[ProcessPoolExecutor]:
    """A sandbox that has passed its canary, and judges that were forked warm from this process."""
    _one_thread(week)
    runner = Runner(week, seed)
    own = f"autograder.inside.{week.folder}"  # the week's own builders and probes, if it has any
    preload = [*week.preload, own] if find_spec(own) else week.preload
    with contextlib.closing(sandbox.Zygotes(isolation, jobs, preload, week.hidden_packages)) as zygotes:
        if zygotes.shared_account:
            line = f"student code ran under the grader's own account: {zygotes.shared_account}"
            summary.lines += [line] if line not in summary.lines else []
        runner.run_in_pytest(lambda: runner.prepare(mutants=not few))  # while the zygotes warm up
        zygotes.wait()
        summary.cpu_seconds["zygote"] += zygotes.cpu_seconds
        _canary(runner, zygotes.sockets[0])
        # What the judges share is never collected, so a collection does not copy its pages.
        gc.collect()
        gc.freeze()
        context = multiprocessing.get_context("fork")
        turn = context.Value("i", 0)
        with ProcessPoolExecutor(jobs, context, _start_judge, (runner, zygotes.sockets, isolation, turn)) as pool:
            try:
                yield pool
            except BaseException:
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                pool.shutdown(cancel_futures=True)  # waits for its threads: the next pool is forked without them
                raise
        gc.unfreeze()


def _one_thread(week: Week) -> None:
    """Judges are forked, and a fork of a process with running threads can wait for ever on their locks.

    Raises:
        GradeError: if there are others already.
    """
    if "torch" in week.preload:
        import torch

        torch.set_num_threads(1)
    # onnxruntime's one thread sleeps until there is work for it, and holds no lock meanwhile.
    if len(os.listdir("/proc/self/task")) > 1 + ("onnxruntime" in sys.modules):
        raise GradeError("this process has running threads; set OMP_NUM_THREADS=1 before torch or numpy is imported")


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


_judge_state: tuple[Runner, socket.socket, str] | None = None


def _start_judge(runner: Runner, sockets: Sequence[socket.socket], isolation: str, turn: Any) -> None:
    global _judge_state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the judges
    confine.die_with_parent()  # and if it is killed, they must not hold its folder
    with turn.get_lock():
        mine = turn.value
        turn.value += 1
    _judge_state = runner, sockets[mine], isolation


def _judge(batch: list[Item], alone: bool) -> tuple[list[Answer], dict[str, float]]:
    """Answers in the order of the batch, and the CPU seconds that they took, by part."""
    assert _judge_state is not None
    runner, control, isolation = _judge_state
    answers: list[Answer] = []

    def body() -> None:
        for submission, key in batch:
            answers.append(_judge_one(runner, control, isolation, submission, key, alone))

    start = time.process_time()
    runner.run_in_pytest(body)
    workers = sum(answer.cpu_seconds for answer in answers)
    return answers, {"judges": time.process_time() - start, "workers": workers}


def _judge_one(runner: Runner, control: socket.socket, isolation: str, submission: Submission, key: str, alone: bool) -> Answer:
    start = time.perf_counter()
    week = runner.week
    runs: list[TaskRun] = []
    failure = ""
    if submission.problem is None:
        try:
            runs = runner.run(_opener(control, week, submission.files), alone=alone)
        except Shaken:
            return Answer({}, again=True)
        except (Broken, OSError, MemoryError, WireError, LinkDown) as error:
            if not alone:
                return Answer({}, again=True)
            failure = _one_line(f"{type(error).__name__}: {error}")
    result: results.Result = {
        "schema": results.SCHEMA,
        "student": submission.student,
        "week": week.number,
        "seed": runner.seed,
        "isolation": isolation,
        "status": "ungraded" if failure else "graded",
        "score": None if failure else 0,
        "max_score": sum(t.points for t in week.core),
        "seconds": round(time.perf_counter() - start, 3),
        "message": failure and f"the grader failed, not the submission ({failure}); run the same command again",
        "notices": list(submission.notices),
        "submission": submission.digest(),
        "tasks": [],
        "key": key,
    }
    if failure:
        return Answer(result)
    if submission.problem:
        result["message"] = submission.problem
        result["tasks"] = [_missing_task(task, submission.problem) for task in week.tasks]
    else:
        result["tasks"] = [task_result(run) for run in runs]
        result["message"] = runs[0].unloadable
    result["score"] = round(sum(t["score"] for t in result["tasks"]), 2)
    return Answer(result, sum(run.cpu_seconds for run in runs))


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
