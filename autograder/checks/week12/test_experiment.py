"""Checks of week 12: reproducible runs, paired comparisons, reports and model cards."""

from __future__ import annotations

import copy
import itertools
import json
import re
from typing import Any

import numpy as np

from autograder.judge.check import CheckFailed, Session, at, check, close, demand, equal, show


def compare(got: Any, want: Any, name: str) -> None:
    """Demand equal structures; numbers within 1e-9, whether int or float."""
    if isinstance(want, dict):
        equal(sorted(got) if isinstance(got, dict) else got, sorted(want), f"the list of keys of {name}")
        for key in want:
            compare(got[key], want[key], f'{name}["{key}"]')
    elif isinstance(want, list):
        demand(type(got) is list, f"{name} is no list: {show(got)}\n  expected: a list")
        equal(len(got), len(want), f"the number of entries of {name}")
        for i, (one, other) in enumerate(zip(got, want, strict=True)):
            compare(one, other, f"{name}[{i}]")
    elif type(want) is float:
        demand(type(got) in (int, float), f"{name} is no number: {show(got)}\n  expected: {want}")
        close(np.array(got, np.float64), np.array(want), name, atol=1e-12)
    else:
        equal(got, want, name)


# --- task 12.1 ---

SEEDS = ([5], [3, 0, 12], [7, 2**32 - 1, 4, 11], [9, 2])


def experiment(lib: Session, config: dict[str, Any]) -> Any:
    """What run_experiment returned for a configuration of such parts."""
    return lib.probe("week12.given", lib.run_experiment(lib.build("week12.config", **config)))


def runs(student: Session, oracle, part: str, **config: Any) -> None:
    got = experiment(student, config)
    demand(isinstance(got, dict) and part in got, f'run_experiment(...) is {show(got)}\n  expected: a dict with the key "{part}"')
    compare(got[part], oracle(experiment, config)[part], f'result["{part}"]')


@check("12.1", weight=4, gate=True)
def test_values(student, oracle, rng):
    """Every run's numbers follow from its seed: random, NumPy and torch are seeded once, before the data are made."""
    drawn = [int(seed) for seed in rng.choice(2**31, 2, replace=False)]
    for kind in ("python", "numpy", "torch", "all"):
        for seeds in (*SEEDS, drawn):
            with at(f"seeds {seeds}, parts that draw from {'all generators' if kind == 'all' else kind}"):
                runs(student, oracle, "runs", seeds=seeds, metrics=["loss", "accuracy"], kind=kind)


@check("12.1", weight=3, gate=True)
def test_summary(student, oracle, rng):
    """The summary has n, the mean and the standard deviation with n - 1 of every metric, None for the latter of one seed."""
    for seeds in (*SEEDS, [int(seed) for seed in rng.choice(2**31, 3, replace=False)]):
        metrics = ["loss"] if len(seeds) == 1 else ["steps", "loss", "accuracy", "perplexity"]
        with at(f"seeds {seeds}"):
            runs(student, oracle, "summary", seeds=seeds, metrics=metrics)


@check("12.1", weight=2)
def test_repeated(student, oracle, rng):
    """The same configuration gives the same numbers, whatever was drawn before, and a run those of its seed alone."""
    first = experiment(student, {"seeds": [4, 9], "metrics": ["loss"]})
    again = experiment(student, {"seeds": [9], "metrics": ["loss"]})
    demand(
        isinstance(first, dict) and isinstance(again, dict) and "runs" in first and "runs" in again,
        'run_experiment(...) is not a dict with the key "runs"',
    )
    demand(
        isinstance(first["runs"], list) and len(first["runs"]) == 2, 'result["runs"] is not a list with an entry for each seed'
    )
    with at("seeds [9], compared with the second run of seeds [4, 9]"):
        compare(again["runs"], first["runs"][1:], 'result["runs"]')


@check("12.1", weight=2)
def test_calls(student, oracle, rng):
    """For each seed data and model are called once, then each metric once, in order, on the same data."""
    for seeds, metrics in (([1], ["loss"]), ([6, 2], ["steps", "accuracy", "loss"])):
        with at(f"seeds {seeds}, metrics {metrics}"):
            compare(calls(student, seeds, metrics), oracle(calls, seeds, metrics), "the list of calls")


def calls(lib: Session, seeds: list[int], metrics: list[str]) -> Any:
    config = lib.build("week12.config", seeds=seeds, metrics=metrics)
    lib.run_experiment(config)
    return [[part, what is not False] for part, what in lib.probe("week12.log", config)]


