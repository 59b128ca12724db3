"""Prints the numbers of the worked examples in this folder's lecture notes.

    python course/week12/figures.py

Each line is an equation that stands in the section named above it, letter for letter, in both languages.
"""

import itertools

import numpy as np

from course.labs.worked import run, say, show


def experiment() -> None:
    """Three seeds, two denominators."""
    x = np.array([0.8, 0.83, 0.77])
    say("x", x)
    say(r"\bar x", x.mean())
    say("s", x.std(ddof=1))
    say("s_n", x.std())


def comparison() -> None:
    """An exact sign-flip test of five differences, and one bootstrap interval of three values."""
    d = np.array([3, 1, 2, 4, -1])
    sums = np.array([np.dot(signs, d) for signs in itertools.product((1, -1), repeat=len(d))])
    count = int((abs(sums) >= abs(d.sum())).sum())
    say("d", d)
    say(r"\sum_i d_i", d.sum())
    print(f"2^{{{len(d)}}} = {len(sums)}")
    print(f"p = {count} / {len(sums)} = {show(count / len(sums))}")
    print(f"p_{{\\min}} = 2 / {len(sums)} = {show(2 / len(sums))}")
    means = np.array([1, 4, 2, 3, 6])
    say(r"\bar x^*", means)
    low, high = np.quantile(means, [0.1, 0.9])
    say(r"\ell", 0.8)
    say("I", [low, high])


def report() -> None:
    """Two comparisons with the same difference."""
    say(r"\Delta", 0.02)
    say("I_1", [-0.01, 0.05])
    say("I_2", [0.005, 0.035])


def holm() -> None:
    """Four p-values, adjusted."""
    p = np.array([0.005, 0.01, 0.03, 0.04])
    factors = np.arange(len(p), 0, -1)
    say("p", p)
    say("m", len(p))
    say("f", factors)
    say("f p", factors * p)
    say(r"\tilde p", np.maximum.accumulate((factors * p).clip(max=1)))


if __name__ == "__main__":
    run(run_experiment=experiment, paired_comparison=comparison, report=report, holm=holm)
