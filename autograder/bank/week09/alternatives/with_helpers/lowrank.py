"""What both kinds of layers share."""

import torch
from torch import nn


def product(B, A, scaling):
    """The update of two factors, as a matrix (rows of B) x (what is left of A)."""
    return torch.mul(torch.mm(B.reshape(len(B), -1), A.reshape(len(A), -1)), scaling)


def new_factors(weight, rows, rank):
    """A orthogonal by rows, B zero."""
    A = torch.empty((rank, *weight.shape[1:]), dtype=torch.float64)
    nn.init.orthogonal_(A)
    B = torch.zeros(rows, rank)
    return (nn.Parameter(part.to(device=weight.device, dtype=weight.dtype)) for part in (A, B))


def require(condition, text):
    if not condition:
        raise ValueError(text)


class Merging(nn.Module):
    """A layer that can write its updates into the rows of its base."""

    def pieces(self):
        raise TypeError("to be said by the layer")

    def write(self, direction):
        for rows, delta in self.pieces():
            block = self.base.weight.data[rows]
            block.add_(delta.detach().reshape(block.shape), alpha=direction)
        self.merged = direction == 1

    def merge(self):
        if not self.merged:
            self.write(1)
