"""Week 5's lab library: types against closed forms, layers in a model, memory counted exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from course.labs import quant, text
from tests.conftest import ROOT
from tests.loading import load

NF4 = load(ROOT / "solutions" / "week05" / "nf4.py")


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def make(linear: nn.Linear) -> nn.Module:
    return NF4.QLoRALinear(linear, 2, 4.0)


def test_codes_of_bitsandbytes_stand_for_what_it_decodes():
    from bitsandbytes import functional

    x = normal(0, 4, 128)
    packed, state = functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    table = functional.get_4bit_type("nf4", device="cpu")
    ours = table[quant.bitsandbytes_codes(x).long()].view(-1, 64) * state.absmax[:, None]
    assert torch.equal(ours.view(x.shape), functional.dequantize_4bit(packed, state))


def test_int4_against_the_task_and_closed_forms():
    x = torch.tensor([-1.0, 0.0, 2.4, 4.0])
    assert quant.int4(x, 4, zero_point=True).tolist() == pytest.approx([-1, 0, 7 / 3, 4])
    assert quant.int4(x, 4).tolist() == pytest.approx([-8 / 7, 0, 16 / 7, 4])
    assert quant.int4(torch.zeros(4), 4).tolist() == quant.int4(torch.zeros(4), 4, zero_point=True).tolist() == [0] * 4
    y = normal(1, 8, 64)
    theirs = NF4.dequantize_affine(*NF4.quantize_affine(y, 4, 64), 64)
    assert torch.allclose(quant.int4(y, zero_point=True), theirs, atol=1e-6)
    assert (quant.fp4(y) - y).square().mean() > (quant.int4(y) - y).square().mean()


def test_wrap_puts_a_layer_in_the_place_of_every_linear_layer_but_the_output():
    model, tokenizer = text.base_model()
    names = list(quant.linears(model))
    assert len(names) == 7 * model.config.num_hidden_layers and "lm_head" not in names
    made = quant.wrap(model, make)
    assert len(made) == len(names) and all(isinstance(layer, NF4.QLoRALinear) for layer in made)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * len(names) and all("lora_" in name for name in trainable)
    batch = text.collate(text.examples("capital", 4), tokenizer)
    assert model(**batch).loss < 1  # B is zero and the base still knows the capitals


def test_recomputing_changes_no_gradient():
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
        layers = quant.wrap(model, make, recompute)
        for layer in layers:
            layer.lora_B.data.fill_(0.1)
        model(normal(2, 3, 64)).square().sum().backward()
        grads.append([layer.lora_A.grad for layer in layers])
    assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


def test_tally_counts_tensors_and_forgets_them():
    with quant.Tally() as tally:
        a = torch.zeros(2**18)  # 1 MiB
        assert tally.now == 1
        b = a.view(2, -1)
        assert tally.now == 1  # a view has the same storage
        c = a + 1
        assert tally.now == 2
        del a, c
        assert tally.now == 1  # b still holds it
        del b
    assert tally.now == 0
    assert max(tally.mib) == 2


def test_a_stack_of_each_kind_trains():
    for kind in quant.KINDS:
        stack = quant.stack(kind, 64, 2, 2, make)
        before = [p.detach().clone() for p in stack.parameters() if p.requires_grad]
        quant.train_stack(stack, 64, 8, 2)
        after = [p for p in stack.parameters() if p.requires_grad]
        assert len(after) == 4
        assert all(not torch.equal(one, two) for one, two in zip(before, after, strict=True)), kind


@pytest.mark.parametrize("shape", [(32, 48), (1100, 1030)])
def test_principal_is_the_best_approximation_where_there_is_one(shape):
    u, v = normal(3, shape[0], 4), normal(4, 4, shape[1])
    w = u @ v
    b, a = quant.principal(w, 4)
    assert b.shape == (shape[0], 4) and a.shape == (4, shape[1])
    assert (b @ a - w).norm() < 1e-4 * w.norm()
    b, a = quant.principal(w, 2)
    assert (b @ a - w).norm() == pytest.approx(torch.linalg.svdvals(w)[2:].norm().item(), rel=1e-3)


def test_bytes_of_states():
    parameter = nn.Parameter(torch.ones(10))
    optimizer = torch.optim.AdamW([parameter])
    assert quant.state_bytes(optimizer) == 0
    parameter.grad = torch.ones(10)
    optimizer.step()
    assert quant.state_bytes(optimizer) == 80  # two moments of four bytes
