"""The self-check asks every exercise, and what it says of its experiments is so."""

from __future__ import annotations

from typing import Any

import pytest

from course.labs import selfcheck


def test_every_exercise_is_asked_and_the_references_are_right(records: dict[str, dict[str, Any]]) -> None:
    run = records["selfcheck"]
    assert sum(asked for _, asked in run["counts"].values()) == len(selfcheck.book()["exercise"]) == 17
    assert all(right == asked for right, asked in run["counts"].values())


def test_chebyshevs_bound_holds_and_is_loose(records: dict[str, dict[str, Any]]) -> None:
    bounds, rates = records["projection"]["bounds"], records["projection"]["rates"]
    assert all(rate <= bound for rate, bound in zip(rates, bounds, strict=True))
    assert bounds[3] == pytest.approx(0.5) and 0.08 < rates[3] < 0.25  # k = 100: two standard deviations of 0.14 are about 0.16
    assert bounds[6] == pytest.approx(0.05) and rates[6] == 0


def test_adam_does_not_mind_a_narrow_valley_and_descent_does(records: dict[str, dict[str, Any]]) -> None:
    wide, narrow = records["round valley, c = 1"], records["narrow valley, c = 100"]
    assert wide["gradient descent"] < 1e-20 < 1e-12 < wide["Adam"]
    assert narrow["gradient descent"] > 1e-3
    assert max(wide["Adam"], narrow["Adam"]) < 0.01 * narrow["gradient descent"]


def test_outliers_ask_for_small_blocks(records: dict[str, dict[str, Any]]) -> None:
    blocks = records["blocks"]
    plain, spiked = blocks["no outliers"], blocks["1 in 1000 is 50 times as large"]
    assert plain[-1] < 3 * plain[0]
    assert spiked[-1] > 8 * spiked[0]
