"""Runs a week's checks with pytest, over any number of submissions, and scores them.

pytest belongs to the judge: it collects the checks once and runs each of them once for every submission, whose code
is somewhere else. Nothing that a submission does can reach pytest.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import pickle
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from autograder import UserError
from autograder.inside.worker import Worker
from autograder.judge.check import CheckInfo
from autograder.judge.diagnose import Diagnoser
from autograder.judge.digest import checks_digest as checks_digest
from autograder.judge.recorded import PUBLIC_SEED, Known, RecordedDiagnoser, RecordedOracle, Recorder, Recording, question
from autograder.judge.scoring import Outcome
from autograder.judge.session import CheckFailed, Link, LinkDown, Loopback, Session
from autograder.manifest import Task, Week

ROOT = Path(__file__).parents[2]
CHECKS = ROOT / "autograder" / "checks"
MAX_WORKERS_A_TASK = 4  # the first, and fresh ones after a crash
_ORACLE_CACHE = 4096


class Opener(Protocol):
    """Makes a link to a worker with the submission's module for one task; a context manager."""

    def __call__(self, task: Task) -> contextlib.AbstractContextManager[Link]: ...


@dataclass
class TaskRun:
    """What running a task's checks on one submission gave."""

    task: Task
    outcomes: list[Outcome] = field(default_factory=list)
    traces: dict[str, list[Any]] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    unloadable: str = ""


class Shaken(Exception):
    """A worker died or ran out of time for the first time: the submission must be run again, alone."""


class Broken(UserError):
    """The grader itself failed; the submission stays ungraded."""


def loopback(stub: Path) -> Opener:
    """Opens workers in this process: not isolated. For `autograder check`, references and mutants only."""

    @contextlib.contextmanager
    def open_link(task: Task) -> Iterator[Link]:
        yield Loopback(Worker(stub))

    return open_link


def reference_stub(week: Week) -> Path:
    return ROOT / "solutions" / week.folder / week.stub


