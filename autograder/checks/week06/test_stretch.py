"""Checks of week 6's stretch tasks: the bootstrap interval and the dialogue evaluation.

Right answers draw different random numbers. On values of two kinds the resampled means fall on a grid, and for the cases
here each quantile lies so deep inside a step of their distribution that every generator finds the same grid point.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from autograder.judge.check import CheckFailed, Session, at, check, close, demand, equal

RESAMPLES = 4000
# Values, how many of them are the larger one, level. With 4,000 resamples the shares of means below and at the quantile's
# grid point are more than 7 standard errors of a binomial share away from it.
CASES = ((5, 1, 0.2), (5, 1, 0.8), (5, 1, 0.6), (5, 1, 0.95), (5, 2, 0.7), (7, 5, 0.7), (8, 4, 0.8), (8, 1, 0.95), (8, 6, 0.9))


def two_kinds(rng, n: int, many: int) -> list[float]:
    low = rng.uniform(-3, 0)
    values = np.full(n, low)
    values[rng.permutation(n)[:many]] += rng.uniform(1, 4)
    return [float(value) for value in values]


def interval(lib: Session, values: list[float], *settings: Any) -> np.ndarray:
    found = lib.probe("week06.numbers", lib.bootstrap_ci(values, *settings))
    if type(found) is not list or len(found) != 2:
        raise CheckFailed(f"bootstrap_ci(...) is {found}\n  expected: a lower and an upper end")
    return np.array(found)


# --- task 6.5 ---


@check("6.5", weight=4, gate=True)
def test_interval(student, oracle, rng):
    """The ends are the quantiles (1 - level) / 2 and (1 + level) / 2 of the means of resamples, drawn with replacement."""
    for n, many, level in CASES:
        values = two_kinds(rng, n, many)
        with at(f"{n} values, {many} of them equal and larger than the others, level={level}"):
            got = interval(student, values, level, RESAMPLES, int(rng.integers(1000)))
            close(got, oracle(interval, values, level, RESAMPLES, 0), "the interval", rtol=1e-9)


@check("6.5", weight=2)
def test_values_of_many_kinds(student, oracle, rng):
    """Values of any kind have an interval about their mean that is as wide as it should be."""
    values = [float(value) for value in 5 + rng.standard_normal(40)]
    for level in (0.5, 0.9):
        with at(f"40 values around 5, level={level}"), student.aside():
            got, want = interval(student, values, level, RESAMPLES, 1), oracle(interval, values, level, RESAMPLES, 2)
        # The quantile's standard error is sqrt(q (1 - q) / 4000) / density, at most 0.035 of the mean's standard deviation, which
        # is 1 / sqrt(40) here; two such intervals differ by less than 6 sqrt(2) of it.
        close(got, want, "the interval", rtol=0, atol=0.3 / 40**0.5 * float(np.std(values)))


@check("6.5", weight=1)
def test_seed(student, oracle, rng):
    """Equal arguments give equal intervals, and another seed gives another one."""
    values = [float(value) for value in rng.standard_normal(30)]
    with student.aside():
        first, again, other = (interval(student, values, 0.9, 50, seed) for seed in (4, 4, 5))
    student.note([bool((first == again).all()), bool((first == other).all())])
    demand(bool((first == again).all()), f"two calls with seed 4 gave {first} and {again}\n  expected: the same")
    demand(not (first == other).all(), f"seeds 4 and 5 both gave {first}\n  expected: other samples, another interval")


@check("6.5", weight=1)
def test_resamples(student, oracle, rng):
    """`resamples` is the number of means: with one, both ends are that mean."""
    values = [float(value) for value in rng.standard_normal(30)]
    with student.aside():
        low, high = interval(student, values, 0.9, 1, 0)
    student.note(bool(low == high))
    demand(abs(high - low) < 1e-12, f"with resamples=1 the interval is [{low}, {high}]\n  expected: both ends the one mean")


@check("6.5", weight=1, tier="advanced")
def test_edges(student, oracle, rng):
    """One value, or equal values, have an interval of no width; the settings have defaults."""
    for values in ([2.5], [0.75] * 6):
        with at(f"values {values}"):
            close(interval(student, values), oracle(interval, values), "the interval")


@check("6.5", weight=1, tier="advanced")
def test_values_are_left(student, oracle, rng):
    """The list of values is not changed, its order included."""
    values = [float(value) for value in rng.standard_normal(9)]
    held = student.build("held", value=values)
    student.bootstrap_ci(held, 0.9, 20, 1)
    equal(student.probe("week06.plain", held), values, "the values after bootstrap_ci")


@check("6.5", weight=1, tier="advanced")
def test_bootstrap_refuses(student, oracle, rng):
    """No values, or a level outside of (0, 1), is a ValueError."""
    for values, level in (([], 0.95), ([1.0, 2.0], 1.0), ([1.0, 2.0], 0.0), ([1.0, 2.0], 1.5), ([1.0, 2.0], 95)):
        with at(f"values {values}, level={level}"):
            student.raises("ValueError", act=lambda v=values, c=level: student.bootstrap_ci(v, c))


# --- task 6.6 ---

ANSWERS = ["first", "second", "tie"]
# What a dialogue comes to, and how: the replies' number of x, and the beginning of the prompt, which decide for the judge.
KINDS = {
    "win": [("odd", 9, 2), ("odd", 5, 1)],
    "loss": [("odd", 1, 6), ("odd", 0, 9)],
    "tie": [("even", 7, 1), ("even", 1, 7), ("odd", 4, 4), ("odd", 5, 4), ("odd", 3, 4), ("shy", 7, 1), ("shy", 1, 7)],
}
POINTS = {"win": 1.0, "loss": 0.0, "tie": 0.5}
MARGIN = 3


def line_of(rng, kind: str, category: str, which: int | None = None) -> str:
    options = KINDS[kind]
    start, a, b = options[int(rng.integers(len(options))) if which is None else which]
    dialogue = {
        "reply_a": "x" * a + "!",
        "reply_b": "x" * b + "?",
        "prompt": f"{start} {rng.integers(10**6)}",
        "category": category,
    }
    return json.dumps(dialogue | {"id": int(rng.integers(99))}, ensure_ascii=False)


def supplied(lib: Session, own: bool) -> None:
    if not own:
        lib.supply("bootstrap_ci", lib.build("week06.interval"))


def own_interval(student: Session, oracle) -> bool:
    """Whether the submission's bootstrap_ci works, so that task 6.6 can be checked with it."""
    if "bootstrap_ci" not in student.facts:
        values = two_kinds(np.random.Generator(np.random.PCG64(0)), 5, 1)
        with student.aside():
            try:
                close(interval(student, values, 0.6, RESAMPLES, 3), oracle(interval, values, 0.6, RESAMPLES, 3), "the interval")
                student.facts["bootstrap_ci"] = True
            except CheckFailed:
                student.facts["bootstrap_ci"] = False
    return bool(student.facts["bootstrap_ci"])