@check("12.1", weight=2)
def test_options(student, oracle, rng):
    """Each run gets a fresh deep copy of the options; the configuration stays as it was, and the result tells the options."""
    options = {"lr": 0.25, "layers": ["o"]}
    config = student.build("week12.config", seeds=[8, 1, 3], metrics=["loss"], options=options)
    result = student.probe("week12.given", student.run_experiment(config))
    seen = [what for part, what in student.probe("week12.log", config) if part == "model"]
    compare(seen, [options] * 3, "the list of the options that model was called with")
    left = student.probe("week12.plain", config)
    compare(left["options"], options, 'config["options"] after the call')
    compare(
        [left["seeds"], left["metrics"]], [[8, 1, 3], ["loss"]], "the list of the configuration's seeds and metrics afterwards"
    )
    demand(isinstance(result, dict) and "options" in result, 'the result has no key "options"')
    compare(result["options"], options, 'result["options"]')
    with at("options that are empty"):
        found = experiment(student, {"seeds": [2], "metrics": ["loss"], "options": {}})
        demand(isinstance(found, dict) and found.get("options") == {}, 'result["options"] is not {}')


@check("12.1", weight=2)
def test_generators(student, oracle, rng):
    """The three generators are left as they were found, also when a callable raises, and the exception is passed on."""
    for fails in ("", "data", "model", "loss", "model!"):
        with at("a model that is interrupted" if fails == "model!" else f"a {fails} that raises" if fails else "no error"):
            config = student.build("week12.config", seeds=[3, 1], metrics=["loss"], fails=fails)
            names = student.names_of("week12.disturbed", student.run_experiment, config)
            equal(names, [], "the list of generators that were left in another state")
            if fails and fails != "model!":
                student.raises("Boom", act=lambda config=config: student.run_experiment(config))


@check("12.1", weight=2)
def test_bad_configurations(student, oracle, rng):
    """A key too few or too many, no seeds, a seed twice, no metrics: a ValueError before anything is called."""
    good: dict[str, Any] = {"seeds": [1, 2], "metrics": ["loss"]}
    for name, change in (
        ("no seeds", {"seeds": []}),
        ("a seed twice", {"seeds": [3, 1, 3]}),
        ("no metrics", {"metrics": []}),
        ("a key that is not known", {"epochs": 3}),
        ("no key options", {"options": "left out"}),
        ("no key seeds", {"seeds": "left out"}),
    ):
        with at(name):
            config = student.build("week12.config", **(good | change))
            student.raises("ValueError", act=lambda config=config: student.run_experiment(config))
            equal(student.probe("week12.log", config), [], "the calls before the error")


@check("12.1", weight=1)
def test_not_finite(student, oracle, rng):
    """A metric's value is a float in the result, also where the metric gives an int; one that is not finite is a ValueError."""
    with at("a metric of 7"):
        found = experiment(student, {"seeds": [1], "metrics": ["steps"]})
        try:
            value = found["runs"][0]["metrics"]["steps"]
        except (TypeError, LookupError):
            raise CheckFailed(f"run_experiment(...) is {show(found)}\n  expected: the value of a metric of every run") from None
        demand(type(value) is float, f"the value is {show(value)}\n  expected: a float")
    for value in ("nan", "inf", "-inf"):
        with at(f"a metric of {value}"):
            config = student.build("week12.held_metric", value=value)
            student.raises("ValueError", act=lambda config=config: student.run_experiment(config))


# --- task 12.2 ---


def permuted(lib: Session, *args: np.ndarray) -> Any:
    return lib.probe("week12.given", lib.paired_test(*args))


def compare_tests(student: Session, oracle, *args: np.ndarray) -> None:
    got = permuted(student, *args)
    demand(isinstance(got, dict), f"paired_test(...) is {show(got)}\n  expected: a dict")
    compare(got, oracle(permuted, *args), "the result")