def derive(seed: int, name: str) -> int:
    """A seed below 2^63 for one check: a function of the run's seed and the check's name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


class Oracle:
    """Answers of the reference, computed in this process and kept: the same question is answered once."""

    def __init__(self, stub: Path) -> None:
        self._session = Session(Loopback(Worker(stub)))
        self._loaded = False
        self._answers: OrderedDict[tuple[str, int, bytes], Any] = OrderedDict()
        self.recorder: Recorder | None = None
        self._calls: Counter[tuple[int, str]] = Counter()
        self.seed = 0

    def __call__(self, program: Callable[..., Any], *args: Any) -> Any:
        answer = self._answer(program, *args)
        if self.recorder is not None:
            name = (self.seed, program.__qualname__)
            self._calls[name] += 1
            self.recorder.answer(question(self.seed, program, self._calls[name], args), answer)
        return answer

    def _answer(self, program: Callable[..., Any], *args: Any) -> Any:
        if program.__closure__:
            raise TypeError(f"{program.__qualname__} must take all that it uses as arguments")
        key = (program.__qualname__, self.seed, hashlib.sha256(pickle.dumps(args)).digest())
        if key not in self._answers:
            if not self._loaded:
                self._session.load()
                self._loaded = True
            self._session.reset(self.seed)
            self._answers[key] = program(self._session, *args)
            while len(self._answers) > _ORACLE_CACHE:
                self._answers.popitem(last=False)
        return self._answers[key]


class Runner:
    """Collects a week's checks once; `run` then takes one submission after another.

    Args:
        week: of the manifest.
        seed: of the run; students' own checks use 0.
        tasks: ids to run, or all of the week's.
        tier: run only the checks of this tier.
    """

    def __init__(self, week: Week, seed: int, tasks: Sequence[str] | None = None, tier: str | None = None) -> None:
        self.week, self.seed = week, seed
        self._tier = tier
        self._tasks = [t for t in week.tasks if tasks is None or t.id in tasks]
        self._session: Session | None = None
        self.oracle: Oracle | RecordedOracle
        reference = reference_stub(week)
        if reference.is_file():
            self.oracle = Oracle(reference)
            self.diagnoser = Diagnoser(week, reference.read_text(encoding="utf-8"), self._trace)
        elif seed != PUBLIC_SEED:
            raise Broken(f"this copy of the course knows the answers for seed {PUBLIC_SEED} only: leave --seed out")
        else:
            recording = Recording(week, checks_digest(week))
            self.oracle, self.diagnoser = RecordedOracle(recording), RecordedDiagnoser(recording)
        self.items: dict[str, list[pytest.Function]] = {}
        self._all: list[pytest.Function] = []

    # --- what pytest calls ---

    @pytest.fixture
    def student(self) -> Session:
        assert self._session is not None
        return self._session

    @pytest.fixture(name="oracle")
    def oracle_fixture(self) -> Oracle | RecordedOracle:
        return self.oracle

    @pytest.fixture
    def rng(self, request: pytest.FixtureRequest) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(derive(self.seed, request.node.name)))

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        self._all, self.items = items, {}
        for item in items:
            info = _info(item)
            if self._tier in (None, info.tier):
                self.items.setdefault(info.task, []).append(item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool:
        self._body()
        return True

    # --- what graders call ---

    def run_in_pytest(self, body: Callable[[], None], silent: bool = True) -> None:
        """Start pytest on the week's checks and call `body` inside, where `run` works.

        Raises:
            Broken: if a task has no check, or pytest could not collect.
        """
        result: list[BaseException] = []

        def guarded() -> None:
            try:
                unknown = set(self.items) - {t.id for t in self.week.tasks}
                lacking = [t.id for t in self._tasks if t.id not in self.items]
                if unknown or (lacking and self._tier is None):
                    raise Broken(f"checks of unknown tasks: {sorted(unknown)}; tasks without checks: {lacking}")
                body()
            except BaseException as error:
                result.append(error)

        self._body = guarded
        files = sorted(str(path) for path in (CHECKS / self.week.folder).glob("test_*.py"))
        if not files:
            raise Broken(f"week {self.week.number} has no checks")
        arguments = [*files, "-qqq", "-s", "--tb=no", "--no-header", "--no-summary"]
        arguments += ["-c", "/dev/null" if sys.platform != "win32" else "nul", f"--rootdir={ROOT}", "--import-mode=importlib"]
        arguments += ["--assert=plain", "--disable-plugin-autoload"]  # whatever is installed, the checks run alike
        for name in _PLUGINS_OFF:
            arguments += ["-p", f"no:{name}"]
        output = _Silent()
        with contextlib.ExitStack() as stack:
            for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):  # meant for a pytest of the user's own
                if name in os.environ:
                    stack.callback(os.environ.__setitem__, name, os.environ.pop(name))
            if silent:
                stack.enter_context(contextlib.redirect_stdout(output))
                stack.enter_context(contextlib.redirect_stderr(output))
            code = pytest.main(arguments, plugins=[self])
        if result:
            raise result[0]
        if code == pytest.ExitCode.INTERRUPTED:  # Ctrl-C while it collected
            raise KeyboardInterrupt
        if code != pytest.ExitCode.OK:
            raise Broken(f"the checks of week {self.week.number} could not be collected: {output.tail()}")

    def run(self, opener: Opener, *, alone: bool = True, only: str | None = None) -> list[TaskRun]:
        """Run every task's checks on one submission.

        Args:
            opener: makes links to workers that hold it.
            only: run the checks of this task alone.
            alone: nothing else is running, so a death or a timeout counts. Otherwise it raises Shaken.

        Raises:
            Shaken: see `alone`.
            Broken: if the grader itself failed.
        """
        runs: list[TaskRun] = []
        unloadable: tuple[str, str] | None = None
        for task in self._tasks:
            if only is not None and task.id != only:
                continue
            run = TaskRun(task)
            runs.append(run)
            start = time.perf_counter()
            items = list(self.items.get(task.id, ()))
            workers = 0
            while items and unloadable is None and workers < MAX_WORKERS_A_TASK:
                workers += 1
                with opener(task) as link:
                    unloadable = self._run_items(link, run, items, alone)
                run.cpu_seconds += getattr(link, "cpu_seconds", 0.0)  # a sandboxed link knows, once it is closed
            run.outcomes = self._diagnosed(run)
            run.traces.clear()  # they may be large
            run.unloadable = unloadable[1] if unloadable else ""
            for item in items:
                kind, message = unloadable or ("crash", "not run: your code ended the process too often")
                run.outcomes.append(_outcome(item, kind, message))
            run.seconds = time.perf_counter() - start
        return runs

    def _run_items(self, link: Link, run: TaskRun, items: list[pytest.Function], alone: bool) -> tuple[str, str] | None:
        """Run checks from the front of `items` until the worker is dead; returns why the module does not load."""
        session = self._session = Session(link)
        try:
            try:
                session.reset(derive(self.seed, "import"))
                session.load()
            except CheckFailed as error:
                return error.kind if error.kind != "unattempted" else "error", str(error)
            while items:
                item = items[0]
                session.reset(_worker_seed(self.seed, item))
                self.oracle.seed = derive(self.seed, item.name)
                failure = self._call(item)
                run.traces[item.name] = session.trace
                if isinstance(failure, LinkDown):
                    raise failure
                items.pop(0)
                run.outcomes.append(_judge(item, failure))
        except LinkDown as error:
            if error.kind == "ours":
                raise Broken(str(error)) from None
            if not alone:
                raise Shaken(str(error)) from None
            if len(items) == len(self.items[run.task.id]) and not run.traces:
                return error.kind, f"importing your file: {error}"
            run.outcomes.append(_outcome(items.pop(0), error.kind, str(error)))
            if error.kind == "timeout":
                run.outcomes += [_outcome(item, "timeout", "not run: the task's time was used up") for item in items]
                items.clear()
        return None

    def _diagnosed(self, run: TaskRun) -> list[Outcome]:
        """The outcomes with the misconceptions that the failing ones' traces tell of."""
        seen = ("passed", "wrong", "error")
        traces = {o.name: (o.kind == "passed", run.traces[f"test_{o.name}"]) for o in run.outcomes if o.kind in seen}
        named = self.diagnoser.name(run.task.id, traces)

        def told(outcome: Outcome) -> Outcome:
            english, chinese = self.diagnoser.misconception(named[outcome.name])
            return replace(outcome, misconception=english, misconception_zh=chinese)

        return [told(o) if o.name in named else o for o in run.outcomes]

    def _trace(self, name: str, session: Session) -> tuple[bool, list[Any]]:
        """Run one check on a session of our own; returns whether it passed, and what it observed."""
        item = next(i for i in self._all if i.name == f"test_{name}")
        self._session = session
        session.reset(_worker_seed(self.seed, item))
        self.oracle.seed = derive(self.seed, item.name)
        return self._call(item) is None, session.trace

    def prepare(self, mutants: bool = True) -> None:
        """Within `run_in_pytest`: ask the oracle once for all, and run the mutants, which otherwise run when a failure asks."""
        self.run(loopback(reference_stub(self.week)))
        if mutants:
            self._run_mutants()

    def _run_mutants(self) -> None:
        self.diagnoser.prepare({t: [i.name.removeprefix("test_") for i in items] for t, items in self.items.items()})

    def record(self, stub: str) -> bytes:
        """Within `run_in_pytest`, with the public seed: what a student release needs of this week, see judge/recorded.py.

        Args:
            stub: the week's stub as released.
        """
        recorder, oracle = Recorder(), self.oracle
        assert isinstance(oracle, Oracle) and self.seed == PUBLIC_SEED
        oracle.recorder = recorder
        self.run(loopback(reference_stub(self.week)))
        oracle.recorder = None
        self._run_mutants()
        for (mutant, check), seen in self.diagnoser.traces().items():
            recorder.trace(mutant, check, *seen)
        mutants = [Known(m.name, m.task, m.misconception, m.misconception_zh) for m in self.diagnoser.mutants]
        return recorder.pack(checks_digest(self.week), mutants, stub)

    def _call(self, item: pytest.Function) -> BaseException | None:
        """Run one check; returns the first exception of its fixtures, its body or their end.

        As pytest's own protocol does, without its reports: they are made anew for every phase and show tracebacks of which
        nothing is used.
        """
        state = item.session._setupstate
        item._initrequest()
        state.teardown_exact(item)  # the last item may be of another file of checks
        failure: BaseException | None = None
        try:
            try:
                state.setup(item)
                item.runtest()
            except (KeyboardInterrupt, pytest.exit.Exception):
                raise
            except BaseException as error:  # a check's outcome, whatever it is; _judge tells them apart
                failure = error
            # Any other item will do as the next one: pytest then keeps what the two share, the module, set up.
            try:
                state.teardown_exact(next((i for i in self._all if i is not item), None))
            except Exception as error:
                failure = failure or error
        finally:
            item._request = False  # type: ignore[assignment]
            item.funcargs = None  # type: ignore[assignment]
        return failure


