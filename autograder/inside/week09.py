"""Builders and probes of week 9: convolutions, a denoiser that remembers its calls, models with Linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autograder.inside.registry import builder, probe


@builder
def conv(weight: Tensor, bias: Tensor | None, **options: Any) -> nn.Conv2d:
    """An nn.Conv2d that holds `weight` and `bias`; the options are stride, padding, dilation, groups, padding_mode."""
    groups = options.get("groups", 1)
    out_channels, per_group, kh, kw = weight.shape
    layer = nn.Conv2d(per_group * groups, out_channels, (kh, kw), bias=bias is not None, dtype=weight.dtype, **options)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer


class Denoiser(nn.Module):
    """Predicts something from x and t, and keeps what it was called with."""

    def __init__(self, seed: int, width: int, timesteps: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.mix, self.time = nn.Linear(width, width, dtype=dtype), nn.Embedding(timesteps, width, dtype=dtype)
        self.calls: list[tuple[Tensor, Tensor]] = []
        rng = np.random.Generator(np.random.PCG64(seed))
        with torch.no_grad():
            for _, parameter in sorted(self.named_parameters()):
                parameter.copy_(torch.from_numpy(0.5 * rng.standard_normal(tuple(parameter.shape))))

    def forward(self, x: Tensor, t: Tensor, /) -> Tensor:
        self.calls.append((x.detach().clone(), t.detach().clone()))
        time = self.time(t)
        result: Tensor = torch.tanh(self.mix(x) + time.view(len(t), *[1] * (x.dim() - 2), -1))
        return result


@builder
def denoiser(seed: int, width: int, timesteps: int, dtype: str) -> nn.Module:
    return Denoiser(seed, width, timesteps, getattr(torch, dtype))


@probe
def look(value: Any) -> Any:
    """Whatever is there."""
    return value


@probe
def calls(model: Denoiser) -> list[Any]:
    """What a denoiser was called with."""
    return [list(call) for call in model.calls]


@probe
def learned(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradients of a loss by the parameters of a model."""
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Picture(nn.Module):
    """Linear layers under several names, a norm and a convolution, as a small vision transformer has them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 3 * hidden, bias=False)  # first, so that the order of the modules is not that of the names
        self.patch = nn.Conv2d(2, width, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "attn": nn.ModuleDict({"qkv": nn.Linear(width, 3 * hidden), "proj": nn.Linear(3 * hidden, width)}),
                    "aqkv": nn.Linear(width, width + 1),
                }
            )
            for _ in range(2)
        )
        self.qkv = nn.Conv2d(width, 3, 1)  # a name that matches, a type that does not
        self.lora_gain = nn.Parameter(torch.empty(width))  # a name like a factor's, and no new layer's

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            qkv, proj = block.get_submodule("attn.qkv"), block.get_submodule("attn.proj")
            x = x + proj(torch.tanh(qkv(block.get_submodule("norm")(x))))
        result: Tensor = self.head(x)
        return result


@builder
def picture(seed: int, width: int, hidden: int, dtype: str = "float64") -> nn.Module:
    """A Picture with parameters drawn by NumPy; some of them are frozen."""
    model = Picture(width, hidden).to(getattr(torch, dtype))
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.from_numpy(0.5 * rng.standard_normal(tuple(parameter.shape))))
    model.get_submodule("blocks.0").requires_grad_(False)
    return model


@builder
def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """The very parameters that a model has now."""
    return dict(model.named_parameters())


@probe
def state(model: nn.Module, before: dict[str, nn.Parameter]) -> dict[str, Any]:
    """A model's parameters, which of them are trainable, and which are not the objects that they were before."""
    now = dict(model.named_parameters())
    return {
        "values": now,
        "trainable": sorted(name for name, p in now.items() if p.requires_grad),
        "replaced": sorted(name for name, p in before.items() if now.get(name) is not p),
    }


@probe
def injected(model: nn.Module, cls: Callable[..., Any], before: dict[str, nn.Parameter]) -> dict[str, Any]:
    """Where layers of a class stand, which parameters are trainable, and where the parameters of before are now."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        "layers": sorted(name for name, module in model.named_modules() if type(module) is cls),
        "trainable": sorted(name for name, p in model.named_parameters() if p.requires_grad),
        "kept": {name: names.get(id(p), "gone") for name, p in before.items()},
        "values": before,
    }
