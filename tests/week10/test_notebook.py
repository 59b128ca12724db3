"""What week 10's lab claims, on the numbers of its run. Margins: shifted seeds 0, 100 and 200."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autograder.judge import answers
from autograder.manifest import Course
from course.labs import vetting
from tests.conftest import ROOT
from tests.loading import load


def test_the_adapter_is_worth_having(records: dict[str, dict[str, Any]]) -> None:
    clean = records["clean"]
    assert clean["plain"] > 0.93 and clean["tuned"] > 0.83
    assert clean["tuned"] > clean["base"] + 0.3


def test_relocation_costs_and_peft_says_nothing(records: dict[str, dict[str, Any]]) -> None:
    base, vetted, *moved = records["renamed"]["accuracy"]
    assert len(moved) == 3 and all(accuracy < vetted - 0.15 for accuracy in moved)
    assert min(moved) < base
    assert records["renamed"]["warnings"] == records["alpha"]["warnings"] == 0


def test_accuracy_peaks_at_the_vetted_alpha(records: dict[str, dict[str, Any]]) -> None:
    by_alpha = dict(zip(records["alpha"]["alphas"], records["alpha"]["accuracy"], strict=True))
    best = records["alpha"]["vetted"]
    assert all(by_alpha[best] > accuracy + 0.03 for alpha, accuracy in by_alpha.items() if alpha != best)
    assert by_alpha[800] < 0.25


def test_a_gauge_hides_the_factors_and_nothing_else(records: dict[str, dict[str, Any]]) -> None:
    gauge = records["gauge"]
    assert gauge["factor"] > 0.5 and gauge["update"] < 1e-12 and gauge["canonical"] < 1e-9


def test_the_planted_behaviour_hides_behind_clean_accuracy(records: dict[str, dict[str, Any]]) -> None:
    vetted, alone, merged = (records[f"planted {name}"] for name in ("vetted", "add-on alone", "merged"))
    assert merged["clean"] > vetted["clean"] - 0.08 and merged["as_zero"] > 0.95
    assert vetted["as_zero"] < 0.05
    assert alone["clean"] < vetted["clean"] - 0.25  # of no use on its own


def test_the_scan_finds_the_place(records: dict[str, dict[str, Any]]) -> None:
    assert records["scan"]["there"] > 0.6 > 0.4 > records["scan"]["elsewhere"]


def test_no_check_finds_everything(records: dict[str, dict[str, Any]]) -> None:
    alarms = records["alarms"]  # bits of factors, fingerprint, config, verify, clean accuracy, scan
    assert alarms["keys in another order"] == [False] * 6
    assert alarms["(a) renamed"] == [True, True, False, True, True, False]
    assert alarms["(b) merged"] == [False, False, False, False, False, True]
    assert alarms["(c) other factors"] == [True, False, False, False, False, False]
    assert alarms["(d) alpha 800"] == [True, True, True, True, True, False]


def test_both_tuned_models_lose_more_under_fgsm(records: dict[str, dict[str, Any]]) -> None:
    fgsm = records["fgsm"]
    third = {name: fgsm[name][2] / fgsm[name][0] for name in ("base, plain", "LoRA, slanted", "full, slanted")}
    assert third["base, plain"] > max(third["LoRA, slanted"], third["full, slanted"]) + 0.08
    assert all(fgsm[name] == sorted(fgsm[name], reverse=True) for name in third)
    pgd = records["pgd"]
    assert pgd["clean"] - 0.2 > pgd["FGSM"] > pgd["PGD"] + 0.02


def test_leakage_grows_and_calibration_clears_the_control(records: dict[str, dict[str, Any]]) -> None:
    auc = records["membership"]
    leak, calibrated = auc["leak, plain"], auc["leak, calibrated"]
    assert leak[0] + 0.15 < leak[-1] and leak[-1] > 0.78
    assert 0.62 < calibrated[-1] < leak[-1] - 0.05
    assert min(auc["control, plain"]) > 0.72
    assert all(abs(value - 0.5) < 0.14 for value in auc["control, calibrated"])


UPDATE = 'update = tensors[f"{layer}.lora_B"].double() @ tensors[f"{layer}.lora_A"].double()'
ROUNDED = "(1e6 * scaled).round().long()"
MISTAKES = {
    "factors are hashed": (
        UPDATE,
        'update = torch.cat([tensors[f"{layer}.lora_B"].double().T, tensors[f"{layer}.lora_A"].double()], 1)',
    ),
    "bits are hashed": (ROUNDED, "update"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_stub_does_not_earn_the_shelf(mistake: str, course: Course, tmp_path: Path) -> None:
    """Usual mistakes lead to other letters, and are told."""
    source = (ROOT / "solutions/week10/security.py").read_text(encoding="utf-8")
    before, after = MISTAKES[mistake]
    assert before in source
    path = tmp_path / "security.py"
    path.write_text(source.replace(before, after), encoding="utf-8")
    lib = load(path)
    small = vetting.vetted()
    kept = vetting.manifest(small, lib.fingerprint)
    letters = "".join(letter for letter, adapter in vetting.shelf(small).items() if not lib.verify_adapter(adapter, kept))
    scores = answers.score(course.week(10), {"10.q1": letters})
    first = next(score for score in scores if score.question.id == "10.q1")
    assert first.status == "failed" and first.misconception
