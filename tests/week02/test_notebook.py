"""What the lab of week 2 says, held against the numbers of its run. Margins were chosen on four seeds."""

from __future__ import annotations

from typing import Any

import pytest


def test_the_spectrum_decides_what_rank_8_of_10_costs(records: dict[str, dict[str, Any]]) -> None:
    errors = records["rank10"]["errors"]
    assert errors["two Gaussian factors"][4] == pytest.approx(0.3995, abs=5e-5)
    assert errors["singular values halve"][4] < 0.01
    assert all(error[5] < 1e-6 for error in errors.values())


def test_descent_ends_on_the_truncation_for_uncorrelated_inputs_only(records: dict[str, dict[str, Any]]) -> None:
    plain, correlated = records["uncorrelated inputs"], records["correlated inputs"]
    assert plain["last"] == pytest.approx(plain["of_svd"], rel=1e-3)
    assert correlated["last"] < 0.6 * correlated["of_svd"]


def test_updates_are_nearer_to_low_rank_than_weights_and_it_depends_on_the_task(records: dict[str, dict[str, Any]]) -> None:
    spectrum = records["updates"]["spectrum"]
    eight = [spectrum[name][3] for name in ("update, stars", "update, pirate", "weights before")]
    assert eight == pytest.approx([0.32, 0.51, 0.62], abs=0.08)
    four = [spectrum[name][2] for name in ("update, stars", "update, pirate", "weights before")]
    assert four[0] < four[1] - 0.08 and four[1] < four[2] - 0.05


def test_what_a_truncation_costs_depends_on_the_task(records: dict[str, dict[str, Any]]) -> None:
    kept, full = records["updates"]["kept"], records["updates"]["full"]
    assert full["stars"] > 0.5 and full["pirate"] > 0.3
    assert kept["stars"][2] > 0.75 and kept["stars"][3] > 0.88  # ranks 4 and 8
    assert kept["pirate"][0] < 0.05 and kept["pirate"][2] < 0.35
    assert 0.25 < kept["pirate"][3] < 0.8


def test_adapters_share_the_top_direction_and_little_else(records: dict[str, dict[str, Any]]) -> None:
    similarity = records["similarity"]
    assert similarity["width"] == 256
    for pair in ("two seeds, same rank", "two ranks"):
        phi = similarity[pair]
        assert 0.3 < phi[0][0] < 0.9
        assert 8 / 256 < phi[7][7] < 0.25
    assert max(map(max, similarity["two Gaussian matrices"])) < 0.15


def test_pretraining_lowers_the_intrinsic_dimension_and_not_the_accuracy(records: dict[str, dict[str, Any]]) -> None:
    run = records["intrinsic"]
    d90 = run["d90"]
    assert d90["pretrained"] <= 36 and d90["pretrained, dense P"] <= 36 and d90["random start"] >= 100
    mean = {name: sum(values) / len(values) for name, values in run["full"].items()}
    assert abs(mean["pretrained"] - mean["random start"]) < 0.02
    assert 0.7 < sum(run["untouched"]) / len(run["untouched"]) < 0.84


def test_the_kronecker_subspace_does_as_well_as_the_dense_one(records: dict[str, dict[str, Any]]) -> None:
    mean = records["intrinsic"]["mean"]
    pairs = zip(mean["pretrained"], mean["pretrained, dense P"], strict=True)
    assert all(abs(kronecker - dense) < 0.05 for kronecker, dense in pairs)
