"""From the outcomes of checks to the score of a task and of a submission. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autograder.judge.check import CheckInfo


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check ended.

    Attributes:
        name: the check's function name without `test_`.
        summary: the property that it states, one sentence.
        kind: "passed", or why not: "wrong", "error", "unattempted", "timeout", "crash".
        message: for the student; empty when passed.
        misconception, misconception_zh: the likely misunderstanding, when the failure matches a known one.
    """

    name: str
    summary: str
    info: CheckInfo
    kind: str
    message: str = ""
    misconception: str | None = None
    misconception_zh: str | None = None


def share(outcomes: Sequence[Outcome]) -> float:
    """The share of a task's points that its outcomes earn: 0 when a gate failed, else by weight.

    Raises:
        ValueError: if there are no outcomes; no check is never a pass.
    """
    if not outcomes:
        raise ValueError("a task without checks cannot be scored")
    if any(o.info.gate and o.kind != "passed" for o in outcomes):
        return 0.0
    passed = sum(o.info.weight for o in outcomes if o.kind == "passed")
    return passed / sum(o.info.weight for o in outcomes)


def status(outcomes: Sequence[Outcome]) -> str:
    """passed, partial, failed, unattempted, error or timeout."""
    kinds = {o.kind for o in outcomes}
    if kinds == {"passed"}:
        return "passed"
    if "timeout" in kinds:
        return "timeout"
    if share(outcomes) > 0:
        return "partial"
    if kinds <= {"unattempted", "passed"}:
        return "unattempted"
    gates = {o.kind for o in outcomes if o.info.gate and o.kind != "passed"} or kinds
    return "error" if gates & {"error", "crash"} and "wrong" not in gates else "failed"


def stake(info: CheckInfo, weights: float, points: int, lang: str) -> str:
    """How many of a task's points hang on a check, in words; nothing where there are none.

    Args:
        weights: of all the task's checks together.
        points: of the task.
    """
    zh = lang == "zh"
    if not points:
        return ""
    if info.gate:
        return f"决定本任务的全部 {points} 分" if zh else f"decides all {points} points of the task"
    share = f"{info.weight / weights * points:.2g}"
    return f"关系到 {share} 分" if zh else f"{share} points hang on it"


def headline(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The failure to tell first: a gate's, else the first one that is more than a part not yet written."""
    failures = [o for o in outcomes if o.kind != "passed"]
    failures.sort(key=lambda o: (not o.info.gate, o.kind == "unattempted"))
    return failures[0] if failures else None
