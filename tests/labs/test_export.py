"""Factors out of peft and back, and the commands for TensorRT."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from course.labs import adapters, export, text


class Factors(NamedTuple):
    lora_A: Tensor
    lora_B: Tensor
    alpha: float


class Branch(nn.Module):
    """A LoRA layer of a few lines, for `with_branches`."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scaling = base, alpha / rank
        self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)


def random_adapter(seed: int, rank: int = 2, alpha: float = 6.0):
    """A peft model whose factors are all random."""
    model, _ = text.base_model()
    model = text.lora(model, rank, alpha, "all-linear")
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(p, std=0.1)
    return model.eval()


@torch.no_grad()
def logits(model) -> Tensor:
    return model(input_ids=torch.arange(10)[None]).logits


def test_updates_from_factors_are_what_peft_adds() -> None:
    model = random_adapter(0)
    factors = adapters.factors(model, Factors)
    base, _ = text.base_model()
    changed = adapters.added(base, {name: adapters.update(lora) for name, lora in factors.items()})
    assert (logits(changed) - logits(base)).norm() > 0.1 * logits(base).norm()
    torch.testing.assert_close(logits(changed), logits(model), rtol=1e-4, atol=1e-4)
    assert set(factors) <= set(base.state_dict())


def test_factors_go_back_and_are_copies() -> None:
    one, other = random_adapter(0), random_adapter(1)
    factors = adapters.factors(one, Factors)
    adapters.set_factors(other, factors)
    torch.testing.assert_close(logits(other), logits(one))
    before = logits(one)
    next(iter(factors.values())).lora_A.zero_()
    torch.testing.assert_close(logits(one), before)


def test_several_adapters_over_one_base() -> None:
    models = {f"lora_{seed}": random_adapter(seed) for seed in (0, 1)}
    base, _ = text.base_model()
    gathered = adapters.gather(base, {name: adapters.factors(model, Factors) for name, model in models.items()}).eval()
    for name, model in models.items():
        gathered.set_adapter(name)
        torch.testing.assert_close(logits(gathered), logits(model))


def test_branches_are_a_copy_with_the_same_output() -> None:
    model = random_adapter(0)
    base, _ = text.base_model()
    branched = adapters.with_branches(base, adapters.factors(model, Factors), Branch)
    torch.testing.assert_close(logits(branched), logits(model), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, Branch) for module in base.modules())


def test_a_snapshot_is_taken_after_that_many_steps() -> None:
    state, out = [0], {}
    for _ in adapters.snapshots(range(5), (0, 2, 4), lambda: state[0], out):
        state[0] += 1  # a step
    assert out == {0: 0, 2: 2, 4: 4}


def test_the_command_for_tensorrt_names_each_shape() -> None:
    command = export.tensorrt_command("model.onnx", {"x": ("1x16", "8x16", "64x16"), "m": ("1x1", "8x1", "64x1")})
    assert command == [
        "trtexec", "--onnx=model.onnx", "--fp16", "--minShapes=x:1x16,m:1x1", "--optShapes=x:8x16,m:8x1",
        "--maxShapes=x:64x16,m:64x1", "--saveEngine=model.plan",
    ]  # fmt: skip


def test_tensorrt_runs_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = export.tensorrt_command("model.onnx", {"x": ("1x2", "1x2", "1x2")})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "trtexec" in export.run_tensorrt(command, tmp_path)  # not there: says what it needs
    fake = tmp_path / "trtexec"
    fake.write_text(f"#!{sys.executable}\nimport os, sys\nprint('Throughput: 5 qps in', os.getcwd(), sys.argv[1])\n")
    fake.chmod(0o755)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert export.run_tensorrt(command, tmp_path) == f"Throughput: 5 qps in {os.path.realpath(tmp_path)} --onnx=model.onnx"
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint('[E] no such layer')\nsys.exit(1)\n")
    assert export.run_tensorrt(command, tmp_path) == "[E] no such layer"