def scores(rng, n: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    items = 3 * rng.standard_normal(n)  # what the items have in common is larger than what tells the systems apart
    return items + rng.standard_normal(n) + shift, items + rng.standard_normal(n)


@check("12.2", weight=3, gate=True)
def test_exact(student, oracle, rng):
    """Without signs, p is the share of all 2^n vectors of signs that are as extreme on either side."""
    for n, shift in ((1, 0.0), (2, 1.0), (3, -2.0), (6, 0.5), (9, -0.7), (16, 0.4)):
        with at(f"{n} items"):
            compare_tests(student, oracle, *scores(rng, n, shift))


@check("12.2", weight=2, gate=True)
def test_drawn_signs(student, oracle, rng):
    """With m vectors of signs, p = (1 + the number that are as extreme) / (1 + m)."""
    for n, m, shift in ((2, 1, 0.0), (4, 3, 5.0), (7, 40, -0.5), (25, 60, 0.3), (30, 50, -9.0)):
        with at(f"{n} items, {m} vectors of signs"):
            signs = np.where(rng.random((m, n)) < 0.5, -1.0, 1.0)
            compare_tests(student, oracle, *scores(rng, n, shift), signs)
    with at("vectors of signs that repeat"):
        signs = np.repeat([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, 1]], 2, axis=0)
        compare_tests(student, oracle, *scores(rng, 4, 9.0), signs)
    with at("signs that are integers"):
        compare_tests(student, oracle, *scores(rng, 5, 1.0), np.where(rng.random((9, 5)) < 0.5, -1, 1))


@check("12.2", weight=2)
def test_ties(student, oracle, rng):
    """Ties count as extreme, also where rounding hides them, and items without a difference stay in."""
    for name, d in (
        ("equal differences", [1.0, 1.0, -1.0]),
        ("differences of tenths", [0.1, 0.2, -0.3, 0.4]),
        ("differences of tenths, in another order", [0.7, -0.1, 0.3, 0.3, -0.2, 0.6]),
        ("differences of millions", [1e5, 2e5, -3e5, 4e5]),
        ("differences of tenths, times 1e12 / 7", [v * (1e12 / 7) for v in (0.1, 0.2, -0.3, 0.4)]),
        ("tiny differences", (1e-5 * rng.standard_normal(5)).tolist()),
        ("differences of 1e-12", (1e-12 * rng.uniform(1, 2, 5)).tolist()),
        ("sums that differ by 1e-7 of themselves", [1.0, 0.5, 1e-7]),
        ("zeros", [0.0, 1.5, 0.0, 0.5, -0.25]),
        ("nothing but zeros", [0.0, 0.0]),
    ):
        with at(name):
            a, b = np.array(d), np.zeros(len(d))
            compare_tests(student, oracle, a, b)
            compare_tests(student, oracle, b, a, np.array(list(itertools.product((1.0, -1.0), repeat=len(d)))[:-1]))
    with at("right and wrong answers, 1 and 0"):
        a, b = (rng.integers(0, 2, 10).astype(np.float64) for _ in range(2))
        compare_tests(student, oracle, a, b)


@check("12.2", weight=1)
def test_no_pairs(student, oracle, rng):
    """Scores that do not form pairs, are not finite or too many for the exact test, and signs of another shape: ValueError."""
    a, b = scores(rng, 4, 0.0)
    nan, inf = a.copy(), b.copy()
    nan[2], inf[1] = np.nan, np.inf
    for name, args in (
        ("no items", (a[:0], b[:0])),
        ("4 and 3 items", (a, b[:3])),
        ("4 items and 1", (a, b[:1])),
        ("scores of shape (2, 2)", (a.reshape(2, 2), b.reshape(2, 2))),
        ("a NaN", (nan, b)),
        ("an infinite score", (a, inf)),
        ("17 items without signs", scores(rng, 17, 0.0)),
        ("scores of shape (2, 2) and signs", (a.reshape(2, 2), b.reshape(2, 2), np.ones((3, 2)))),
        ("signs of shape (3, 5) for 4 items", (a, b, np.ones((3, 5)))),
        ("signs of shape (4,) for 4 items", (a, b, np.ones(4))),
        ("signs of shape (4, 1) for 4 items", (a, b, np.ones((4, 1)))),
    ):
        with at(name):
            student.raises("ValueError", act=lambda args=args: student.paired_test(*args))


@check("12.2", weight=3, gate=True)
def test_interval(student, oracle, rng):
    """The interval goes between the quantiles (1 - level) / 2 and (1 + level) / 2 of the resamples' means."""
    for n, m, level in ((1, 1, None), (3, 5, 0.3), (5, 5, 0.8), (4, 37, None), (6, 101, 0.9)):
        with at(f"{n} values, {m} resamples, level {'left out' if level is None else level}"):
            values = rng.exponential(2.0, n) - 1.0
            args = values, rng.integers(0, n, (m, n)), *(() if level is None else (level,))
            pair, right = interval(student, *args), oracle(interval, *args)
            close(pair, right, "the interval", atol=1e-12)


def interval(lib: Session, *args: Any) -> np.ndarray:
    pair = lib.bootstrap_ci(*args)
    return np.array([lib.number(pair[0]), lib.number(pair[1])])


