"""Week 12: an experiment that can be repeated, an honest comparison, a report and a model card.

Complete the tasks below; `autograder check 12` tells how far you are. The docstrings are the contract: the checks use
the names, keys and errors that stand there and nothing else, so everything else is yours to choose. Each task can be
done alone. The file is the scaffold of your final project: put your own data, model and metrics into its configuration.

No texts but those named here are asked for word by word. Where something is compared with a table, a table is Markdown's:
the header's row, a delimiter row such as |---|---| and the other rows follow each other, each a line that begins and
ends with "|"; spaces around a cell do not count. Numbers have three digits after the point, as f"{x:.3f}" writes them.

Task   points  minutes  difficulty  importance (both from 1 to 5)
12.1       25       50           3           5
12.2       20       45           3           5
12.3       15       35           2           4
12.4       10       20           2           3
12.5  stretch       15           2           3
"""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

import numpy as np
import torch

CAVEAT = "Inconclusive does not mean equal."
MISSING = "[More Information Needed]"


def run_experiment(config: dict[str, Any]) -> dict[str, Any]:
    """Task 12.1: run one experiment once for every seed, so that anybody who has the configuration gets the same numbers.

    The configuration is a dict with exactly these keys:

    - "seeds": a list of ints from 0 to 2**32 - 1, at least one, each once;
    - "data": a callable; data() makes the data;
    - "model": a callable; model(data, **options) makes a model from the data and trains it;
    - "options": a dict from str to plain data (numbers, strings, lists, dicts);
    - "metrics": a dict, at least one entry, from a name to a callable; metric(model, data) is a number, or a tensor or
      array with one element.

    For every seed, in the order of the list: seed the global generators of Python's random, of NumPy (np.random) and of
    torch (on the CPU) with it; then call data once, model once on what data made, and every metric once, in the order of
    the dict, all on the same data and model. All seeding comes before data is called, and nothing is seeded again or drawn
    by you in between, so that a number depends on its seed and not on the seeds before it. The model gets a fresh deep copy
    of the options each time: what it changes in them reaches neither the configuration, nor the result, nor the next run.

    When run_experiment returns, and also when a callable raises (the exception is passed on), the three generators are
    in the state in which they were when it was called, as if nothing had been drawn.

    Args:
        config: as above. It is not changed.

    Returns:
        A dict with the keys

        - "options": the options, equal to those of the configuration;
        - "runs": a list with a dict for each seed, in the order of the seeds: {"seed": the seed, "metrics": a dict from
          each metric's name to its value, a float};
        - "summary": a dict from each metric's name to {"n": the number of seeds, "mean": the mean of its values, "std":
          their standard deviation with n - 1 in the denominator, sqrt(sum_i (x_i - mean)^2 / (n - 1))}; "std" is None
          for one seed, whose spread is not known.

    Raises:
        ValueError: if a key is missing or there is another one, if there are no seeds or one stands twice, or if there
            are no metrics: before any callable is called. Also if a metric's value is NaN or infinite.
    """
    raise NotImplementedError("Week 12, task 1: run_experiment")


