"""Peft's LoRA as week 3's tasks see it, the bottleneck adapter, short reviews."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from course.labs import mechanics, text
from tests.conftest import ROOT
from tests.loading import load


@pytest.fixture(scope="module")
def own() -> Any:
    return load(ROOT / "solutions" / "week03" / "lora_mechanics.py")


def test_week_3_saves_and_loads_pefts_factors(own: Any, tmp_path: Path) -> None:
    tuned = text.lora(text.base_model()[0], 2, 4, "all-linear", init_lora_weights=False, seed=1)
    names = text.TARGETS["qkvo"] + text.TARGETS["mlp"]
    view = mechanics.factors(tuned)
    assert {id(p) for p in view.parameters()} == {id(p) for p in tuned.parameters() if p.requires_grad}
    own.save_adapter(view, own.LoRAConfig(rank=2, alpha=4, target_modules=names), tmp_path)

    words = text.base_model()[1]
    reviews = text.sst2("validation", 8)
    wanted = text.label_logits(tuned, words, reviews)
    assert torch.equal(text.label_logits(mechanics.opened_by_peft(tmp_path), words, reviews), wanted)

    other = text.lora(text.base_model()[0], 2, 100, "all-linear")
    assert not torch.allclose(text.label_logits(other, words, reviews), wanted)
    own.load_adapter(mechanics.factors(other), tmp_path)
    assert torch.equal(text.label_logits(other, words, reviews), wanted)

    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "lora_alpha"}))
    own.load_adapter(mechanics.factors(other), tmp_path)
    layer = mechanics.factors(other).get_submodule("model.layers.0.self_attn.q_proj")
    assert (layer.alpha, layer.scaling) == (8, 4)
    assert not torch.allclose(text.label_logits(other, words, reviews), wanted)


def test_a_bottleneck_starts_as_the_model_and_trains_alone() -> None:
    model, words = text.base_model()
    batch = text.collate(text.examples("add", 4), words)
    with torch.no_grad():
        before = model(**batch).logits
    adapted = mechanics.bottleneck(model, 4)
    assert adapted is model
    with torch.no_grad():
        assert torch.equal(adapted(**batch).logits, before)
    d = model.config.hidden_size
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 2 * (2 * 4 * d + d + 4)
    adapted(**batch).loss.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached and all(".adapter.2." in name for name in reached)  # up alone: it starts at zero
    for block in model.model.layers:
        torch.nn.init.normal_(block.mlp.adapter[2].weight)
    with torch.no_grad():
        assert not torch.allclose(adapted(**batch).logits, before)


def test_layer_inputs_are_what_the_layer_is_given() -> None:
    model, words = text.base_model()
    batch = text.collate(text.examples("add", 3), words)
    name = "model.layers.0.mlp.down_proj"
    x = mechanics.layer_inputs(model, name, lambda: model(**batch))
    assert x.shape == (batch["input_ids"].numel(), model.config.intermediate_size)
    outputs: list[torch.Tensor] = []
    hook = model.get_submodule(name).register_forward_hook(lambda _, __, out: outputs.append(out.detach().flatten(0, -2)))
    model(**batch)
    hook.remove()
    assert torch.allclose(x @ model.get_submodule(name).weight.T, outputs[0], atol=1e-4)


def test_reviews_are_short_and_single_words_do_not_tell_the_label() -> None:
    reviews = mechanics.reviews("train", 200, 6)
    assert len(reviews) == 200 and all(len(review.sentence.split()) <= 6 for review in reviews)
    assert reviews == mechanics.reviews("train", 200, 6) != mechanics.reviews("train", 200, 6, seed=1)
    negated = [review for review in reviews if {"not", "never"} & set(review.sentence.split())]
    assert 0.25 < len(negated) / len(reviews) < 0.55


def test_full_fine_tuning_trains_everything_where_there_is_room() -> None:
    model = text.full_finetune(text.base_model()[0].requires_grad_(False))
    assert all(p.requires_grad for p in model.parameters())
