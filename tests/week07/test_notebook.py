"""What the lab of week 7 says of its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def test_one_lora_leaves_what_the_mean_of_two_updates_leaves_and_a_router_nothing(records: dict[str, dict[str, Any]]) -> None:
    found = records["overlap"]
    theory = [(1 - overlap) / 2 for overlap in found["overlaps"]]
    assert found["lora"] == pytest.approx(theory, abs=0.05)
    assert max(found["hydra"]) < 0.1


def test_a_router_helps_with_named_opposite_tasks_only(records: dict[str, dict[str, Any]]) -> None:
    found = {name: np.array(values) for name, values in records["settings"].items()}
    named, unnamed, separate = range(3)
    assert found["hydra"][named].max() < 0.1 < 0.9 < found["lora"][named].min()
    assert found["unrouted"][named].min() > 0.9
    assert all(values[unnamed].min() > 0.9 for values in found.values())
    assert all(values[separate].max() < 0.05 for values in found.values())


def test_a_small_error_does_not_say_that_the_router_found_the_tasks(records: dict[str, dict[str, Any]]) -> None:
    found = records["routers"]
    assert max(found["left"]) < 0.1
    assert min(found["separation"]) < 0.3 and max(found["separation"]) > 0.8
    values = sorted(np.ravel(found["by_route"]))
    assert values[1] < 0.1 and values[2:] == pytest.approx([4, 4], abs=0.6)


def test_a_mixed_batch_serves_both_tasks_from_a_small_store(records: dict[str, dict[str, Any]]) -> None:
    assert records["mixed"]["left"] < 0.01
    assert records["storage"]["merged"] > 5 * records["storage"]["adapters"]


def test_randlora_comes_closer_on_the_flat_spectrum_only(records: dict[str, dict[str, Any]]) -> None:
    found = {name: np.array(records["spectra"][name]) for name in ("lora", "randlora", "optimum")}
    closer = found["lora"].mean(1) - found["randlora"].mean(1)
    assert closer[0] > 0.04 and closer[1] < -0.005 and (closer[2:] < -0.3).all()
    assert found["lora"].mean(1) == pytest.approx(found["optimum"], abs=0.02)
    assert np.ptp(found["randlora"].mean(1)) < 0.15  # about as much of every target


def test_dora_and_lora_each_win_on_the_update_that_they_are_shaped_for(records: dict[str, dict[str, Any]]) -> None:
    rows, columns, low_rank = (
        {name: np.mean(records["dora"][name][kind]) for name in ("lora", "dora")} for kind in range(3)
    )  # fmt: skip
    assert rows["dora"] < 0.05 < 0.8 < rows["lora"]
    assert min(columns.values()) > 0.8
    assert low_rank["lora"] < 0.05 < 0.4 < low_rank["dora"]


def test_the_same_configuration_has_moved_by_more_than_a_standard_error(records: dict[str, dict[str, Any]]) -> None:
    assert records["history"]["largest"] > 2 * records["history"]["error"]


def test_in_a_transformer_lora_can_serve_both_customers_and_seeds_differ_more_than_methods(
    records: dict[str, dict[str, Any]],
) -> None:
    found = records["customers"]
    assert found["base"] == pytest.approx(0.5, abs=0.1)
    assert max(found["LoRA"]) > 0.75
    spread = max(np.ptp(found[name]) for name in ("LoRA", "HydraLoRA"))
    assert spread > 0.2 and spread > abs(np.mean(found["LoRA"]) - np.mean(found["HydraLoRA"]))


def test_qr_lora_strengthens_what_is_there_and_learns_nothing_else(records: dict[str, dict[str, Any]]) -> None:
    assert records["qr half of W0 QR-LoRA"]["missed"] < 0.01 < 0.8 < records["qr half of W0 LoRA"]["missed"]
    assert records["qr rank 2 LoRA"]["missed"] < 0.01 < 0.9 < records["qr rank 2 QR-LoRA"]["missed"]
