"""One block after the other, the nearest code by the smallest distance; the codes packed, and the layer in einsum notation."""

from statistics import NormalDist

import torch
from torch import nn


def nf4_codebook():
    quantile = NormalDist().inv_cdf
    offset = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
    step_up, step_down = (offset - 0.5) / 8, (offset - 0.5) / 7
    half = [quantile(offset - i * step_up) for i in range(8)]
    other = [quantile(1 - offset + i * step_down) for i in range(7)]
    table = sorted([*half, 0.0, *other])
    return torch.tensor([v / quantile(offset) for v in table], dtype=torch.float64).to(torch.float32)


def cut(flat, block_size):
    if block_size <= 0:
        raise ValueError("block_size")
    return list(flat.split(block_size))


def nearest(block, table):
    return (block.unsqueeze(1) - table.unsqueeze(0)).abs().argmin(dim=1).to(torch.uint8)


@torch.no_grad()
def quantize_nf4(x, block_size=64):
    table = nf4_codebook()
    codes, largest = [], []
    for block in cut(x.to(torch.float32).reshape(-1), block_size):
        top = max(block.max().item(), -block.min().item())
        largest.append(top)
        if top == 0:
            codes.append(torch.full(block.shape, 7, dtype=torch.uint8))
        else:
            codes.append(nearest(block.double() / top, table))
    return torch.cat(codes).reshape(x.shape), torch.tensor(largest, dtype=torch.float32)


def dequantize_nf4(codes, absmax, block_size=64, dtype=torch.float32):
    table = nf4_codebook()
    parts = cut(codes.reshape(-1), block_size)
    if len(parts) != absmax.numel():
        raise ValueError("absmax")
    values = [table[part.long()] * top for part, top in zip(parts, absmax)]
    return torch.cat(values).reshape(codes.shape).to(dtype)


def float8_codebook():
    values = [(0.1 + 0.9 * (k + 0.5) / 2 ** (6 - e)) / 10**e for e in range(7) for k in range(2 ** (6 - e))]
    return torch.tensor(sorted([-v for v in values] + [0.0, 1.0] + values))


def double_quantize(absmax, block_size=256):
    table = float8_codebook()
    mean = absmax.mean()
    codes, scales = [], []
    for block in cut(absmax - mean, block_size):
        scale = torch.max(torch.abs(block))
        scales.append(scale)
        if scale == 0:
            codes.append(nearest(block, table))
        else:
            codes.append(nearest(block / scale, table))
    return torch.cat(codes), torch.stack(scales), mean


def double_dequantize(codes, scales, mean, block_size=256):
    table = float8_codebook()
    parts = cut(codes, block_size)
    if len(parts) != len(scales):
        raise ValueError("scales")
    return torch.cat([table[part.long()] * scale + mean for part, scale in zip(parts, scales)])


class QLoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, block_size=64):
        super().__init__()
        self.out_features, self.in_features = base.weight.shape
        if rank < 1 or rank > min(self.out_features, self.in_features):
            raise ValueError("rank")
        self.rank = rank
        self.alpha = alpha
        self.block_size = block_size
        codes, absmax = quantize_nf4(base.weight, block_size)
        small, scales, mean = double_quantize(absmax)
        self.register_buffer("packed", pack_nibbles(codes))
        self.register_buffer("small", small)
        self.register_buffer("scales", scales)
        self.register_buffer("mean", mean)
        self.bias = None
        if base.bias is not None:
            self.bias = nn.Parameter(base.bias.detach().clone(), requires_grad=False)
        kind = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.randn(rank, self.in_features, **kind) / rank)
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, **kind))

    @property
    def scaling(self):
        return self.alpha / self.rank

    def weight(self, dtype):
        codes = unpack_nibbles(self.packed, (self.out_features, self.in_features))
        absmax = double_dequantize(self.small, self.scales, self.mean)
        return dequantize_nf4(codes, absmax, self.block_size, dtype)

    def forward(self, x):
        y = torch.einsum("...i,oi->...o", x, self.weight(x.dtype))
        hidden = torch.einsum("...i,ri->...r", x, self.lora_A)
        y = y + self.scaling * torch.einsum("...r,or->...o", hidden, self.lora_B)
        return y if self.bias is None else y + self.bias


@torch.no_grad()
def quantize_affine(x, num_bits, block_size):
    if num_bits < 2 or num_bits > 8:
        raise ValueError("num_bits")
    top = 2**num_bits - 1
    q, scales, zeros = [], [], []
    for block in cut(x.float().reshape(-1), block_size):
        lo = min(block.min().item(), 0.0)
        hi = max(block.max().item(), 0.0)
        scale = (hi - lo) / top
        zero = round(-lo / scale) if scale else 0
        steps = torch.round(block / scale) + zero if scale else torch.zeros_like(block)
        q.append(torch.clamp(steps, 0, top).to(torch.uint8))
        scales.append(scale)
        zeros.append(zero)
    return torch.cat(q).reshape(x.shape), torch.tensor(scales), torch.tensor(zeros, dtype=torch.uint8)


def dequantize_affine(q, scale, zero_point, block_size, dtype=torch.float32):
    parts = cut(q.reshape(-1), block_size)
    if len(parts) != len(scale):
        raise ValueError("scale")
    values = [s * (part.int() - z.int()) for part, s, z in zip(parts, scale, zero_point)]
    return torch.cat(values).reshape(q.shape).to(dtype)


def pack_nibbles(codes):
    flat = codes.reshape(-1).tolist()
    if max(flat) > 15:
        raise ValueError("codes")
    if len(flat) % 2:
        flat.append(0)
    return torch.tensor([16 * a + b for a, b in zip(flat[::2], flat[1::2])], dtype=torch.uint8)


def unpack_nibbles(packed, shape):
    total = 1
    for n in shape:
        total *= n
    if packed.numel() != (total + 1) // 2:
        raise ValueError("packed")
    flat = []
    for byte in packed.tolist():
        flat += divmod(byte, 16)
    return torch.tensor(flat[:total], dtype=torch.uint8).reshape(tuple(shape))


def bits_per_parameter(block_size=64, second_block_size=256):
    if block_size < 1 or second_block_size is not None and second_block_size < 1:
        raise ValueError("block sizes")
    constants = 32 if second_block_size is None else 8 + 32 / second_block_size
    return 4 + constants / block_size
