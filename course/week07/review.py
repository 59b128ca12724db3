"""Find the bugs. This file runs, its loss falls, and it has five bugs.

It fine-tunes one linear layer on two tasks that want opposite things, once with a DoRA layer and once with two routed LoRA
branches. Find each bug, say which wrong result it leads to, and mend it. Shapes, names and the training loop are right.
"""

import torch
from torch import nn


class Dora(nn.Module):
    """W' = m V / |V|, with V = W0 + (alpha / rank) B A and one norm for each output."""

    def __init__(self, base: nn.Linear, rank: int = 2, alpha: float = 4.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.magnitude = nn.Parameter(torch.ones(base.out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.base.weight + self.scale * self.up @ self.down
        length = weight.norm(dim=1).detach()
        return self.magnitude / length * (x @ weight.T + self.base.bias)


class Branches(nn.Module):
    """One `down`, one `up` for each branch, and a router that weights the branches for each token."""

    def __init__(self, base: nn.Linear, branches: int = 2, rank: int = 2, alpha: float = 4.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(branches, base.out_features, rank))
        self.router = nn.Linear(base.in_features, branches, bias=False)

    def forward(self, x: torch.Tensor, task: int | None = None) -> torch.Tensor:
        hidden = x @ self.down.T
        if task:
            return self.base(x) + self.scale * hidden @ self.up[task].T
        shares = self.router(x).softmax(dim=1)
        parts = torch.stack([hidden @ up.T for up in self.up], dim=-1)
        return self.base(x) + self.scale * (parts * shares[..., None, :]).sum(dim=-1)


def train(layer: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int = 200) -> float:
    optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


if __name__ == "__main__":
    torch.manual_seed(0)
    x = torch.randn(32, 10, 8)  # sequences, tokens, features
    sign = torch.where(x[..., :1] > 0, 1.0, -1.0)  # the first feature of a token says which task it belongs to
    first = nn.Linear(8, 6)
    y = first(x).detach() + sign * (x @ torch.randn(8, 6))
    for kind in (Dora, Branches):
        print(kind.__name__, train(kind(first), x, y))
    # RandLoRA in one line: full rank from random parts that are never trained, so it costs fewer numbers the smaller r is.
    bases = nn.Parameter(torch.randn(4, 6, 2))
    print("RandLoRA trains", sum(b.numel() for b in bases if b.requires_grad) + 4 * (2 + 6), "numbers")
