"""What week 4's lab says, against the numbers of its run."""

from __future__ import annotations

import pytest


def test_wrapping_by_hand_keeps_the_function_and_leaves_most_of_the_model_trainable(records):
    wrap = records["wrap"]
    assert wrap["moved"] == 0
    assert wrap["by_hand"] > 50
    assert wrap["automatic"] < 2 and wrap["count"] == wrap["wanted"]


def test_the_layer_learns_what_pefts_does(records):
    run = records["peft"]
    assert run["last"] < 0.1 * run["first"]
    assert run["loss_apart"] < 0.02 * run["last"]
    assert run["logits_apart"] < 0.05
    assert run["exact_match"] > 0.3


def test_merging_keeps_the_function_and_unmerging_does_not_restore_every_bit(records):
    merge = records["merge"]
    assert 0 < merge["logits_apart"] < 1e-3
    assert 0.01 < merge["changed"] < 0.5
    assert 0 < merge["error"] < 4 * merge["eps"]


def test_checkpointing_saves_more_the_deeper_the_model_and_changes_no_gradient(records):
    peaks = records["checkpointing"]
    gains = [kept / again for kept, again in zip(peaks["all_kept"], peaks["checkpointed"], strict=True)]
    assert gains == sorted(gains) and gains[0] > 1.2 and gains[-1] > 4
    a_block = [
        (peak[-1] - peak[0]) / (peaks["blocks"][-1] - peaks["blocks"][0]) for peak in (peaks["all_kept"], peaks["checkpointed"])
    ]
    assert a_block[0] > 8 * a_block[1]
    gradients = records["gradients"]
    assert gradients["apart"] <= 1e-6 * gradients["largest"]
    assert 1.2 < gradients["operations"] < 2


def test_growing_keeps_the_loss_and_then_lowers_it(records):
    growing = records["growing"]
    assert growing["after"] == pytest.approx(growing["before"], rel=1e-3)
    assert growing["wrong"] > growing["before"] + 2
    assert growing["large"] < growing["grown"] < growing["small"]


def test_the_best_approximation_beats_the_first_columns(records):
    shrinking = records["shrinking"]
    assert shrinking["ranks"] == [1, 2, 4, 8]
    for best, first in zip(shrinking["best"][:-1], shrinking["first"][:-1], strict=True):
        assert best < 0.9 * first
    assert shrinking["best"][2] < shrinking["best"][3] + 0.15  # "down to about half the rank"
    assert shrinking["best"][0] > shrinking["best"][3] + 0.5


def test_the_advantage_of_lora_plus_vanishes_once_the_rate_is_tuned(records):
    plain, plus = records["plus"]["plain"], records["plus"]["plus"]
    assert plain[0] > plus[0] + 1
    assert abs(min(plain) - min(plus)) < 0.1
    assert plus.index(min(plus)) < plain.index(min(plain))
    assert plus[3] > plain[3] + 0.3  # it fails at rates at which LoRA still learns
