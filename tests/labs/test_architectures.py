"""Shapes of the large models, against what is published, and what the methods train, against peft."""

from __future__ import annotations

import pytest
import torch

from course.labs import architectures

TOTAL = {"Llama-2-7B": 6738415616, "Llama-2-13B": 13015864320, "Llama-2-70B": 68976648192, "GPT-3": 174604259328}


def factors(shapes: list[tuple[int, int]], rank: int) -> int:
    return sum(rank * (d_out + d_in) for d_out, d_in in shapes)


@pytest.mark.parametrize("name", architectures.NAMES)
def test_totals(name: str) -> None:
    model = architectures.blueprint(name)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) == TOTAL[name]


def test_gpt3_of_the_lora_paper() -> None:
    """Hu et al., arXiv:2106.09685: r = 4 on q and v are 192 matrices and 18.9 million parameters."""
    shapes = architectures.matrices(architectures.blueprint("GPT-3"), "q_proj", "v_proj")
    assert shapes == [(12288, 12288)] * 192
    assert factors(shapes, 4) == 18874368


def test_every_matrix_of_gpt3s_blocks_is_there_once() -> None:
    shapes = architectures.matrices(architectures.blueprint("GPT-3"))
    assert sum(d_out * d_in for d_out, d_in in shapes) == 96 * 12 * 12288**2


def test_grouped_query_attention_has_small_keys_and_values() -> None:
    model = architectures.blueprint("Llama-2-70B")
    assert architectures.matrices(model, "k_proj", "v_proj") == [(1024, 8192)] * 160
    assert architectures.matrices(model, "q_proj", "o_proj") == [(8192, 8192)] * 160
    assert len(architectures.matrices(model)) == 7 * 80


@pytest.mark.parametrize("name", ["Llama-2-7B", "Llama-2-70B"])
def test_shapes_give_what_peft_adds(name: str) -> None:
    model = architectures.lora_of(name, 16)
    added = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert added == factors(architectures.matrices(architectures.blueprint(name)), 16)


def test_families_train_what_their_names_say() -> None:
    width, layers = 4096, 32
    trains = {
        method: {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        for _, method, model in architectures.families("Llama-2-7B")
    }
    assert sum(trains["adapters, width 64"].values()) == layers * 2 * (2 * width * 64 + 64 + width)
    assert sum(trains["prefix, 20 tokens"].values()) == layers * 2 * 20 * width
    assert sum(trains["prompt, 20 tokens"].values()) == 20 * width
    assert sum(trains["IA³"].values()) == layers * (2 * width + 11008)
    assert all("layers.31." in name for name in trains["last block"]) and trains["last block"]
    assert trains["biases (BitFit)"] == {}
    assert all("lora_" in name for name in trains["LoRA r=4, q and v"])
    assert sum(trains["LoRA r=4, q and v"].values()) == layers * 2 * 4 * 2 * width


def test_operations_of_a_step() -> None:
    """One linear layer by hand: forward, gradient by the weight; and by the input where something before it trains."""

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(10, 4, device="meta")
            self.linear = torch.nn.Linear(4, 6, bias=False, device="meta")

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> object:
            return type("Output", (), {"loss": self.linear(self.embed(input_ids)).sum()})

    model, once = Tiny(), 2 * 8 * 4 * 6
    assert architectures.step_flops(model, tokens=8) == 3 * once
    model.linear.requires_grad_(False)
    assert architectures.step_flops(model, tokens=8) == 2 * once


def test_intensities_are_in_grams() -> None:
    assert 10 < architectures.intensity("FRA") < 150 < 300 < architectures.intensity("POL") < 1200