def paired_test(a: np.ndarray, b: np.ndarray, signs: np.ndarray | None = None) -> dict[str, Any]:
    """Task 12.2: a two-sided sign-flip (permutation) test of two systems that were scored on the same items.

    d_i = a_i - b_i. If the systems do not differ, each d_i might as well have the other sign. The statistic is the absolute
    value of the mean; a vector s of signs, each +1 or -1, is *as extreme* as what was seen if

        |sum_i s_i d_i| >= |sum_i d_i| - 1e-9 sum_i |d_i|,

    so that a tie counts, also one that rounding hides (any tolerance from 1e-12 to 1e-8 of sum_i |d_i| will do).

    - Without `signs` the test is exact: p is the share of all 2^n vectors of signs that are as extreme, that of
      nothing but +1 included.
    - With `signs`, m vectors that were drawn at random, p = (1 + the number of them that are as extreme) / (1 + m): what
      was seen counts as one of them, so p is never 0.

    Items with d_i = 0 stay in: they count in n and in the mean.

    Source: Fisher, "The Design of Experiments", 1935, section 21; Phipson and Smyth, "Permutation p-values should never be
    zero", Statistical Applications in Genetics and Molecular Biology 9 (1), 2010, for the + 1.

    Args:
        a, b: scores of the two systems on the same n items, in the same order, float64, shape (n,).
        signs: None, or an array of +1 and -1 (ints or floats), shape (m, n), m at least 1.

    Returns:
        A dict {"n": n, "difference": the mean of d, "p": p}: an int and two floats.

    Raises:
        ValueError: if a and b have not one shape (n,) with n at least 1, if a score is NaN or infinite, if n is greater
            than 16 without `signs` (there are 65,536 vectors for 16), or if `signs` is not of shape (m, n).
    """
    raise NotImplementedError("Week 12, task 2: paired_test")