def evaluated(lib: Session, own: bool, lines: list[str], answers: list[str] = ANSWERS, once: bool = False) -> Any:
    """The report, and what the judge was asked."""
    supplied(lib, own)
    judge = lib.build("week06.judge", margin=MARGIN, answers=answers)
    evaluator = lib.DialogueEvaluator(judge, 0.6, RESAMPLES, 3)
    report = lib.probe("week06.numbers", evaluator.evaluate(lib.build("week06.once", items=lines) if once else lines))
    return report, lib.probe("week06.asked", judge)


COUNTS = ("n", "wins", "ties", "losses", "win_rate")


def part(report: Any, category: str | None, names: tuple[str, ...]) -> dict[str, float]:
    """The named figures of a category, or of all dialogues."""
    try:
        figures = report["overall"] if category is None else report["categories"][category]
        return {name: float(figures[name]) for name in names}
    except (KeyError, TypeError):
        where = 'report["overall"]' if category is None else f'report["categories"][{category!r}]'
        raise CheckFailed(f"{where} is not there, or lacks one of {names}\n  got: {report}") from None


def compare_reports(student, oracle, lines: list[str], categories: list[str], once: bool = False) -> None:
    own = own_interval(student, oracle)
    with student.aside():
        report, _ = evaluated(student, own, lines, ANSWERS, once)
    want, _ = oracle(evaluated, False, lines)
    found = report.get("categories") if type(report) is dict else None
    everywhere = [None, *categories]
    parts = [(category, part(report, category, COUNTS)) for category in everywhere]
    student.note([figures for _, figures in parts])
    for category, got in parts:
        where = "all dialogues" if category is None else f"category {category!r}"
        for name, right in part(want, category, COUNTS).items():
            close(np.array(got[name]), np.array(right), f'"{name}" of {where}', atol=1e-12)
    equal(sorted(found or {}), sorted(categories), "the list of categories")


@check("6.6", weight=4, gate=True)
def test_overall(student, oracle, rng):
    """Wins, ties and losses are counted over all dialogues, and the win rate takes a tie as half a win."""
    drawn = [str(kind) for kind in rng.choice(["win", "tie", "loss"], 9)]
    for kinds in (["win"], ["loss"], ["win", "tie", "loss", "win"], ["tie", "win", "tie", "loss", "loss", "tie", "loss"], drawn):
        lines = [line_of(rng, kind, "all") for kind in kinds]
        with at(f"dialogues that come to {kinds}"):
            compare_reports(student, oracle, lines, ["all"])


@check("6.6", weight=3, gate=True)
def test_both_orders(student, oracle, rng):
    """A reply wins only if it is preferred in both orders; whatever else the two verdicts are, it is a tie."""
    for kind, options in KINDS.items():
        for which, (start, a, b) in enumerate(options):
            lines = [line_of(rng, kind, "all", which)]
            ties = f", and a judge that ties on {start!r}" if start != "odd" else ""
            with at(f"a reply A with {a} x and B with {b}{ties}"):
                compare_reports(student, oracle, lines, ["all"])


