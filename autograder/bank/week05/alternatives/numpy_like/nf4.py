"""NumPy inside, in float64; the layer is an autograd function that dequantises again in the backward pass."""

import numpy as np
import torch
from scipy.stats import norm
from torch import nn


def nf4_codebook():
    p = 0.5 * (29 / 30 + 31 / 32)
    upper = norm.ppf(np.linspace(p, 0.5, 9)[:8])
    lower = norm.ppf(np.linspace(1 - p, 0.5, 8)[:7])
    values = np.sort(np.concatenate([lower, [0.0], upper])) / norm.ppf(p)
    return torch.from_numpy(values.astype(np.float32))


def _array(tensor):
    return tensor.detach().to(torch.float32).cpu().numpy()


def _edges(count, block_size):
    if block_size < 1:
        raise ValueError("a block has at least one element")
    return np.arange(0, count, block_size)


def _block_of(count, block_size):
    return np.arange(count) // block_size


def _largest(values, block_size):
    return np.maximum.reduceat(np.abs(values), _edges(values.size, block_size))


def _search(values, table):
    return np.searchsorted((table[1:] + table[:-1]) / 2, values).astype(np.uint8)


def _divide(values, constants, block_size):
    divisors = np.where(constants == 0, 1.0, constants.astype(np.float64))
    return values / divisors[_block_of(values.size, block_size)]


def _check(constants, count, block_size):
    if len(constants) != len(_edges(count, block_size)):
        raise ValueError("the constants do not belong to these codes")


def quantize_nf4(x, block_size=64):
    values = _array(x).reshape(-1)
    absmax = _largest(values, block_size)
    table = nf4_codebook().numpy().astype(np.float64)
    codes = _search(_divide(values, absmax, block_size), table)
    return torch.from_numpy(codes.reshape(tuple(x.shape))), torch.from_numpy(absmax)


def dequantize_nf4(codes, absmax, block_size=64, dtype=torch.float32):
    count = codes.numel()
    _check(absmax, count, block_size)
    table = nf4_codebook().numpy()
    values = table[codes.numpy().reshape(-1)] * absmax.numpy()[_block_of(count, block_size)]
    return torch.from_numpy(values.reshape(tuple(codes.shape))).to(dtype)


def float8_codebook():
    values = [(0.1 + 0.9 * (k + 0.5) / 2 ** (6 - e)) / 10**e for e in range(7) for k in range(2 ** (6 - e))]
    return torch.tensor(sorted([-v for v in values] + [0.0, 1.0] + values))


def double_quantize(absmax, block_size=256):
    values = absmax.numpy()
    mean = values.mean(dtype=np.float64).astype(np.float32)
    deviations = values - mean
    scales = _largest(deviations, block_size)
    codes = _search(_divide(deviations, scales, block_size), float8_codebook().numpy().astype(np.float64))
    return torch.from_numpy(codes), torch.from_numpy(scales), torch.tensor(mean)


def double_dequantize(codes, scales, mean, block_size=256):
    _check(scales, len(codes), block_size)
    values = float8_codebook().numpy()[codes.numpy()]
    values = values * scales.numpy()[_block_of(len(codes), block_size)]
    return torch.from_numpy(values + mean.numpy())


class Quantised(torch.autograd.Function):
    """x W^T for a W that exists during a product only."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return x @ layer.dequantised(x.dtype).t()

    @staticmethod
    def backward(ctx, g):
        return g @ ctx.layer.dequantised(g.dtype), None


class QLoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, block_size=64):
        super().__init__()
        rows, columns = base.weight.shape
        if not 0 < rank <= min(rows, columns):
            raise ValueError("rank is out of range")
        self.rank, self.alpha, self.block_size = rank, alpha, block_size
        self.scaling = alpha / rank
        codes, absmax = quantize_nf4(base.weight.data, block_size)
        c8, c32, mean = double_quantize(absmax)
        for name, value in {"codes": codes, "c8": c8, "c32": c32, "mean": mean}.items():
            self.register_buffer(name, value)
        if base.bias is None:
            self.bias = None
        else:
            self.register_buffer("bias", base.bias.data)
        directions = np.linalg.qr(np.random.standard_normal((columns, rank)))[0].T
        self.lora_A = nn.Parameter(torch.from_numpy(directions.copy()).to(base.weight.dtype))
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight.data[:, :rank]))

    def dequantised(self, dtype):
        absmax = double_dequantize(self.c8, self.c32, self.mean)
        return dequantize_nf4(self.codes, absmax, self.block_size, dtype)

    def forward(self, x):
        y = Quantised.apply(x, self)
        y = y + (x @ self.lora_A.t()) @ (self.scaling * self.lora_B.t())
        if self.bias is not None:
            y = y + self.bias
        return y


def quantize_affine(x, num_bits, block_size):
    if num_bits not in range(2, 9):
        raise ValueError("num_bits")
    values = _array(x).reshape(-1).astype(np.float64)
    edges = _edges(values.size, block_size)
    lo = np.minimum(np.minimum.reduceat(values, edges), 0)
    hi = np.maximum(np.maximum.reduceat(values, edges), 0)
    levels = 2**num_bits - 1
    scale = (hi - lo) / levels
    divisor = np.where(scale > 0, scale, 1)
    zero_point = np.rint(-lo / divisor)
    where = _block_of(values.size, block_size)
    q = np.clip(np.rint(values / divisor[where]) + zero_point[where], 0, levels)
    shaped = torch.from_numpy(q.astype(np.uint8).reshape(tuple(x.shape)))
    return shaped, torch.from_numpy(scale.astype(np.float32)), torch.from_numpy(zero_point.astype(np.uint8))


def dequantize_affine(q, scale, zero_point, block_size, dtype=torch.float32):
    _check(scale, q.numel(), block_size)
    where = _block_of(q.numel(), block_size)
    steps = q.numpy().reshape(-1).astype(np.float32) - zero_point.numpy()[where]
    return torch.from_numpy((steps * scale.numpy()[where]).reshape(tuple(q.shape))).to(dtype)


def pack_nibbles(codes):
    flat = codes.numpy().reshape(-1)
    if np.any(flat >= 16):
        raise ValueError("not a nibble")
    data = np.zeros((flat.size + 1) // 2, np.uint8)
    data |= flat[0::2] << 4
    data[: flat.size // 2] |= flat[1::2]
    return torch.from_numpy(data)


def unpack_nibbles(packed, shape):
    count = int(np.prod(shape))
    data = packed.numpy()
    if 2 * data.size - count not in (0, 1):
        raise ValueError("another number of bytes belongs to this shape")
    flat = np.empty(2 * data.size, np.uint8)
    flat[0::2] = data // 16
    flat[1::2] = data % 16
    return torch.from_numpy(flat[:count].reshape(tuple(shape)))


def bits_per_parameter(block_size=64, second_block_size=256):
    if min(block_size, second_block_size or 1) < 1 or second_block_size == 0:
        raise ValueError("a block has at least one element")
    bits = 4.0
    if second_block_size is None:
        return bits + 32 / block_size
    bits += 8 / block_size
    bits += 32 / block_size / second_block_size
    return bits