def bootstrap_ci(values: np.ndarray, indices: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Task 12.2: a confidence interval for the mean by the percentile bootstrap, from resamples that are given.

    For a comparison of two systems the values are the differences of their scores, item by item, so that pairs stay
    together. Row k of `indices` is a resample: the mean of values[indices[k, 0]], values[indices[k, 1]], ... The interval
    goes from the quantile (1 - level) / 2 of these means to the quantile (1 + level) / 2, a quantile between two sorted
    means interpolated linearly: the quantile q of m sorted means stands at the place q (m - 1), counted from 0 (NumPy's
    default). Week 6 draws its resamples from a seed; here they are given, so that an interval can be computed again.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3.

    Args:
        values: float64, shape (n,), finite.
        indices: ints from 0 to n - 1, shape (m, n), m at least 1.
        level: 0 < level < 1.

    Returns:
        The interval's lower and upper end, floats.

    Raises:
        ValueError: if there are no values, indices is not of shape (m, n), or level is out of its range.
    """
    raise NotImplementedError("Week 12, task 2: bootstrap_ci")


def render_report(report: dict[str, Any]) -> str:
    """Task 12.3: the report of an experiment in Markdown, which claims no more than its intervals show.

    `report` is a dict with the keys

    - "title", "question", "cost": str;
    - "level": the confidence level of all intervals, 0.95 for 95 %;
    - "results": a list, at least one entry, of dicts with "system" and "metric" (str), "mean" (float), "low" and "high"
      (the interval's ends, floats, or both None if there is no interval) and "n" (int);
    - "comparisons": a list of dicts with "first", "second" and "metric" (str), "difference" (float: first minus second), "low"
      and "high" (as above, of the difference), "p" (float) and "n" (int);
    - "limitations": a list of str, at least one entry.

    The report's first line is "# " and the title. Then these five sections, in this order, each under a heading of its own
    line; there are no other lines that begin with "#":

    - "## Question": the question.
    - "## Results": a table with the header cells system, metric, mean, interval, n and a row for each result, in the given
      order; and, outside of the table, the level as a percentage: f"{100 * level:g} %".
    - "## Comparisons": if there are comparisons, a table with the header cells first, second, metric, difference,
      interval, p, n, verdict and a row for each, in the given order. If there are none, no table.
    - "## Limitations": each limitation as a line that is "- " and its text, in the given order.
    - "## Cost": the cost.

    Cells: an interval is f"[{low:.3f}, {high:.3f}]", or "unknown" if there is none. p is f"{p:.3f}", or "<0.001" if p is
    smaller than 0.001. The verdict is "first higher" if the whole interval is above 0, "second higher" if it is below 0,
    and "inconclusive" if it contains 0 (an end that is 0 does) or is not known, whatever p is. "higher" and not "better":
    whether higher is better depends on the metric. If a verdict is inconclusive, the section "## Comparisons" has CAVEAT
    as a line of its own, once, outside of the table; otherwise CAVEAT does not occur in the report.

    Texts come from people: in each of them every run of whitespace (line breaks too) becomes one space, and none is left
    at the ends. In a cell of a table, "|" is written with one backslash before it; elsewhere it stays. No text holds a
    backslash, and none begins with "#" or "|". What else a section says is yours, in lines that do not begin
    with "#", "|" or "-", and there may be empty lines anywhere but inside a table.

    Args:
        report: as above. It is not changed.

    Returns:
        The report, lines separated by newlines.

    Raises:
        ValueError: if there are no results or no limitations, if the title, the question, the cost or a limitation is
            empty or only whitespace, or if one of an interval's ends is None and the other is not.
    """
    raise NotImplementedError("Week 12, task 3: render_report")


def model_card(facts: dict[str, Any]) -> str:
    """Task 12.4: a model card as the Hugging Face Hub reads it: metadata in front, then text. It invents nothing.

    The facts, a dict:

    - "name", "license", "base_model", "library_name", "limitations": str, required;
    - "tags": a list of str, required;
    - "metrics": a dict from a metric's name to its value (a float), required;
    - "datasets", "language": lists of str, optional;
    - "intended_use", "training_data": str, optional.

    An optional fact that is None, an empty list, or empty or only whitespace, is treated as if it were not given.

    The card begins with the front matter: a line "---", then lines "key: value", then a line "---" again. The keys are
    license, base_model, library_name, tags, metrics and, if they are given, datasets and language; each once, in any order,
    and no others. Every value is written as JSON in that one line (JSON is YAML, and a license "no" stays a string): a
    string for license, base_model and library_name, a list of strings for the others. Its value is the fact; for metrics
    the list of the names, in the order of the dict. Of a tag that stands twice in "tags" the first is kept; none is added.

    Below it, in this order: the heading "# " and the name; then the headings, each a line of its own, "## Intended use",
    "## Training data", "## Evaluation" and "## Limitations", and no other line that begins with "#". Under "Intended use",
    "Training data" and "Limitations" stands the fact, in one line of its own and as it was given; if it is not given, MISSING
    in a line of its own, and MISSING occurs nowhere else. Under "Evaluation" stands a table with the header cells metric,
    value and a row for each metric, in the order of the dict, "|" in a name written with one backslash before it.

    No text has line breaks or backslashes in it, or begins with "#" or "|"; whether whitespace at the ends of a text is kept
    is yours. What else a section says is yours, in lines that do not begin with "#" or "|", and there may be empty lines
    anywhere below the front matter but inside the table.

    Source: Mitchell et al., "Model Cards for Model Reporting", arXiv:1810.03993; the metadata's names are those of the
    Hub's documentation, https://huggingface.co/docs/hub/model-cards.

    Args:
        facts: as above. It is not changed.

    Returns:
        The card, lines separated by newlines.

    Raises:
        ValueError: if a required fact is missing, None, an empty list or dict, or empty or only whitespace; if there is a key
            that is not named above; or if a metric's value is NaN or infinite.
    """
    raise NotImplementedError("Week 12, task 4: model_card")


def holm(p_values: list[float]) -> list[float]:
    """Task 12.5 (stretch): p-values of several comparisons, adjusted by Holm's method.

    With p_(1) <= p_(2) <= ... <= p_(m) in ascending order, the adjusted value of the k-th smallest is

        max over j <= k of min(1, (m - j + 1) p_(j)).

    Rejecting what has an adjusted value of at most 0.05 keeps the probability of one or more false rejections at 0.05,
    whatever the dependence between the comparisons.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6, 1979.

    Args:
        p_values: numbers from 0 to 1, in any order; the list may be empty. It is not changed.

    Returns:
        The adjusted values, a list of floats, each in the place of its p-value.

    Raises:
        ValueError: if a number is not from 0 to 1.
    """
    raise NotImplementedError("Week 12, task 5: holm")

# stub 34b8958e9cf970ee