@check("6.6", weight=3)
def test_categories(student, oracle, rng):
    """Each category has figures of its own, and the overall ones weigh dialogues, not categories."""
    kinds = [
        ("win", "math"),
        ("win", "写作"),
        ("loss", "math"),
        ("tie", "math"),
        ("loss", "math"),
        ("loss", "code"),
        ("tie", "写作"),
    ]
    lines = [line_of(rng, kind, category) for kind, category in kinds]
    with at("dialogues of three categories, of 4, 2 and 1"):
        compare_reports(student, oracle, lines, ["math", "写作", "code"])


@check("6.6", weight=2)
def test_interval_of_scores(student, oracle, rng):
    """ "low" and "high" are bootstrap_ci of the scores, with the evaluator's level, resamples and seed."""
    own = own_interval(student, oracle)
    drawn = [str(kind) for kind in rng.permutation(["win", "win", "tie", "loss", "win", "tie", "loss", "win", "loss"])]
    compared = []
    for kinds in (["win", "loss", "loss", "win", "win"], drawn):
        lines = [line_of(rng, kind, "even" if i % 2 == 0 else "odd") for i, kind in enumerate(kinds)]
        scores = [POINTS[kind] for kind in kinds]
        for settings in ((0.6, RESAMPLES, 3), (0.5, 101, 8)):
            with student.aside():
                supplied(student, own)
                judge = student.build("week06.judge", margin=MARGIN, answers=ANSWERS)
                report = student.probe("week06.numbers", student.DialogueEvaluator(judge, *settings).evaluate(lines))
                for category, some in ((None, scores), ("even", scores[::2]), ("odd", scores[1::2])):
                    got, want = part(report, category, ("low", "high")), interval(student, some, *settings)
                    where = "all dialogues" if category is None else f"category {category!r}"
                    rung = f"level, resamples, seed = {settings}, scores {some}"
                    compared.append((np.array([got["low"], got["high"]]), want, f"the interval of {where}", rung))
    student.note([bool(np.allclose(got, want)) for got, want, *_ in compared])
    for got, want, name, rung in compared:
        with at(rung):
            close(got, want, name, atol=1e-12)


@check("6.6", weight=1)
def test_lines(student, oracle, rng):
    """Blank lines and other keys are ignored, and the lines may be those of a file, read once, with their line ends."""
    lines = [line_of(rng, kind, "all") for kind in ("win", "tie", "win", "loss")]
    texts = ["\n", lines[0] + "\n", "  \n", lines[1] + "\r\n", "", lines[2] + "\n", "\t\n", "  " + lines[3]]
    with at("a file of 8 lines, 4 of them blank"):
        compare_reports(student, oracle, texts, ["all"], once=True)


@check("6.6", weight=1)
def test_questions(student, oracle, rng):
    """The judge is asked twice for each dialogue, with its prompt and both replies, once in each order."""
    lines = [line_of(rng, kind, "all") for kind in ("win", "tie", "loss")]
    own = own_interval(student, oracle)
    with student.aside():
        _, asked = evaluated(student, own, lines)
    student.note(asked)
    want = oracle(evaluated, False, lines)[1]
    demand(asked == want, f"the judge was asked {asked}\n  expected, in any order: {want}")


def refuses(student: Session, lines: list[str], answers: list[str] = ANSWERS) -> None:
    judge = student.build("week06.judge", margin=MARGIN, answers=answers)
    evaluator = student.DialogueEvaluator(judge)
    student.raises("ValueError", act=lambda: evaluator.evaluate(lines))


@check("6.6", weight=1, tier="advanced")
def test_incomplete_lines(student, oracle, rng):
    """A line that lacks one of the four strings, or has something else in its place, is a ValueError."""
    right = json.loads(line_of(rng, "win", "all"))
    for key in ("category", "prompt", "reply_a", "reply_b"):
        with at(f"one line, which lacks {key!r}"):
            refuses(student, [json.dumps({name: value for name, value in right.items() if name != key})])
    with at('one line, whose "prompt" is a number'):
        refuses(student, [json.dumps(right | {"prompt": 7})])


@check("6.6", weight=1, tier="advanced")
def test_unreadable_lines(student, oracle, rng):
    """A line that is no JSON object is a ValueError, also among others that are right; so is it if there is no dialogue."""
    right = line_of(rng, "win", "all")
    for lines in ([right, "{"], [right, "[1, 2]"], [right, '"text"'], ["{}", right], [], ["\n"]):
        with at(f"lines {lines}"):
            refuses(student, lines)


@check("6.6", weight=1, tier="advanced")
def test_verdicts_refused(student, oracle, rng):
    """An answer of the judge other than "first", "second" and "tie" is a ValueError."""
    right = line_of(rng, "win", "all")
    for answers in (["first", "B", "tie"], ["A", "second", "tie"], ["First", "Second", "Tie"]):
        with at(f"a judge whose answers are {answers}"):
            refuses(student, [right], answers)
