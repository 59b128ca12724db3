"""What the lab of week 12 says of its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def test_five_seeds_can_never_be_significant_and_six_can(records: dict[str, dict[str, Any]]) -> None:
    least = dict(zip(records["least"]["n"], records["least"]["p"], strict=True))
    assert least[5] > 0.05 > least[6]
    assert all(p == pytest.approx(2 / 2**n) for n, p in least.items())


def test_twenty_comparisons_find_something_where_nothing_is_and_holm_does_not(records: dict[str, dict[str, Any]]) -> None:
    found = records["nothing"]
    assert 0.03 < found["single"] < 0.07
    assert found["found"] > 0.5
    assert found["corrected"] < 0.1


def test_looking_after_each_seed_finds_more_than_looking_once(records: dict[str, dict[str, Any]]) -> None:
    once, stopped = records["peeking"]["once"], records["peeking"]["stopped"]
    assert max(once) < 0.075
    assert stopped[-1] > once[-1] + 0.02


def test_power_is_nothing_up_to_five_seeds_and_eighty_percent_for_one_sigma_needs_about_ten(
    records: dict[str, dict[str, Any]],
) -> None:
    counts, found = records["power"]["counts"], records["power"]
    for name in ("effect_0.5", "effect_1.0", "effect_2.0"):
        assert found[name][: counts.index(5) + 1] == [0, 0]
    assert found["effect_2.0"][counts.index(6)] > 0.8
    assert found["effect_1.0"][counts.index(8)] < 0.75 < found["effect_1.0"][counts.index(12)]
    assert found["effect_0.5"][counts.index(12)] < 0.5


def test_intervals_from_few_values_are_too_narrow(records: dict[str, dict[str, Any]]) -> None:
    coverage = dict(zip(records["coverage"]["n"], records["coverage"]["share"], strict=True))
    assert coverage[4] < 0.89 and coverage[7] < 0.91
    assert coverage[50] > 0.9


def test_more_rank_is_better_on_slanted_digits_and_worse_on_plain_ones(records: dict[str, dict[str, Any]]) -> None:
    mean = {name: np.mean(values) for name, values in records["experiment"].items() if " rank " in name}
    before = records["experiment"]["before"]
    assert mean["slanted rank 8"] > mean["slanted rank 1"] + 0.01
    assert mean["plain rank 8"] < mean["plain rank 1"] - 0.03
    assert min(mean[f"slanted rank {rank}"] for rank in (1, 2, 8)) > before["slanted"] + 0.2
    assert mean["plain rank 8"] < before["plain"] - 0.1


def test_after_correction_nothing_is_left(records: dict[str, dict[str, Any]]) -> None:
    found = records["comparisons"]
    assert min(found["p"]) <= 0.05 < min(found["adjusted"])
