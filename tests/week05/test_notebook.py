"""What week 5's lab says, against the numbers of its run."""

from __future__ import annotations

import itertools
from statistics import mean

PLAIN, THEIRS, YOURS = "base as it is", "4 bits, bitsandbytes and peft", "4 bits, your QLoRALinear"


def test_codes_differ_from_those_of_bitsandbytes_at_ties_only(records):
    codes = records["codes"]
    assert codes["differ"] < 1e-4 * codes["count"]
    assert codes["farthest"] < 2e-6


def test_nf4_beats_fp4_and_symmetric_int4_and_is_not_optimal(records):
    error = dict(zip(records["errors"]["types"], records["errors"]["N(0,"], strict=True))
    assert error["NF4"] < 0.85 * error["INT4 symmetric"] < 0.85 * error["FP4"]
    assert error["INT4 zero point"] < 0.995 * error["NF4"]
    assert error["INT4 zero point"] > 0.9 * error["NF4"]  # "slightly"
    own = dict(zip(records["errors"]["types"], records["errors"]["first"], strict=True))
    assert own["NF4"] < 0.9 * own["INT4 symmetric"] < 0.9 * own["FP4"]


def test_codes_are_used_more_evenly_than_those_of_int4_but_not_evenly(records):
    used = records["codes used"]
    assert used["entropy"]["INT4 symmetric"] + 0.2 < used["entropy"]["NF4"] < 3.95
    assert used["largest"] > 1.2 / 16 and used["smallest"] < 0.5 / 16


def test_four_bits_train_as_well_as_far_as_this_run_can_see(records):
    tuned = records["tuned"]
    for scores in tuned["rated"].values():
        assert mean(scores) > tuned["untuned"] + 0.5
    scores = [mean(tuned["rated"][name]) for name in (PLAIN, THEIRS, YOURS)]
    assert max(scores) - min(scores) < 0.2
    last = [mean(tuned["loss"][name][-20:]) for name in (PLAIN, THEIRS, YOURS)]
    first = mean(tuned["loss"][PLAIN][:5])
    assert max(last) - min(last) < 0.05 * first


def test_your_layers_store_little_and_keep_much(records):
    memory = records["memory"]
    plain, yours, again, theirs = (memory[kind] for kind in ("float32", "yours", "yours, checkpointed", "bitsandbytes"))
    assert 0.2 < yours["stored"] / plain["stored"] < 0.3
    assert yours["between forward and backward"] > plain["between forward and backward"]
    assert yours["highest"] > 1.1 * plain["highest"]
    assert again["highest"] < 0.7 * plain["highest"] and again["stored"] == yours["stored"]
    assert theirs["stored"] < 0.17 * plain["stored"] and theirs["highest"] < 0.5 * plain["highest"]


def test_the_process_sees_the_same_order(records):
    growth = records["resident"]
    assert growth["yours"] > growth["bitsandbytes"] + 20


def test_dtypes(records):
    traced = records["dtypes"]
    assert traced["codes of W, two in a byte"] == traced["constants of the blocks"] == "uint8"
    assert traced["product W x"] == traced["product A x"] == "bfloat16"
    assert {traced[part] for part in ("constants of the constants", "factor A", "gradient of A", "Adam's moments of A")} == {
        "float32"
    }


def test_states_of_eight_bits_are_for_large_tensors(records):
    for kind in ("AdamW8bit", "PagedAdamW8bit"):
        assert records[f"{kind} 64"]["per_parameter"] == records["AdamW 64"]["per_parameter"] == 8
        assert 2 < records[f"{kind} 512"]["per_parameter"] < 3


def test_better_starts_repair_little_at_a_small_rank(records):
    ranks, left = records["starts"]["ranks"], records["starts"]["left"]
    for shares in left.values():
        assert all(later < earlier < 1 for earlier, later in itertools.pairwise(shares))
    once, often, pissa = (left[name][ranks.index(8)] for name in ("LoftQ, 1 round", "LoftQ, 5 rounds", "PiSSA"))
    assert 0.75 < once < 0.95 and often < once and pissa < often


def test_pissa_falls_faster_and_loftq_does_not(records):
    loss = {name: mean(values[4:14]) for name, values in records["started"]["loss"].items()}
    assert loss["PiSSA"] < 0.6 * loss["default"]
    assert abs(loss["LoftQ, 5 rounds"] - loss["default"]) < 0.2 * loss["default"]
    final = {name: mean(values[-20:]) for name, values in records["started"]["loss"].items()}
    assert max(final.values()) - min(final.values()) < 0.05 * records["started"]["loss"]["default"][0]
    assert min(min(scores) for scores in records["started"]["rated"].values()) > 0.35
