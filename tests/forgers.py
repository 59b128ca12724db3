"""Workers that own the wire and have everything but the answer: the reference's replies, with the numbers put in another way.

Each is stronger than any submission: its structure, names, flags, shapes, dtypes and exceptions are those of a right answer.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from autograder.inside import wire
from autograder.inside.worker import Worker
from autograder.judge import scoring
from autograder.judge.runner import Opener, Runner, reference_stub
from autograder.judge.session import Link
from autograder.manifest import Task, Week

Forge = Callable[[np.ndarray], np.ndarray]

# What a float array is replaced by: all finite, of the right shape and dtype, and chosen to upset a comparison.
NUMBERS: dict[str, Forge] = {
    "zeros": np.zeros_like,
    "ones": np.ones_like,
    "huge": lambda a: np.full_like(a, np.finfo(a.dtype).max / 2),
    "overflowing_squares": lambda a: np.full_like(a, np.sqrt(np.finfo(a.dtype).max) * 2),
    "tiny": lambda a: np.full_like(a, np.finfo(a.dtype).tiny),
    "opposite": lambda a: -a,
    "mean": lambda a: np.full_like(a, a.mean() if a.size else 0),
    "flipped": lambda a: np.flip(a).copy(),
}


def replaced(value: Any, forge: Forge) -> Any:
    """A reply with its float arrays and floats forged; all else is as it was."""
    if isinstance(value, wire.Tensor):
        return wire.Tensor(replaced(value.data, forge), value.dtype)
    if isinstance(value, np.ndarray):
        return forge(value) if value.dtype.kind == "f" else value
    if isinstance(value, float):
        return float(forge(np.array(value)))
    if isinstance(value, list | tuple):
        return type(value)(replaced(item, forge) for item in value)
    if isinstance(value, dict):
        return {key: replaced(item, forge) for key, item in value.items()}
    return value


class Forging:
    """A link that answers as the reference, with forged numbers."""

    def __init__(self, worker: Worker, forge: Forge) -> None:
        self.worker, self.forge = worker, forge

    def exchange(self, message: bytes) -> bytes:
        return wire.dumps(replaced(wire.loads(self.worker.handle(message)), self.forge))


Tape = dict[str, dict[int, list[bytes]]]


class Recording:
    """A link that keeps the reference's replies on a tape, by check."""

    def __init__(self, worker: Worker, tape: dict[int, list[bytes]]) -> None:
        self.worker, self.tape, self.check = worker, tape, -1

    def exchange(self, message: bytes) -> bytes:
        self.check += sum(operation["op"] == "reset" for operation in wire.loads(message))
        reply = self.worker.handle(message)
        self.tape[self.check].append(reply)
        return reply


class Replaying(Recording):
    """A link that plays the tape of another run, whatever it is asked."""

    at = 0

    def exchange(self, message: bytes) -> bytes:
        begun = sum(operation["op"] == "reset" for operation in wire.loads(message))
        self.check += begun
        self.at = 0 if begun else self.at + 1
        replies = self.tape.get(self.check) or [wire.dumps({"value": None})]
        return replies[min(self.at, len(replies) - 1)]


def shares(runner: Runner, make: Callable[[Worker, Task], Link]) -> dict[str, float]:
    """The share of each task that a kind of link gets, within `run_in_pytest`."""
    stub = reference_stub(runner.week)

    @contextlib.contextmanager
    def opener(task: Task) -> Iterator[Link]:
        yield make(Worker(stub), task)

    typed: Opener = opener
    return {run.task.id: scoring.share(run.outcomes) for run in runner.run(typed)}


def results(week: Week, seed: int, forges: dict[str, Forge]) -> dict[str, dict[str, float]]:
    """What each forger gets in a week with a secret seed: "none" is the reference, "replay" the tape of the public seed."""
    found: dict[str, dict[str, float]] = {}
    tape: dict[str, dict[int, list[bytes]]] = defaultdict(lambda: defaultdict(list))

    def quiet(runner: Runner) -> Runner:
        runner.diagnoser.name = lambda task, traces: {}  # type: ignore[method-assign]  # what was misunderstood matters to nobody
        return runner

    public = quiet(Runner(week, 0))
    public.run_in_pytest(lambda: found.update(public=shares(public, lambda worker, task: Recording(worker, tape[task.id]))))
    runner = quiet(Runner(week, seed))

    def body() -> None:
        found["none"] = shares(runner, lambda worker, task: Forging(worker, lambda a: a))
        found["replay"] = shares(runner, lambda worker, task: Replaying(worker, tape[task.id]))
        for name, forge in forges.items():
            found[name] = shares(runner, lambda worker, task, forge=forge: Forging(worker, forge))  # type: ignore[misc]

    runner.run_in_pytest(body)
    return found
