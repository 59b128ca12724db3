"""What week 9's lab claims, on the numbers of its run. Nothing here depends on a clock: costs are counted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autograder.authoring import notebooks
from autograder.judge import answers
from autograder.manifest import Course
from tests.conftest import ROOT
from tests.loading import load


def test_adapters_with_b_zero_change_nothing(records: dict[str, dict[str, Any]]) -> None:
    assert records["start"]["change"] == 0.0
    assert records["start"]["convolutions"] > 15 and records["start"]["share"] < 0.4


def test_each_style_does_what_it_says_and_no_more(records: dict[str, dict[str, Any]]) -> None:
    slant, brightness = records["styles"]["slant"], records["styles"]["brightness"]
    assert slant["slanted"] > slant["plain"] + 0.3
    assert abs(brightness["slanted"] - brightness["plain"]) < 0.15
    assert brightness["inverted"] > brightness["plain"] + 0.5


def test_the_sampler_is_that_of_diffusers(records: dict[str, dict[str, Any]]) -> None:
    assert records["sampler"]["difference"] < 1e-4


def test_the_scale_is_a_dial_between_0_and_1_and_no_mirror(records: dict[str, dict[str, Any]]) -> None:
    scales = records["scales"]
    at = dict(zip(scales["scales"], zip(scales["slant"], scales["brightness"], strict=True), strict=True))
    for which in (0, 1):
        assert at[0][which] + 0.05 < at[0.5][which] < at[1][which] - 0.05
    forward = at[1][0] - at[0][0]
    assert at[-1][0] > at[0][0] - 0.7 * forward  # it does not lean back by as much


def test_both_styles_at_once_lose_one(records: dict[str, dict[str, Any]]) -> None:
    slanted, both = records["styles"]["slant"]["slanted"], records["both"]
    assert both["brightness"] > 0 and both["slant"] < 0.5 * slanted


def test_no_blend_restores_the_base_bit_for_bit(records: dict[str, dict[str, Any]]) -> None:
    assert records["restored"]["equal"] is True


def test_few_steps_draw_too_little_variety(records: dict[str, dict[str, Any]]) -> None:
    ratio = records["ddim"]["ratio"]
    assert ratio == sorted(ratio) and ratio[0] < 0.01 and 0.99 < ratio[-1] < 1


def test_every_slice_helps_and_v_most(records: dict[str, dict[str, Any]]) -> None:
    slices = records["slices"]
    assert min(slices[name] for name in ("q", "k", "v", "qkv")) > slices["none"] + 0.25
    assert slices["v"] > max(slices["q"], slices["k"]) + 0.01


def test_merging_v_leaves_q_and_k(records: dict[str, dict[str, Any]]) -> None:
    q, k, v = records["merged"]["changed"]
    assert q == k == 0 < v
    assert records["merged"]["gap"] < 1e-3


def test_what_is_merged_costs_nothing_and_what_is_not_costs_calls(records: dict[str, dict[str, Any]]) -> None:
    cost = records["cost"]
    calls, products = ({name: pair[i] / cost["base"][i] for name, pair in cost.items()} for i in (0, 1))
    assert cost["merged"] == cost["base"]
    assert calls["unmerged"] == max(calls.values()) > 1.5
    for name in ("unmerged", "adapter", "prefix"):
        assert calls[name] - 1 > 2 * (products[name] - 1) > 0


MISTAKES = {
    "9.q1": ("else 1.0\n", "else float(alphas_cumprod[0])\n"),  # the last step leaves noise
    "9.q2": ("torch.randn(rank, *kernel)", "torch.randn(rank, kernel[0], 1, 1)"),  # no kernel size in A
}


@pytest.mark.parametrize("question", MISTAKES)
def test_a_wrong_stub_is_told(question: str, course: Course, tmp_path: Path) -> None:
    """The lab's own cells up to the answer, on a stub with a usual mistake."""
    source = (ROOT / "solutions/week09/multimodal.py").read_text(encoding="utf-8")
    before, after = MISTAKES[question]
    assert source.count(before) == 1
    (tmp_path / "multimodal.py").write_text(source.replace(before, after), encoding="utf-8")
    cells = [cell.source for cell in notebooks.solved("week09", course).cells if cell.cell_type == "code"]
    asked = next(place for place, cell in enumerate(cells) if f'labs.answer("{question}"' in cell)
    handed: dict[str, Any] = {}
    labs = SimpleNamespace(answer=handed.__setitem__, record=lambda *_, **__: None)
    plots = SimpleNamespace(lines=lambda *_, **__: None, show=lambda *_, **__: None)
    names = {"lab": load(tmp_path / "multimodal.py"), "labs": labs, "plots": plots, "torch": torch, "nn": torch.nn}
    exec("\n".join(cells[asked - 1 : asked + 1]), names)
    scores = {score.question.id: score for score in answers.score(course.week(9), handed)}
    assert scores[question].status == "failed" and scores[question].misconception