def _judge(item: pytest.Function, failure: BaseException | None) -> Outcome:
    match failure:
        case None:
            return _outcome(item, "passed", "")
        case CheckFailed():
            return _outcome(item, failure.kind, str(failure))
        case Broken() | OSError() | MemoryError() | KeyboardInterrupt() | SystemExit():
            raise failure
    # The same check passes on the reference (the canary saw to it), so a value of the submission's caused this.
    return _outcome(
        item, "error", f"your code returned something that the check cannot use ({type(failure).__name__}: {failure})"
    )


def _outcome(item: pytest.Function, kind: str, message: str) -> Outcome:
    doc = inspect.cleandoc(item.function.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return Outcome(item.name.removeprefix("test_"), doc, _info(item), kind, message)


def _worker_seed(seed: int, item: pytest.Function) -> int:
    """Not the one that the check draws from: student code sees this one."""
    return derive(seed, f"worker:{item.name}")


def _info(item: pytest.Function) -> CheckInfo:
    info = getattr(item.function, "check_info", None)
    if not isinstance(info, CheckInfo):
        raise Broken(f"{item.name} is not marked with @check")
    return info


class _Silent:
    """Takes what pytest prints; keeps the end for an error message."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> int:
        self._text = (self._text + text)[-2000:]
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False

    def tail(self) -> str:
        lines = [line for line in self._text.splitlines() if line.strip()]
        return " / ".join(lines[-3:])


_PLUGINS_OFF = (
    "cacheprovider", "logging", "warnings", "unraisableexception", "threadexception", "faulthandler", "doctest",
    "junitxml", "stepwise", "pastebin", "nose", "setuponly", "setupplan", "debugging", "skipping", "recwarn", "monkeypatch",
    "tmpdir", "unittest", "reports",
)  # fmt: skip
