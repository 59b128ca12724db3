"""Week 4, code review: this file has four bugs. Find each one, say what goes wrong because of it, and how to mend it.

It wraps layers of a model in LoRA, trains, and merges the result for deployment. It runs without an error, which is
what makes it worth reading. Style is not the point here: look for what it computes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LowRankBranch(nn.Module):
    def __init__(self, linear: nn.Linear, rank: int = 8, alpha: float = 16.0, p: float = 0.1) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) / rank)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.drop = nn.Dropout(p)
        self.rank, self.alpha = rank, alpha

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(x)
        delta = (x @ self.down.T) @ self.up.T
        return self.linear(x) + delta * (self.alpha / self.rank)

    def merged(self) -> nn.Linear:
        with torch.no_grad():
            self.linear.weight += self.up @ self.down
        return self.linear


def adapt(model: nn.Module, wanted: tuple[str, ...] = ("q", "v")) -> nn.Module:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and any(w in name for w in wanted):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, LowRankBranch(layer))
    return model


def fit(model: nn.Module, batches: list[tuple[Tensor, Tensor]], lr: float = 1e-3) -> None:
    model = adapt(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