@check("12.2", weight=1)
def test_no_interval(student, oracle, rng):
    """No values, indices of another shape, or a level outside of 0 < level < 1 are a ValueError."""
    values, indices = rng.standard_normal(4), rng.integers(0, 4, (6, 4))
    for name, args in (
        ("no values", (values[:0], indices[:, :0])),
        ("indices of shape (6, 3) for 4 values", (values, indices[:, :3])),
        ("indices of shape (4,) for 4 values", (values, indices[0])),
        ("level 0", (values, indices, 0.0)),
        ("level 1", (values, indices, 1.0)),
        ("level 95", (values, indices, 95.0)),
        ("level -0.5", (values, indices, -0.5)),
    ):
        with at(name):
            student.raises("ValueError", act=lambda args=args: student.bootstrap_ci(*args))


# --- tasks 12.3 and 12.4: texts, taken apart ---

Parts = dict[str, list[str]]


def lines_of(lib: Session, handle: Any, name: str) -> list[str]:
    """The lines of a text, whose words are the student's own and so no evidence."""
    with lib.aside():
        found = lib.probe("week12.lines", handle)
    lib.note(type(found) is list)
    if type(found) is not list:
        raise CheckFailed(f"{name} is no text: {show(found)}\n  expected: a str")
    return [line.rstrip() for line in found]


def sections(lib: Session, lines: list[str]) -> Parts:
    """The lines under each heading, without the empty ones, but for those in a table; the headings themselves under ""."""
    parts: Parts = {"": []}
    heading = ""
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("#"):
            heading = line
            parts[""].append(line)
            parts[heading] = []
        elif line and heading:
            if line.startswith("|") and not before and parts[heading] and parts[heading][-1].startswith("|"):
                parts[heading].append("")
            parts[heading].append(line)
    lib.note(parts[""])
    return parts


