"""Which misunderstanding a failure looks like: the one whose known wrong answer was observed to do the very same.

A check's observations form a trace. A failing trace is held against those of the task's mutants, which are run here
over a loopback, once each per check and kept. No match means no guess.
"""

from __future__ import annotations

import contextlib
import math
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autograder.inside import wire
from autograder.inside.worker import Worker
from autograder.judge.session import CheckFailed, Loopback, Session
from autograder.manifest import Week

if TYPE_CHECKING:
    from autograder.bank import Mutant

Trace = list[Any]
_RTOL = 1e-6


class Diagnoser:
    """Holds the mutants of a week and their traces.

    Attributes:
        mutants: each has name, task, misconception, misconception_zh.

    Args:
        reference: source of the week's reference.
        trace: runs one check, by name, on a session and returns (passed, trace).
    """

    def __init__(self, week: Week, reference: str, trace: Callable[[str, Session], tuple[bool, Trace]]) -> None:
        from autograder import bank  # which a student release does not have

        self._week = week
        self.mutants: Sequence[Any] = bank.mutants(week, reference)
        self._trace = trace
        self._known: dict[tuple[str, str], tuple[bool, Trace]] = {}
        self._sessions: dict[str, Session | None] = {}

    def prepare(self, checks: dict[str, list[str]]) -> None:
        """Run every mutant on its task's checks (by task) now, so that processes forked from this one need not."""
        for mutant in self.mutants:
            for check in checks.get(mutant.task, []):
                self._known_trace(mutant, check)

    def traces(self) -> dict[tuple[str, str], tuple[bool, Trace]]:
        """(passed, trace) by mutant and check, as far as they have run."""
        return self._known

    def name(self, task: str, traces: dict[str, tuple[bool, Trace]]) -> dict[str, str]:
        """The mutant that each failing check's trace matches, by check.

        Among several, the one that agrees with the submission on most of the task's checks, passing ones included;
        a check whose trace matches none, or two equally well, is left out.

        Args:
            traces: (passed, trace) of the task's checks, by check.
        """
        named = {}
        for check, (passed, trace) in traces.items():
            if passed:
                continue
            found = [m for m in self.mutants if m.task == task and self._fails_like(m, check, trace)]
            if len(found) > 1:
                votes = {m.name: sum(self._agrees(m, c, *seen) for c, seen in traces.items()) for m in found}
                found = [m for m in found if votes[m.name] == max(votes.values())]
            if len(found) == 1:
                named[check] = found[0].name
        return named

    def misconception(self, name: str) -> tuple[str, str]:
        """A mutant's, in English and in Chinese."""
        return next((m.misconception, m.misconception_zh) for m in self.mutants if m.name == name)

    def _fails_like(self, mutant: Mutant, check: str, trace: Trace) -> bool:
        passed, known = self._known_trace(mutant, check)
        return not passed and same(known, trace)

    def _agrees(self, mutant: Mutant, check: str, passed: bool, trace: Trace) -> bool:
        if passed:
            return self._known_trace(mutant, check)[0]
        return self._fails_like(mutant, check, trace)

    def _known_trace(self, mutant: Mutant, check: str) -> tuple[bool, Trace]:
        key = (mutant.name, check)
        if key not in self._known:
            session = self._session(mutant)
            self._known[key] = self._trace(check, session) if session else (True, [])
        return self._known[key]

    def _session(self, mutant: Mutant) -> Session | None:
        """A session with the mutant's module, loaded once; None if it does not even load."""
        if mutant.name not in self._sessions:
            with _no_end(), tempfile.TemporaryDirectory() as folder:
                stub = Path(folder) / self._week.stub
                stub.write_text(mutant.source, encoding="utf-8")
                session = Session(Loopback(Worker(stub)))
                try:
                    session.load()
                    self._sessions[mutant.name] = session
                except CheckFailed:
                    self._sessions[mutant.name] = None
        return self._sessions[mutant.name]


@contextlib.contextmanager
def _no_end() -> Iterator[None]:
    """Put off SIGTERM, by which the engine stops a judge: it would leave a temporary folder behind."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def same(a: Any, b: Any) -> bool:
    """Whether two observations are equal, numbers up to rounding."""
    if isinstance(a, wire.Tensor) and isinstance(b, wire.Tensor):
        return a.dtype == b.dtype and same(a.data, b.data)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        scale = float(np.abs(a.astype(np.float64)).max(initial=0.0))
        return bool(np.allclose(a, b, rtol=_RTOL, atol=_RTOL * scale, equal_nan=True))
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=_RTOL, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)
