"""What the layers have in common."""

import torch
from torch import nn


class Frozen(nn.Module):
    """Holds a base that does not train, and hands out parameters that look like its weight."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        base.requires_grad_(False)

    @property
    def sides(self):
        return self.base.out_features, self.base.in_features

    def parameter(self, *shape, spread=0.0):
        values = torch.zeros(shape, dtype=self.base.weight.dtype, device=self.base.weight.device)
        if spread:
            values.uniform_(-spread, spread)
        return nn.Parameter(values)


class LowRank(Frozen):
    def __init__(self, base, rank, alpha):
        super().__init__(base)
        if rank < 1 or any(rank > side for side in self.sides):
            raise ValueError(f"rank {rank} does not fit {self.sides}")
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        self.lora_A = self.parameter(rank, base.in_features, spread=1.0)


def pair(rows, columns):
    """The terms of a product of two matrices, summed: written so that it needs no transpose."""
    return torch.einsum("ok,ki->oi", rows, columns)
