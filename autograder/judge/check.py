"""What checks are written with.

A check is a pytest function over three fixtures, whose docstring states in its first paragraph the one property that
it holds the submission to (students read it):

    @check("4.1", weight=3, gate=True)
    def test_forward(student, oracle, rng): ...

`student` is a Session with the submission; `oracle(program, *args)` runs `program(session, *args)` on the reference
and returns what it returned; `rng` is a NumPy generator that depends on the run's seed and the check's name alone.
A check never contains a formula of the answer: what it compares with comes from `oracle` or was drawn by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from autograder.judge.evidence import place, relation
from autograder.judge.session import CheckFailed, Handle, Session, at, show, tensor

__all__ = ["CheckFailed", "Handle", "Session", "at", "check", "close", "demand", "equal", "show", "tensor"]

TIERS = ("basic", "advanced")
F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class CheckInfo:
    """What a check is worth: see `check`."""

    task: str
    weight: float
    gate: bool
    tier: str


def check(task: str, *, weight: float = 1, gate: bool = False, tier: str = "basic") -> Callable[[F], F]:
    """Mark a function as a check of a task.

    Args:
        task: as in the manifest, "4.1".
        weight: its share of the task's points, relative to the task's other checks.
        gate: numeric and decisive: if it fails, the task scores 0.
        tier: "basic" or "advanced"; both count, students may ask for one.
    """
    if weight <= 0 or tier not in TIERS:
        raise ValueError(f"a check of {task} has weight {weight} and tier {tier!r}")

    def mark(function: F) -> F:
        if not (function.__doc__ or "").strip():
            raise ValueError(f"{function.__name__} has no docstring to show to students")
        function.check_info = CheckInfo(task, weight, gate, tier)  # type: ignore[attr-defined]
        return function

    return mark


def close(
    got: np.ndarray,
    want: np.ndarray,
    name: str,
    rtol: float = 1e-9,
    atol: float | np.ndarray = 0.0,
    known: np.ndarray | None = None,
) -> None:
    """Demand that `got` equals `want` within rtol * max|want| + atol; `atol` may be elementwise.

    Args:
        known: the part of `want` that is not the submission's doing (a frozen layer's output): a failure then says how
            what the submission adds to it is related to what it should add.

    Raises:
        CheckFailed: saying what was expected, where the two differ and how they are related.
    """
    want = np.asarray(want)
    if got.shape != want.shape:  # ours: an observation has passed its shape already
        raise ValueError(f"{name}: shapes {got.shape} and {want.shape}")
    error = np.abs(got.astype(np.float64) - want.astype(np.float64))
    bound = rtol * np.abs(want).max(initial=0.0) + atol
    wrong = ~(error <= bound)  # not a number is no match either
    if not wrong.any():
        return
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    lines = [f"{name} is wrong", f"  expected: {show(want)}", f"  got:      {show(got)}"]
    if error.size > 1:
        index = ", ".join(str(int(i)) for i in worst)
        count = f"{int(wrong.sum())} of {wrong.size} values differ{place(wrong)}"
        lines.append(f"  {count}, most at [{index}]: {got[worst]:.6g}, not {want[worst]:.6g}")
    raise CheckFailed("\n".join(lines), relation=relation(got, want, known))


def equal(got: Any, want: Any, name: str) -> None:
    """Demand that two plain observations (flags, names, numbers that must be exact) are equal."""
    if type(got) is type(want) and got == want:
        return
    if _is_names(got) and _is_names(want) and set(got) != set(want):
        missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
        raise CheckFailed(
            f"{name} is wrong\n  expected: {show(want)}\n"
            f"  missing from yours: {show(missing)}\n  too much in yours:  {show(extra)}"
        )
    raise CheckFailed(f"{name} is wrong\n  expected: {show(want)}\n  got:      {show(got)}")


def _is_names(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def demand(condition: bool, message: str) -> None:
    """Demand something that no comparison of two values says well; the message must say expected and got."""
    if not condition:
        raise CheckFailed(message)
