"""Quantisation by blocks to the nearest value of any table."""

import torch
from torch import nn
from torch.nn.functional import pad


class Grid:
    """A tensor's elements as a matrix with a block in each row."""

    def __init__(self, count, block_size):
        if block_size < 1:
            raise ValueError(f"block_size={block_size}")
        self.count, self.block_size = count, block_size
        self.rows = (count + block_size - 1) // block_size

    def fold(self, flat):
        return pad(flat, (0, self.rows * self.block_size - self.count)).reshape(self.rows, self.block_size)

    def unfold(self, matrix, shape):
        return matrix.reshape(-1).narrow(0, 0, self.count).reshape(shape)

    def demand(self, constants):
        if constants.shape != (self.rows,):
            raise ValueError(f"{self.rows} blocks, but constants of shape {tuple(constants.shape)}")
        return constants.unsqueeze(-1)


class Table:
    """Numbers to round to, ascending."""

    def __init__(self, values):
        self.values = values

    def encode(self, x, block_size):
        grid = Grid(x.numel(), block_size)
        matrix = grid.fold(x.flatten())
        constants = matrix.abs().max(dim=-1).values
        relative = torch.nan_to_num(matrix / constants.unsqueeze(-1), nan=0.0)
        bounds = torch.lerp(self.values[:-1], self.values[1:], 0.5)
        codes = torch.searchsorted(bounds, relative.contiguous()).byte()
        return grid.unfold(codes, x.shape), constants

    def decode(self, codes, constants, block_size):
        grid = Grid(codes.numel(), block_size)
        column = grid.demand(constants)
        return grid.unfold(nn.functional.embedding(grid.fold(codes.flatten()).int(), self.values[:, None])[..., 0] * column, codes.shape)


class Compressed(nn.Module):
    """A frozen matrix in two levels of codes."""

    def __init__(self, matrix, block_size, first, second):
        super().__init__()
        codes, absmax = first(matrix, block_size)
        small, scales, mean = second(absmax)
        self.block_size = block_size
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.small = nn.Parameter(small, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.mean = nn.Parameter(mean, requires_grad=False)

    def forward(self, dtype, first, second):
        return first(self.codes, second(self.small, self.scales, self.mean), self.block_size, dtype)
