"""What week 6's lab says, against the numbers of its run."""

from __future__ import annotations

import itertools
from statistics import mean

import pytest


def test_perplexity_does_not_depend_on_batches_but_a_mean_of_perplexities_does(records):
    together, averaged = records["batching"]["together"], records["batching"]["averaged"]
    assert max(together) - min(together) < 1e-4
    assert averaged[0] > 1.05 * together[0]
    assert averaged[-1] == pytest.approx(together[-1])  # one batch


def test_a_few_tokens_of_overlap_bring_most_of_the_gain(records):
    values, windows = records["strides"]["perplexity"], records["strides"]["windows"]
    assert values[-1] > 1.25 * values[0]
    assert max(values[:-2]) < 1.1 * min(values[:-2])
    assert windows == sorted(windows, reverse=True) and windows[0] > 10 * windows[-1]


def test_without_the_end_the_loss_is_lowest_and_nothing_stops(records):
    losses, scores = records["labels"]["losses"], records["labels"]["scores"]
    assert losses["no end"] < 0.02 < losses["right"] < losses["prompt too"]
    assert max(scores["no end"]["stops by itself"]) < 0.1
    assert max(scores["no end"]["right, letter by letter"]) < 0.1
    assert min(scores["right"]["stops by itself"]) > 0.95
    perplexity = {name: mean(row["perplexity of the right replies"]) for name, row in scores.items()}
    assert perplexity["no end"] > 10 * perplexity["right"]


def test_with_the_prompt_fewer_replies_are_right(records):
    scores = records["labels"]["scores"]
    right, prompt = (mean(scores[name]["right, letter by letter"]) for name in ("right", "prompt too"))
    assert right > 0.7 and prompt < right - 0.05
    assert min(scores["prompt too"]["stops by itself"]) > 0.8


def test_the_normalised_match_says_that_all_are_right(records):
    for row in records["labels"]["scores"].values():
        assert min(row["your exact_match"]) > 0.85


def test_it_forgets_and_the_update_can_be_taken_away(records):
    perplexity = records["forgetting"]
    assert perplexity["tuned"] > 1.04 * perplexity["base"]
    assert perplexity["tuned, adapter off"] == pytest.approx(perplexity["base"], rel=1e-5)
    base, tuned = records["tasks"]["base"], records["tasks"]["tuned"]
    assert tuned["stars"] > base["stars"] + 0.5
    assert all(tuned[task] < base[task] - 0.3 for task in ("capital", "opposite", "chinese"))


def test_one_order_alone_decides_much(records):
    a_first, b_first, both = (
        records["judged"][name] for name in ("only with A first", "only with B first", "both orders (your score)")
    )
    assert a_first["overall"]["win_rate"] > both["overall"]["win_rate"] + 0.05
    assert b_first["overall"]["win_rate"] < both["overall"]["win_rate"] - 0.05
    assert both["overall"]["high"] < 0.6
    assert both["stars"]["win_rate"] > 0.8
    assert both["opposite"]["win_rate"] < 0.3 and both["capital"]["win_rate"] < 0.45
    for report in records["judged"].values():
        assert all(row["low"] <= row["win_rate"] <= row["high"] for row in report.values())


def test_the_evaluation_uses_less_energy_than_the_training(records):
    assert 0 < records["energy"]["evaluation"] < records["energy"]["training"] < 0.01  # kWh


def test_merging_loses_small_updates(records):
    """The shares that the lecture has; the entries are drawn by NumPy and rounded exactly, so they hardly vary."""
    lost = records["merge"]["lost"]
    assert lost["bfloat16"][1:3] == pytest.approx([0.88, 0.32], abs=0.01)
    assert lost["float16"][1:3] == pytest.approx([0.39, 0.045], abs=0.005)
    assert all(later < earlier for row in lost.values() for earlier, later in itertools.pairwise(row))


def test_the_large_update_of_this_adapter_survives(records):
    merged = records["merged"]
    assert merged["typical"] > 1e-3
    assert merged["lost"]["float16"] < merged["lost"]["bfloat16"] < 0.05
    assert abs(merged["after"] - merged["beside"]) < 0.06