def table(lib: Session, part: list[str]) -> list[list[str]]:
    """The cells of the one table among these lines, with its delimiter row left out; none is an empty list."""
    places = [i for i, line in enumerate(part) if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", part[i])[1:-1]] for i in places if part[i].endswith("|")]
    whole = len(rows) == len(places) and places == list(range(places[0], places[-1] + 1)) if places else True
    delimited = not rows or (len(rows) > 1 and all(re.fullmatch(":?-+:?", cell) for cell in rows[1]))
    lib.note([whole, delimited, rows[:1] + rows[2:]])
    demand(whole, 'the lines of the table do not follow each other, or one of them does not end with "|"')
    demand(delimited, "the second line of the table is no delimiter row such as |---|---|")
    if rows:
        demand(len(rows[1]) == len(rows[0]), "the delimiter row has not as many cells as the header")
    return rows[:1] + rows[2:]


def compare_rows(got: list[list[str]], want: list[list[str]]) -> None:
    if len(got) != len(want):
        equal(len(got), len(want), "the number of the table's rows, the header included,")
    for i, (mine, right) in enumerate(zip(got, want, strict=True)):
        for k, (cell, expected) in enumerate(zip(mine, right, strict=False)):
            equal(cell, expected, f"cell {k} of row {i} (0 is the header)")
        equal(len(mine), len(right), f"the number of cells in row {i} (0 is the header)")


# --- task 12.3 ---


def draw_report(rng, results: int, comparisons: list[tuple[float | None, float | None]]) -> dict[str, Any]:
    """A report with random numbers, and comparisons with these intervals."""
    systems = ["LoRA, r = 8", "full fine-tuning", "DoRA", "frozen base"]
    rows = []
    for k in range(results):
        mean, width = rng.uniform(0.2, 0.9), rng.uniform(0.01, 0.1)
        row = {"system": systems[k], "metric": "accuracy", "mean": mean, "low": mean - width, "high": mean + width}
        rows.append(row | {"n": int(rng.integers(3, 2000))})
    compared = []
    for k, (low, high) in enumerate(comparisons):
        row = {"first": systems[k % 4], "second": systems[(k + 1) % 4], "metric": "exact match", "low": low, "high": high}
        middle = rng.uniform(0.01, 0.2) if low is None or high is None else (low + high) / 2 + 0.0007
        compared.append(row | {"difference": middle, "p": rng.uniform(0.01, 0.9), "n": int(rng.integers(3, 2000))})
    return {
        "title": "Ranks on a small budget",
        "question": "Does rank 8 suffice for reviews?",
        "level": 0.95,
        "results": rows,
        "comparisons": compared,
        "limitations": ["One base model only.", "Seeds differ by the order of the data too."],
        "cost": "0.4 GPU hours, 0.1 kWh.",
    }


def rendered(lib: Session, report: dict[str, Any], heading: str = "## Results") -> tuple[Parts, list[list[str]]]:
    """The sections of a report, and the table of one of them."""
    lines = lines_of(lib, lib.render_report(report), "render_report(report)")
    parts = sections(lib, lines)
    demand(bool(lines) and lines[0].startswith("# "), f"the first line is {show(lines[:1])}\n  expected: the title, behind '# '")
    demand(heading in parts, f"there is no heading {heading}\n  got: {show(parts[''])}")
    return parts, table(lib, parts[heading])


def outside(lib: Session, part: list[str]) -> list[str]:
    return [line for line in part if not line.startswith("|")]


def tabled(lib: Session, report: dict[str, Any], heading: str) -> list[list[str]]:
    return rendered(lib, report, heading)[1]


@check("12.3", weight=3, gate=True)
def test_results(student, oracle, rng):
    """The results table has the header and a row for each result, in order, with mean, interval and n."""
    for count in (1, 2, 4):
        report = draw_report(rng, count, [(0.01, 0.02)])
        with at(f"{count} results"):
            compare_rows(tabled(student, report, "## Results"), oracle(tabled, report, "## Results"))
    report["results"][1] |= {"low": None, "high": None}
    report["results"][2] |= {"mean": -3.0, "low": -4.25, "high": 12.0}
    with at("a result without an interval"):
        compare_rows(tabled(student, report, "## Results"), oracle(tabled, report, "## Results"))


INTERVALS: dict[str, list[tuple[float | None, float | None]]] = {
    "an interval above 0": [(0.013, 0.222)],
    "an interval below 0": [(-0.31, -0.02)],
    "an interval that contains 0": [(-0.02, 0.31)],
    "an interval that begins at 0": [(0.0, 0.31)],
    "an interval that ends at 0": [(-0.2, 0.0)],
    "no interval": [(None, None)],
    "an interval close above 0": [(0.0001, 0.2)],
    "an interval close below 0": [(-0.2, -0.0001)],
    "three comparisons": [(0.1, 0.3), (-0.3, 0.1), (-0.4, -0.1)],
}


@check("12.3", weight=3, gate=True)
def test_comparisons(student, oracle, rng):
    """The comparisons table has a row for each, in order; its verdict follows from the interval alone."""
    for name, intervals in INTERVALS.items():
        report = draw_report(rng, 2, intervals)
        with at(name):
            compare_rows(tabled(student, report, "## Comparisons"), oracle(tabled, report, "## Comparisons"))


@check("12.3", weight=2)
def test_p_values(student, oracle, rng):
    """p has three digits, or is "<0.001"; it does not change the verdict."""
    report = draw_report(rng, 1, [(-0.1, 0.3)] * 3 + [(0.1, 0.4)] * 4 + [(None, None)])
    for row, p in zip(report["comparisons"], (0.0004, 0.0312, 0.0, 0.7, 0.00099, 0.00104, 0.001, 0.0002), strict=True):
        row["p"] = p
    compare_rows(tabled(student, report, "## Comparisons"), oracle(tabled, report, "## Comparisons"))


@check("12.3", weight=2)
def test_caveat(student, oracle, rng):
    """CAVEAT is a line of the comparisons, once, if and only if a verdict is inconclusive."""
    for name, intervals in [*INTERVALS.items(), ("two that contain 0", [(-0.1, 0.2), (-0.2, 0.1)]), ("no comparisons", [])]:
        report = draw_report(rng, 1, list(intervals))
        with at(name):
            compare(caveats(student, report), oracle(caveats, report), "the numbers of lines that are CAVEAT, and that have it")


def caveats(lib: Session, report: dict[str, Any]) -> list[int]:
    """How many lines of the comparisons are the caveat, and how many lines of the report have it."""
    parts, _ = rendered(lib, report, "## Comparisons")
    text = "Inconclusive does not mean equal."
    everywhere = [line for part in parts.values() for line in part]
    found = [parts["## Comparisons"].count(text), sum(line.count(text) for line in everywhere)]
    lib.note(found)
    return found


@check("12.3", weight=2)
def test_sections(student, oracle, rng):
    """The headings, the question, the level, the limitations and the cost stand where they belong; no table without rows."""
    for level, count in ((0.95, 1), (0.9, 3), (0.995, 2)):
        report = draw_report(rng, 1, []) | {"level": level}
        report["question"] = " ".join(5 * [report["question"]])  # one line, however long
        report["limitations"] = [f"Limit {count - k}, of {rng.integers(100, 999)} items." for k in range(count)]
        report["limitations"][-1] += 20 * " more"
        with at(f"level {level}, {count} limitations"):
            parts, _ = rendered(student, report, "## Results")
            names = ["Question", "Results", "Comparisons", "Limitations", "Cost"]
            equal(parts[""], [f"# {report['title']}", *(f"## {name}" for name in names)], "the list of headings")
            points = [line for line in parts["## Limitations"] if line.startswith("-")]
            seen = {
                "the question": any(report["question"] in line for line in parts["## Question"]),
                "the cost": any(report["cost"] in line for line in parts["## Cost"]),
                "the level": any(f"{level * 100:g} %" in line for line in outside(student, parts["## Results"])),
                "a table": any(line.startswith("|") for line in parts["## Comparisons"]),
                "limitations": points,
            }
            student.note(seen)
            others = [line for name, part in parts.items() if name not in ("", "## Limitations") for line in part]
            stray = [line for line in others if line.startswith("-")]
            student.note(len(stray))
            for what in ("the question", "the cost", "the level"):
                demand(seen[what] is True, f"{what} is not in its section\n  expected: it is")
            equal(points, [f"- {text}" for text in report["limitations"]], "the list of limitations")
            demand(not seen["a table"], "there is a table of comparisons without any comparison")
            equal(stray, [], 'the list of lines in other sections that begin with "-"')


@check("12.3", weight=2)
def test_texts(student, oracle, rng):
    """In a text a run of whitespace is one space; "|" has a backslash before it in a cell, and only there."""
    report = draw_report(rng, 2, [(0.1, 0.3)])
    report["results"][0] |= {"system": " LoRA |\n r = 8 ", "metric": "F1 |\t|A|"}
    report["results"][1] |= {"system": "a  b", "metric": "p(y|x)"}
    report["comparisons"][0] |= {"first": "q|v\nonly", "second": " full| ", "metric": "p(y|x)"}
    for heading, texts in (("## Results", 2), ("## Comparisons", 3)):
        with at(f"texts with bars and line breaks, {heading}"):
            rows = tabled(student, report, heading), oracle(tabled, report, heading)
            got, want = ([row[:texts] for row in each] for each in rows)
            compare_rows(got, want)
    report |= {"title": " Two\nlines | one ", "question": "Is p(y|x)\n\n# higher?", "cost": " 2  kWh\r\n|\n3 hours"}
    report["limitations"] = ["One\n# model ", "a|b  only"]
    with at("texts with bars and line breaks"):
        parts, right = rendered(student, report)[0], oracle(rendered, report)[0]
        equal(parts[""], right[""], "the list of headings")
        points = [line for line in parts["## Limitations"] if line.startswith("-")]
        student.note(points)
        equal(points, [line for line in right["## Limitations"] if line.startswith("-")], "the list of limitations")
        for heading in ("## Question", "## Cost"):
            found = any(right[heading][-1] in line for line in parts[heading])
            student.note(found)
            demand(
                found,
                f"{heading} lacks its text in one line\n  expected: {show(right[heading][-1])}\n  got: {show(parts[heading])}",
            )


@check("12.3", weight=1)
def test_refused_reports(student, oracle, rng):
    """A report without results, limitations, title, question or cost, or with half an interval, is a ValueError."""
    good = draw_report(rng, 2, [(0.1, 0.2), (-0.3, 0.3)])
    halves = copy.deepcopy(good), copy.deepcopy(good), copy.deepcopy(good)
    halves[0]["results"][1]["low"] = halves[1]["comparisons"][0]["high"] = halves[2]["results"][0]["high"] = None
    for name, report in (
        ("no results", good | {"results": []}),
        ("no limitations", good | {"limitations": []}),
        ("an empty limitation", good | {"limitations": ["One seed.", " "]}),
        ("an empty title", good | {"title": ""}),
        ("a question of spaces", good | {"question": " \n "}),
        ("no cost", good | {"cost": ""}),
        ("a result whose interval has no lower end", halves[0]),
        ("a comparison whose interval has no upper end", halves[1]),
        ("a result whose interval has no upper end", halves[2]),
    ):
        with at(name):
            student.raises("ValueError", act=lambda report=report: student.render_report(report))


@check("12.3", weight=1, tier="advanced")
def test_report_untouched(student, oracle, rng):
    """render_report does not change the report."""
    report = draw_report(rng, 2, [(0.1, 0.2), (None, None)]) | {"title": " Two\nlines "}
    kept = student.build("held", value=report)
    student.render_report(kept)
    compare(student.probe("week12.given", kept), report, "the report after the call")


# --- task 12.4 ---

FACTS: dict[str, Any] = {
    "name": "reviews-lora",
    "license": "apache-2.0",
    "base_model": "example/tiny-base",
    "library_name": "peft",
    "limitations": "Trained on reviews of one site.",
    "tags": ["lora", "reviews"],
    "metrics": {"accuracy": 0.8125, "f1": 0.77},
}
OPTIONAL: dict[str, Any] = {
    "datasets": ["own/reviews", "own/more"],
    "language": ["en", "zh"],
    "intended_use": "Sorting mail, not people.",
    "training_data": "1,200 generated reviews.",
}
PROSE = ("## Intended use", "## Training data", "## Limitations")


def front(lib: Session, facts: dict[str, Any]) -> dict[str, Any]:
    """The card's front matter."""
    lines = lines_of(lib, lib.model_card(facts), "model_card(facts)")
    end = lines.index("---", 1) if "---" in lines[1:] and lines[0] == "---" else 0
    lib.note(end > 0)
    demand(end > 0, 'the card does not begin with a line "---" and lines up to another "---"')
    pairs, bad = [], []
    for line in lines[1:end]:
        key, _, value = line.partition(":")
        try:
            pairs.append((key, json.loads(value)))
        except (ValueError, RecursionError):
            bad.append([key, value.strip()])
    lib.note(sorted(bad))
    if bad:
        raise CheckFailed(
            f"a value of the front matter is no JSON\n  expected: as json.dumps writes it\n  got: {show(': '.join(bad[0]))}"
        )
    found = dict(sorted(pairs, key=lambda pair: pair[0]))
    lib.note([len(pairs), found])
    equal(len(pairs), len(found), "the number of different keys in the front matter")
    return found


def body(lib: Session, facts: dict[str, Any]) -> tuple[Parts, list[list[str]]]:
    """The card's sections below the front matter, and the table of the metrics."""
    lines = lines_of(lib, lib.model_card(facts), "model_card(facts)")
    end = lines.index("---", 1) if "---" in lines[1:] else 0
    parts = sections(lib, lines[end + 1 :])
    demand("## Evaluation" in parts, f"there is no heading ## Evaluation\n  got: {show(parts[''])}")
    return parts, table(lib, parts["## Evaluation"])


@check("12.4", weight=3, gate=True)
def test_front_matter(student, oracle, rng):
    """The front matter has the facts under the Hub's keys, as JSON, and no keys that were not given."""
    numbers = {name: rng.uniform(0.1, 0.9) for name in ("rouge", "accuracy")}
    for name, facts in (
        ("the required facts", FACTS),
        ("all facts", FACTS | OPTIONAL | {"metrics": numbers}),
        ("a language", FACTS | {"language": ["zh"], "library_name": "diffusers"}),
    ):
        with at(name):
            compare(front(student, facts), oracle(front, facts), "the front matter")


@check("12.4", weight=2)
def test_hard_values(student, oracle, rng):
    """Values that plain YAML would read as something else stay what they are; a tag that stands twice is kept once."""
    facts = FACTS | {"license": "no", "base_model": 'A: "b" # c', "library_name": "1.0", "metrics": {"p(y|x)": 0.5, "f1": 0.25}}
    facts["tags"] = ["z", "a", "on", "z", "Z", "two words", "\u8bc4\u8bba", "a"]
    compare(front(student, facts), oracle(front, facts), "the front matter")


@check("12.4", weight=3, gate=True)
def test_metrics_table(student, oracle, rng):
    """Under Evaluation a table has a row for each metric, in order, with three digits, "|" escaped."""
    for metrics in ({"f1": rng.uniform()}, {"p(y|x)": rng.uniform(), "accuracy": 0.0, "|a|": -rng.uniform(2, 9)}):
        with at(f"the metrics {list(metrics)}"):
            facts = FACTS | {"metrics": metrics}
            compare_rows(body(student, facts)[1], oracle(body, facts)[1])


@check("12.4", weight=2)
def test_body(student, oracle, rng):
    """The name and the four sections, in order; each fact in a line of its own, and MISSING for what is not given."""
    for name, facts in (
        ("the required facts", FACTS),
        ("all facts", FACTS | OPTIONAL),
        ("no training_data", FACTS | {"intended_use": "  Sorting mail. "}),
        ("bars and spaces in the texts", FACTS | {"intended_use": "To rank  p(y|x).", "limitations": "Only a|b,  no more."}),
        (
            "long texts",
            FACTS
            | {"training_data": " ".join(9 * [OPTIONAL["training_data"]]), "limitations": " ".join(9 * [FACTS["limitations"]])},
        ),
    ):
        with at(name):
            parts, want = body(student, facts)[0], oracle(body, facts)[0]
            equal(parts[""], want[""], "the list of headings")
            missing = "[More Information Needed]"
            for heading in PROSE:
                lines = [line.strip() for line in parts[heading]]
                seen = [line for line in want[heading] if line in lines], sum(missing in line for line in lines)
                student.note(seen)
                equal(seen[0], want[heading], f"what is under {heading}, of what is expected,")
                equal(seen[1], want[heading].count(missing), f"how often {missing} stands under {heading}")


@check("12.4", weight=1)
def test_empty_is_not_given(student, oracle, rng):
    """An optional fact that is None, empty or only whitespace is as if it were not given."""
    facts = FACTS | {"datasets": [], "language": None, "intended_use": "  ", "training_data": ""}
    compare(front(student, facts), oracle(front, facts), "the front matter")
    parts, want = body(student, facts)[0], oracle(body, facts)[0]
    for heading in PROSE[:2]:
        found = want[heading][0] in parts[heading]
        student.note(found)
        demand(found, f"{heading} of what is not given\n  expected: {want[heading]}\n  got: {show(parts[heading])}")


@check("12.4", weight=2)
def test_refused_facts(student, oracle, rng):
    """A required fact that is missing or empty, an unknown key, a metric that is not finite: ValueError."""
    empty: dict[str, Any] = dict.fromkeys(FACTS, " ") | {"tags": [], "metrics": {}}
    cases: list[tuple[str, dict[str, Any]]] = []
    for key in FACTS:
        cases.append((f"no {key}", {name: fact for name, fact in FACTS.items() if name != key}))
        cases.append((f"{key} None", FACTS | {key: None}))
        cases.append((f"{key} empty", FACTS | {key: empty[key]}))
    cases.append(("a key licence", FACTS | {"licence": "mit"}))
    cases.append(("a metric that is NaN", FACTS | {"metrics": {"f1": 0.5, "loss": float("nan")}}))
    cases.append(("a metric that is infinite", FACTS | {"metrics": {"perplexity": float("inf")}}))
    for name, facts in cases:
        with at(name):
            student.raises("ValueError", act=lambda facts=facts: student.model_card(facts))


@check("12.4", weight=1, tier="advanced")
def test_facts_untouched(student, oracle, rng):
    """model_card does not change the facts."""
    facts = FACTS | {"tags": ["z", "a", "z"], "language": None}
    kept = student.build("held", value=facts)
    student.model_card(kept)
    compare(student.probe("week12.given", kept), facts, "the facts after the call")


# --- task 12.5 ---


def adjusted(lib: Session, p_values: list[float]) -> Any:
    return lib.probe("week12.given", lib.holm(p_values))


@check("12.5", weight=3, gate=True)
def test_holm(student, oracle, rng):
    """The k-th smallest of m is multiplied by m - k + 1, is at least the ones before it and at most 1, and keeps its place."""
    for p_values in ([0.03], [0.04, 0.01], [0.01, 0.04, 0.03, 0.005], [0.2, 0.2, 0.011], [0.9, 0.5, 0.0, 1.0], []):
        with at(f"p_values={p_values}"):
            compare(adjusted(student, p_values), oracle(adjusted, p_values), "the result")
    for m in (3, 6):
        p_values = (0.15 * rng.random(m)).tolist()
        with at(f"{m} p-values"):
            compare(adjusted(student, p_values), oracle(adjusted, p_values), "the result")


@check("12.5", weight=1)
def test_no_p_values(student, oracle, rng):
    """A number that is not from 0 to 1 is a ValueError."""
    for p_values in ([0.1, 1.2], [-0.01], [0.2, float("nan")]):
        with at(f"p_values={p_values}"):
            student.raises("ValueError", act=lambda p=p_values: student.holm(p))


@check("12.5", weight=1)
def test_list_untouched(student, oracle, rng):
    """holm leaves the list of p-values as it is."""
    values = [0.04, 0.01, 0.3]
    kept = student.build("held", value=values)
    student.holm(kept)
    compare(student.probe("week12.given", kept), values, "the list after the call")
