"""What the lab of week 1 says, held against the numbers of its run."""

from __future__ import annotations

from typing import Any

import pytest


def test_what_fits_into_80_gb(records: dict[str, dict[str, Any]]) -> None:
    tables = records["tables"]
    fits = {
        recipe: {name for name, table in tables.items() if table[recipe]["total"] <= 80} for recipe in ("full", "LoRA", "QLoRA")
    }
    assert fits == {
        "full": set(),
        "LoRA": {"Llama-2-7B", "Llama-2-13B"},
        "QLoRA": {"Llama-2-7B", "Llama-2-13B", "Llama-2-70B"},
    }
    assert tables["Llama-2-7B"]["full"]["total"] == pytest.approx(107.8, abs=0.05)


def test_the_share_falls_with_the_model(records: dict[str, dict[str, Any]]) -> None:
    assert len(records["share"]) == 2
    for shares in records["share"].values():
        assert shares == sorted(shares, reverse=True) and shares[0] > 2 * shares[-1]


def test_families(records: dict[str, dict[str, Any]]) -> None:
    families = records["families"]
    assert families["biases (BitFit)"] == 0
    assert max(families, key=lambda method: families[method]) == "last block"
    assert min(families, key=lambda method: families[method] or 10**12) == "prompt, 20 tokens"
    assert families["LoRA r=16, all linear"] == 39976960


def test_a_lora_step_takes_two_thirds_of_the_operations(records: dict[str, dict[str, Any]]) -> None:
    counted = records["operations"]
    assert counted["lora"] / counted["full"] == pytest.approx(0.68, abs=0.02)
    assert counted["full"] == pytest.approx(counted["rule"], rel=0.01)


def test_the_students_energy_is_codecarbons(records: dict[str, dict[str, Any]]) -> None:
    energy = records["energy"]
    assert energy["codecarbon"][0] > 0
    assert energy["own"] == pytest.approx(energy["codecarbon"], rel=0.01)
    assert energy["losses"][1] < 0.2 * energy["losses"][0]


def test_place_and_kind_of_run_matter(records: dict[str, dict[str, Any]]) -> None:
    grams = records["grams"]
    assert 6 < grams["POL"] / grams["FRA"] < 20  # yearly averages change
    assert records["kwh"]["pretraining"] / records["kwh"]["fine_tuning"] > 2000
