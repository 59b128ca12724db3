"""Models and objects that a check asks for by name; they exist in the worker only, never on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

BUILDERS: dict[str, Callable[..., Any]] = {}


def builder(function: Callable[..., Any]) -> Callable[..., Any]:
    BUILDERS[function.__name__] = function
    return function


@builder
def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear that holds `weight` (out_features, in_features) and `bias`, with the weight's dtype."""
    out_features, in_features = weight.shape
    layer = nn.Linear(in_features, out_features, bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


@builder
def bare_module(cls: type[nn.Module], attributes: dict[str, Any], parameters: dict[str, Tensor]) -> nn.Module:
    """An object of a student's module class whose own `__init__` does not work yet.

    It has exactly the state that the contract names: `attributes` as they are (but for those that the class
    computes, as a property), `parameters` as nn.Parameter.
    """
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, value in attributes.items():
        if not isinstance(getattr(cls, name, None), property):
            setattr(module, name, value)
    for name, tensor in parameters.items():
        setattr(module, name, nn.Parameter(tensor))
    return module


@builder
def dtype(name: str) -> torch.dtype:
    """torch's dtype of that name."""
    result: torch.dtype = getattr(torch, name)
    return result


class Wrapper(nn.Module):
    """Stands in for an adapter layer that does not work yet.

    It is no adapter, but its output depends on its factors, so that a model shows where it really stands.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.dropout, self.merged, self.enabled = rank, alpha, dropout, False, True
        self.lora_A = nn.Parameter(base.weight.new_zeros(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(len(base.weight), rank, dtype=base.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x) + self.alpha * self.lora_A.mean() * self.lora_B.sum(dim=1)
        return result


@builder
def wrapper_class() -> type[nn.Module]:
    return Wrapper


class Attention(nn.Module):
    """Single-head attention with the projections q, k, v, o, and neighbours whose names only look like theirs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width + 1)
        self.o = nn.Linear(width + 1, width)
        self.v_gate = nn.Linear(width, width + 1)
        self.kv = nn.Linear(width, width + 1)
        self.conv = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / x.shape[-1] ** 0.5
        values = self.v(x) * torch.sigmoid(self.v_gate(x)) + self.kv(x)
        mixed: Tensor = self.o(scores.softmax(-1) @ values)
        convolved: Tensor = self.conv(x.transpose(-1, -2)).transpose(-1, -2)
        return mixed + convolved


class Block(nn.Module):
    def __init__(self, width: int, base: nn.Linear) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.base = base  # a layer that happens to be called as an adapter calls its own

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        x = x + self.mlp(x)
        result: Tensor = x + torch.tanh(self.base(x))
        return result


class TinyTransformer(nn.Module):
    def __init__(self, vocabulary: int, width: int, blocks: int, share: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        bases = [nn.Linear(width, width) for _ in range(blocks)]
        self.block = nn.ModuleList(Block(width, bases[0] if share else base) for base in bases)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight  # tied

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.block:
            x = block(x)
        result: Tensor = self.head(x)
        return result


@builder
def tiny_transformer(seed: int, vocabulary: int, width: int, blocks: int, share: bool = False) -> nn.Module:
    """A float64 transformer with normal parameters drawn by NumPy; `share`: one `base` layer for all blocks."""
    model = TinyTransformer(vocabulary, width, blocks, share).double().eval()
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(0.5 * rng.standard_normal(tuple(parameter.shape))))
    return model
