"""Week 11: what its notebook claims, on the numbers of a run."""

from __future__ import annotations

from statistics import mean


def own(records: dict) -> list[float]:
    """The score of each adapter alone on its own task."""
    return [records["alone"][f"{task}_alone"][place] for place, task in enumerate(("double", "stars", "sst2"))]


def test_each_adapter_learns_its_task(records: dict) -> None:
    base = records["alone"]["base"]
    assert base[:2] == [0, 0] and base[2] < 0.5  # never seen, and wrong more often than right
    assert all(after > before + 0.15 for before, after in zip(base, own(records), strict=True))


def test_rounding_once_is_what_float16_can_do(records: dict) -> None:
    assert records["rounding"]["rounded_once"] < 0.001
    assert records["rounding"]["rounded_after_each"] > 0.25


def test_what_the_modes_of_peft_compute(records: dict) -> None:
    to_sum, to_ties = ({mode: pair[place] for mode, pair in records["peft"].items()} for place in (0, 1))
    assert to_sum["cat"] < 1e-5 and to_sum["svd"] < 1e-4 and to_ties["ties_svd"] < 1e-4
    assert to_sum["linear"] > 0.3 and to_ties["ties"] > 0.3


def test_no_merge_replaces_three_adapters(records: dict) -> None:
    best = max(mean(scores) for scores in records["merged"].values())
    assert best < mean(own(records)) - 0.15
    assert mean(records["merged"]["half_the_sum"]) > mean(records["merged"]["sum"])


def test_most_of_the_score_lies_in_a_few_directions(records: dict) -> None:
    levels, ranks, kept, kib = (records["compression"][key] for key in ("levels", "ranks", "kept", "kib"))
    at = {level: place for place, level in enumerate(levels)}
    assert ranks == sorted(ranks) and kib == sorted(kib)
    assert ranks[at[0.9]] < 4 and kib[at[0.9]] < kib[-1] / 3 and kept[at[0.9]] > kept[-1] - 0.15
    assert kept[at[0.25]] < kept[-1] - 0.1


def test_the_file_has_no_branches(records: dict) -> None:
    nodes = records["nodes"]
    assert nodes["dropout"] == 0
    assert nodes["products"] == nodes["linears"] + 2 * nodes["layers"]  # attention has two a layer


def test_parity_and_size(records: dict) -> None:
    worst, size = records["parity"]["worst"], records["size"]
    assert worst["ONNX fp32"] < 1e-5 < worst["fp16 weights"] < 5e-3 < worst["ONNX int8"] < 0.3
    assert records["parity"]["agree"]["ONNX fp32"] > 0.98
    assert size["ONNX fp32"] > size["fp16 weights"] > size["ONNX int8"]


def test_the_first_task_is_forgotten_and_remedies_keep_a_part(records: dict) -> None:
    matrices = records["forgetting"]
    assert matrices["no_remedy"][0][0] > 0.7 and max(row[0] for row in matrices["no_remedy"][1:]) < 0.25
    for remedy in ("replay", "EWC"):
        assert mean(matrices[remedy][-1]) > mean(matrices["no_remedy"][-1]) + 0.05
