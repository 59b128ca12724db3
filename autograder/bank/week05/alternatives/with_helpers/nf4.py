"""One table class for both levels, in a module beside this one; the quantised weight is a module of its own."""

import math

import torch
from blockwise import Compressed, Grid, Table
from torch import nn


def nf4_codebook():
    def quantile(p):
        return math.sqrt(2) * torch.erfinv(2 * p - 1)

    offset = (29 / 30 + 31 / 32) / 2
    table = torch.zeros(16, dtype=torch.float64)
    table[8:] = quantile(torch.linspace(0.5, offset, 9, dtype=torch.float64))[1:]
    table[:7] = quantile(torch.linspace(1 - offset, 0.5, 8, dtype=torch.float64))[:7]
    return table.div(table[-1]).to(torch.float32)


def quantize_nf4(x, block_size=64):
    return Table(nf4_codebook()).encode(x.detach().to(torch.float32), block_size)


def dequantize_nf4(codes, absmax, block_size=64, dtype=torch.float32):
    return Table(nf4_codebook()).decode(codes, absmax, block_size).to(dtype)


def float8_codebook():
    values = [(0.1 + 0.9 * (k + 0.5) / 2 ** (6 - e)) / 10**e for e in range(7) for k in range(2 ** (6 - e))]
    return torch.tensor(sorted([-v for v in values] + [0.0, 1.0] + values))


def double_quantize(absmax, block_size=256):
    mean = torch.mean(absmax)
    codes, scales = Table(float8_codebook()).encode(absmax.sub(mean), block_size)
    return codes, scales, mean


def double_dequantize(codes, scales, mean, block_size=256):
    return Table(float8_codebook()).decode(codes, scales, block_size).add(mean)


class QLoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, block_size=64):
        super().__init__()
        if rank not in range(1, min(base.in_features, base.out_features) + 1):
            raise ValueError(f"rank={rank}")
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        self.compressed = Compressed(base.weight.detach(), block_size, quantize_nf4, double_quantize)
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=base.weight.dtype, device=base.weight.device)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=base.weight.dtype, device=base.weight.device)
        nn.init.zeros_(self.up.weight)
        bias = base.bias
        if bias is not None:
            bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.register_parameter("bias", bias)
        self.lora_A, self.lora_B = self.down.weight, self.up.weight
        del self.down, self.up

    def forward(self, x):
        W = self.compressed(x.dtype, dequantize_nf4, double_dequantize)
        y = torch.matmul(x, W.T) + torch.matmul(torch.matmul(x, self.lora_A.T), self.lora_B.T) * self.scaling
        if self.bias is not None:
            y += self.bias
        return y


def quantize_affine(x, num_bits, block_size):
    if not 1 < num_bits < 9:
        raise ValueError(f"num_bits={num_bits}")
    top = (1 << num_bits) - 1
    grid = Grid(x.numel(), block_size)
    matrix = grid.fold(x.detach().to(torch.float32).flatten())  # the filling is 0, which every range includes
    low, high = torch.aminmax(torch.cat([matrix, torch.zeros(grid.rows, 1)], dim=1), dim=1)
    scale = (high - low) / top
    zero = torch.nan_to_num(torch.round(low.neg() / scale))
    steps = torch.nan_to_num(torch.round(matrix / scale.unsqueeze(1)))
    q = torch.clip(steps + zero.unsqueeze(1), 0, top).byte()
    return grid.unfold(q, x.shape), scale, zero.byte()


def dequantize_affine(q, scale, zero_point, block_size, dtype=torch.float32):
    grid = Grid(q.numel(), block_size)
    distance = grid.fold(q.flatten()).to(torch.int16) - grid.demand(zero_point).to(torch.int16)
    return grid.unfold(grid.demand(scale) * distance, q.shape).to(dtype)


def pack_nibbles(codes):
    if torch.any(codes.bitwise_and(0xF0) != 0):
        raise ValueError("codes need more than four bits")
    grid = Grid(codes.numel(), 2)
    return (grid.fold(codes.flatten()) * torch.tensor([16, 1], dtype=torch.uint8)).sum(dim=1, dtype=torch.uint8)


def unpack_nibbles(packed, shape):
    grid = Grid(math.prod(shape), 2)
    grid.demand(packed)
    both = torch.empty(grid.rows, 2, dtype=torch.uint8)
    both[:, 0] = packed.bitwise_right_shift(4)
    both[:, 1] = packed.bitwise_and(0x0F)
    return grid.unfold(both, torch.Size(shape))


def bits_per_parameter(block_size=64, second_block_size=256):
    for size in (block_size, second_block_size):
        if size is not None and size < 1:
            raise ValueError(f"a block of {size}")
    levels = [(32, block_size)] if second_block_size is None else [(8, block_size), (32, block_size * second_block_size)]
    return 4 + sum(bits / shared for bits, shared in levels)
