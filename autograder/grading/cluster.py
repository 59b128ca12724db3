"""Grading by the workers of a Dask scheduler, for classes that one machine is too small for (docs/scale.md).

`pool` is the submitting side. What runs in a Dask worker is `inspect` and `judge`: a worker has threads and must not be forked,
so it judges nothing itself; it starts judges as processes of their own (remote.py), each with its own sandbox, and
keeps them warm between batches. Dask is imported by the submitting side alone, and only here.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any

from autograder import ROOT
from autograder.grading import sandbox
from autograder.grading.engine import JUDGE_DIED, Crew, GradeError, Item, Judged, JudgeDied, digest
from autograder.manifest import Week, load

if TYPE_CHECKING:
    from distributed import Client

_ADDRESS = re.compile(r"(tcp|tls|ws|wss)://(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):\d{1,5}/?")
_CONNECT_SECONDS = 10
_WORKER_SECONDS = 60  # for the first worker to come, and without any before a run is given up
_INSTALL = "pip install -c constraints.txt -e '.[dask]'"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a judge is started for. Judges of another one are of no use and are ended.

    Attributes:
        few: run a mutant when a failure asks for it, not all of them at the start.
        versions: see `versions`; a worker whose own differ refuses.
    """

    week: int
    seed: int
    isolation: str
    few: bool
    versions: tuple[tuple[str, str], ...] = ()


# --- the submitting side ---


@contextlib.contextmanager
def pool(address: str, spec: Spec, week: Week) -> Iterator[Crew]:
    """The workers of the scheduler at `address`, each of which has this very course and a sandbox.

    Raises:
        GradeError: with one line that says what to do.
    """
    spec = Spec(spec.week, spec.seed, spec.isolation, spec.few, versions(week))
    with _connected(address) as client:
        from distributed import KilledWorker

        _wait_for_workers(client, address)
        _inspect(client, spec)
        executor = client.get_executor(pure=False)
        last_seen = [time.monotonic()]

        def submit(batch: list[Item], alone: bool) -> Future[Judged]:
            last_seen[0] = time.monotonic()
            outer: Future[Judged] = Future()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a batch is large; it is sent once
                inner = executor.submit(judge, spec, batch, alone)
            inner.add_done_callback(functools.partial(_hand_over, outer, address, KilledWorker))
            return outer

        def check() -> None:
            if client.status != "running":
                raise _lost(address)
            if threads(client):
                last_seen[0] = time.monotonic()
            elif time.monotonic() - last_seen[0] > _WORKER_SECONDS:
                raise GradeError(f"the scheduler {address} has no workers left: start some, then run the same command again")

        try:
            # A few more than can run at a time, so that a cluster that grows with its queue does.
            yield Crew(submit, lambda: 2 * threads(client) + 2, check)
        finally:
            executor.shutdown(wait=False)
            with contextlib.suppress(Exception):
                client.run(release, on_error="ignore")


def threads(client: Client) -> int:
    """How many batches the workers can take at a time."""
    return sum(client.nthreads().values())


def versions(week: Week) -> tuple[tuple[str, str], ...]:
    """(what, version) of all that a result of this week depends on, besides the submission and the seed."""
    sha = hashlib.sha256(digest(week).encode())
    ours, mutants = ROOT / "autograder", ROOT / "autograder" / "bank" / week.folder / "mutants"
    for path in sorted([*ours.glob("*.py"), *ours.glob("grading/*.py"), *mutants.glob("*")]):
        sha.update(path.name.encode() + b"\0" + path.read_bytes())
    found = [("copy of the course", sha.hexdigest()[:16]), ("Python", platform.python_version())]
    return (*found, *((name, importlib.metadata.version(name)) for name in ("numpy", "pytest", "torch")))


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Client]:
    if not _ADDRESS.fullmatch(address):
        raise GradeError(f"{address} is no address of a scheduler: it looks like tcp://host:8786 (or tls://host:8786)")
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise GradeError(f"{error.name} is not installed, and --engine dask needs it: {_INSTALL}") from None
    for name in ("distributed", "tornado", "asyncio"):  # what went wrong is said in one line, by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False, name="autograder")
    except Exception as error:
        why = _short(error)
        raise GradeError(f"the scheduler {address} cannot be reached ({why}): is it running, and is the address right?") from None
    try:
        yield client
    except (CancelledError, OSError) as error:
        if isinstance(error, OSError) and client.status == "running":
            raise
        raise _lost(address) from None
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=5)


