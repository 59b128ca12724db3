"""What surrounds the student's layer in week 4's lab, and the count of live tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from course.labs import layers, text
from course.labs.live import LiveTensors
from tests.conftest import ROOT
from tests.loading import load


def test_live_tensors_counts_what_is_alive_and_forgets_what_is_not() -> None:
    given = torch.ones(1000)
    with LiveTensors() as live:
        one = given * 2
        assert live.now == 4000
        view = one.view(10, 100)
        one += 1
        assert live.now == 4000  # neither a view nor work in place is new
        two = torch.cat([view, view])
        assert live.now == 12000
        del one, view
        assert live.now == 8000
        del two
        assert live.now == 0
    assert live.peak == 12000 and live.bytes[0] == 4000


def test_live_tensors_sees_what_a_backward_pass_needs() -> None:
    weight = torch.ones(100, 100, requires_grad=True)
    with LiveTensors() as live:
        hidden = (weight @ weight).exp()
        hidden = hidden.exp().sum()
        kept = live.now
        hidden.backward()
        del hidden
        left = live.now
    assert kept >= 2 * 40000  # each exp keeps its result
    assert left == 40000  # the gradient


def test_body_shows_code_without_docstring() -> None:
    def double(x: int) -> int:
        """Twice."""
        return 2 * x  # a comment

    assert layers.body(double) == "def double(x: int) -> int:\n    return 2 * x"


def test_a_stretch_task_that_is_not_written_is_replaced_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    def checkpointed(block: nn.Module) -> nn.Module:
        raise NotImplementedError("Week 4, task 5: ...")

    assert layers.written(checkpointed, layers.torch_checkpointed) is layers.torch_checkpointed
    said = capsys.readouterr().out
    assert "checkpointed" in said and said.count("\n") == 1
    reference = load(ROOT / "solutions" / "week04" / "lora_linear.py")
    assert layers.written(reference.checkpointed, layers.torch_checkpointed) is reference.checkpointed
    assert capsys.readouterr().out == ""


def test_the_fallbacks_do_what_the_tasks_ask_for() -> None:
    reference = load(ROOT / "solutions" / "week04" / "lora_linear.py")
    block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    seen = []
    block.register_forward_pre_hook(lambda *_: seen.append(1))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    plain = torch.autograd.grad(block(x).square().sum(), list(block.parameters()))
    seen.clear()
    wrapped = layers.torch_checkpointed(block)
    again = torch.autograd.grad(wrapped(x).square().sum(), list(block.parameters()))
    assert len(seen) == 2 and all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    reference.inject_lora(model, ["0", "1"], 2, 4)
    rates = {
        id(p): group["lr"]
        for groups in (layers.groups_by_name(model, 0.1, 16.0), reference.lora_plus_groups(model, 0.1, 16.0))
        for group in groups
        for p in group["params"]
    }
    assert rates == {
        id(p): 0.1 * (16 if name.endswith("lora_B") else 1) for name, p in model.named_parameters() if p.requires_grad
    }
    by_name = {id(p): g["lr"] for g in layers.groups_by_name(model, 0.1, 16.0) for p in g["params"]}
    assert by_name == rates


def test_logits_and_loss_leave_the_mode_and_padding_alone() -> None:
    model, words = text.base_model()
    items = text.examples("add", 2, part="test") + text.examples("reverse", 2, part="test")
    batch = text.collate(items, words)
    model.train()
    together = layers.logits(model, batch)
    assert model.training and len(together) == batch["attention_mask"].sum()
    alone = torch.cat([layers.logits(model, text.collate([item], words)) for item in items])
    assert torch.allclose(together, alone, atol=1e-4)
    assert text.mean_loss(model, words, items) == pytest.approx(layers.loss(model.eval(), batch).item(), abs=1e-6)


def test_a_deep_model_has_the_blocks_and_the_seed_decides() -> None:
    config = text.base_model()[0].config
    first, again, other = layers.deep(config, 5), layers.deep(config, 5), layers.deep(config, 5, seed=1)
    assert len(first.model.layers) == 5 and config.num_hidden_layers == 2
    name = "model.layers.4.mlp.up_proj.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