def _wait_for_workers(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except TimeoutError:
        host = f"dask worker {address} --nthreads 1"
        raise GradeError(f"the scheduler {address} has no workers: start some, in the course's folder, with `{host}`") from None


def _inspect(client: Client, spec: Spec) -> None:
    """Ask every worker, before any work, whether it can do this."""
    try:
        answers = client.run(inspect, spec, on_error="return")
    except Exception as error:  # a worker that does not even know `inspect` answers in a way of its own
        answers = {"of the scheduler": error}
    for worker, answer in answers.items():
        if isinstance(answer, Exception):
            raise _unfit(f"worker {worker}", answer)
        if answer:
            raise GradeError(f"worker {worker}: {answer}")


def _unfit(who: str, error: BaseException) -> GradeError:
    remedy = "start it in the course's folder, with the course's environment active"
    return GradeError(f"{who} cannot judge ({_short(error)}): {remedy}")


def _hand_over(outer: Future[Judged], address: str, killed: type[Exception], inner: Future[Judged]) -> None:
    """Pass on what Dask says of a batch, in the engine's words."""
    try:
        outer.set_result(inner.result())
    except (GradeError, JudgeDied) as error:
        outer.set_exception(error)
    except CancelledError:
        outer.set_exception(_lost(address))
    except killed:  # several workers died over this batch
        outer.set_exception(JudgeDied(JUDGE_DIED))
    except BaseException as error:
        outer.set_exception(_unfit("a worker", error))


def _lost(address: str) -> GradeError:
    return GradeError(f"the connection to the scheduler {address} was lost: run the same command again, it goes on from here")


def _short(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:200] + "..."


# --- in a Dask worker ---


def inspect(spec: Spec) -> str:
    """Why this machine cannot judge for `spec`, in one line, or an empty text."""
    week = load().week(spec.week)
    if problem := _difference(spec, week):
        return problem
    if spec.isolation == "bwrap" and (problem := sandbox.bwrap_problem() or ""):
        return problem
    return ""


def _difference(spec: Spec, week: Week) -> str:
    own = dict(versions(week))
    for what, wanted in spec.versions:
        if own.get(what) != wanted:
            remedy = "give all machines the same copy of the course, installed with constraints.txt"
            return f"its {what} is {own.get(what)}, not {wanted}: {remedy}"
    return ""


def judge(spec: Spec, batch: list[Item], alone: bool) -> Judged:
    """Judge a batch with a warm judge of this process, or a new one.

    Raises:
        JudgeDied: if the judge did.
        GradeError: if there can be none here.
    """
    one = _borrow(spec)
    try:
        judged = one.judge(batch, alone)
    except BaseException:
        one.close()
        raise
    with _lock:
        _idle.append(one)
    return judged


def release() -> None:
    """End the judges that wait for work."""
    with _lock:
        idle = list(_idle)
        _idle.clear()
    for one in idle:
        one.close()


class Judge:
    """A judge: a process with a sandbox of its own (remote.py). It ends with this process, or after long idleness.

    Raises:
        GradeError: if there can be none here.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._connection, theirs = Pipe()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment = {name: value for name, value in environment.items() if not name.startswith("DASK_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autograder.grading.remote", str(theirs.fileno())],
            env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
        )  # fmt: skip
        theirs.close()
        try:
            self._start = self._ask(spec)
        except BaseException:
            self.close()
            raise

    def judge(self, batch: list[Item], alone: bool) -> Judged:
        """The answers; what the start took is counted with the first of them."""
        judged = self._ask((batch, alone))
        start, self._start = self._start, Judged([], {})
        cpu_seconds = Counter(judged.cpu_seconds) + Counter(start.cpu_seconds)
        return Judged(judged.answers, dict(cpu_seconds), start.lines)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.wait()

    def _ask(self, question: Any) -> Judged:
        try:
            self._connection.send(question)
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise JudgeDied(JUDGE_DIED) from None
        if isinstance(answer, str):
            raise GradeError(answer)
        assert isinstance(answer, Judged)
        return answer


_lock = threading.Lock()
_idle: list[Judge] = []
atexit.register(release)


def _borrow(spec: Spec) -> Judge:
    with _lock:
        mine = [one for one in _idle if one.spec == spec and one.alive]
        others = [one for one in _idle if one not in mine]
        _idle[:] = mine[1:]
    for one in others:
        one.close()
    if mine:
        return mine[0]
    if problem := inspect(spec):  # a worker that joined after the others were asked
        raise GradeError(f"a worker on {platform.node()}: {problem}")
    return Judge(spec)
