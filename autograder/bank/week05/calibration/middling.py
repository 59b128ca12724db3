"""Week 5: NF4, double quantisation, and a LoRA layer on a quantised weight.

Complete tasks 5.1 to 5.4 below, in any order; 5.5 to 5.7 are stretch tasks, checked but without marks.
`autograder check 5` tells how far you are and `autograder check 5.2` checks one task alone. Each docstring is
the contract: the checks use the names, shapes and errors that stand there and nothing else, so everything else
is yours to choose. Helper functions, private attributes and helper modules beside this file are welcome.
Call the functions below by their names where one task needs another: while yours does not work yet, a check of a later
task may put a stand-in at its name, which takes and returns what the docstring says (where several, a plain tuple).

Blocks, everywhere: a tensor's elements are taken in row-major order, whatever its shape and its strides, and cut into
runs of block_size elements. A block may begin in one row and end in the next. The last block is shorter where the
number of elements is not a multiple of block_size. There are ceil(elements / block_size) blocks.

Near a boundary: where a value lies between two codes, within 1e-6 (of the block's constant) of their midpoint, either of
the two codes is right. Arithmetic in float32 is accurate enough everywhere.

Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv:2305.14314, sections 2 and 3.

Task   points  minutes  difficulty  importance (both from 1 to 5)
5.1        10       25           2           4
5.2        25       50           3           5
5.3        15       30           3           3
5.4        20       45           3           5
5.5   stretch       30           3           3
5.6   stretch       15           2           2
5.7   stretch       10           1           3
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def nf4_codebook() -> Tensor:
    """Task 5.1: the 16 values of NF4, from the quantiles Q of the standard normal distribution.

    A symmetric set of quantiles has no zero, so the two halves are made apart: the probabilities

    - 8 positive values: Q(p) at eight of the nine evenly spaced p from `offset` down to 1/2, which is left out;
    - zero;
    - 7 negative values: -Q(p) at seven of the eight evenly spaced p from `offset` down to 1/2, which is left out;

    all divided by the largest, Q(offset), so that they reach from -1 to 1. The offset keeps Q finite: it is the mean of
    1 - 1/30 and 1 - 1/32, which is 0.96770833. Source: section 3, "4-bit NormalFloat Quantization", whose equation (4) is
    the symmetric set; the paper's appendix lists the values, and the construction is that of its authors' code.

    Returns:
        Shape (16,), float32, ascending: -1, 0 and 1 exactly, at the indices 0, 7 and 15, and the others within 1e-6.
    """
    # the offset from the paper
    offset = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    # positive half
    p1 = torch.linspace(offset, 0.5, 9, dtype=torch.float64)
    pos = normal.icdf(p1)[:8].tolist()
    # negative half
    p2 = torch.linspace(offset, 0.5, 8, dtype=torch.float64)
    neg = normal.icdf(p2)[:7].tolist()
    neg = [-v for v in neg]
    # put together and sort
    values = pos + [0.0] + neg
    values = sorted(values)
    t = torch.tensor(values, dtype=torch.float64)
    # normalise to [-1, 1]
    t = t / t.max()
    return t.to(torch.float32)


def quantize_nf4(x: Tensor, block_size: int = 64) -> tuple[Tensor, Tensor]:
    """Task 5.2: block-wise quantisation to NF4.

    absmax is the largest |x| of each block. Each element is divided by its block's absmax and gets the index of the
    nearest value in `nf4_codebook()`; see the top of this file for blocks and for values near a midpoint.

    The size of a block plays no part: x and 2^-40 x have the same codes. A block of zeros has absmax 0 and code 7
    throughout, the index of zero. x does not change, and the results carry no gradient, also where x is a parameter.

    Source: section 2, "Block-wise k-bit Quantization".

    Args:
        x: any shape, at least one element, finite, of any floating dtype. It is converted to float32 first.
        block_size: elements in a block.

    Returns:
        codes: uint8, shape of x, from 0 to 15, one in each byte (packing them by two is task 5.6);
        absmax: float32, shape (number of blocks,).

    Raises:
        ValueError: if block_size is less than 1.
    """
    if block_size < 1:
        raise ValueError("invalid block size")
    # flatten and convert
    flat = x.detach().to(torch.float32).reshape(-1)
    n = flat.numel()
    num_blocks = math.ceil(n / block_size)
    # pad to a full number of blocks
    pad = num_blocks * block_size - n
    if pad > 0:
        flat = torch.cat([flat, torch.zeros(pad)])
    blocks = flat.reshape(num_blocks, block_size)
    # absmax per block
    absmax = torch.max(torch.abs(blocks), dim=1).values
    # avoid division by zero
    div = torch.where(absmax == 0, torch.ones_like(absmax), absmax)
    normed = blocks / div.unsqueeze(1)
    # find the nearest code
    codebook = nf4_codebook()
    dist = torch.abs(normed.unsqueeze(-1) - codebook)
    codes = torch.argmin(dist, dim=-1)
    # remove the padding
    codes = codes.reshape(-1)[:n].reshape(x.shape).to(torch.uint8)
    return codes, absmax


def dequantize_nf4(codes: Tensor, absmax: Tensor, block_size: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    """Task 5.2: what codes stand for: codebook value times the block's absmax.

    The product is computed in float32 (or wider) and rounded once, to `dtype`.

    Args:
        codes: uint8 from 0 to 15, any shape, at least one element.
        absmax: float32, shape (number of blocks,).
        block_size: as in `quantize_nf4`.
        dtype: floating dtype of the result.

    Returns:
        Shape of codes, `dtype`.

    Raises:
        ValueError: if block_size is less than 1, or absmax does not have one entry for each block.
    """
    if block_size < 1:
        raise ValueError("invalid block size")
    n = codes.numel()
    num_blocks = math.ceil(n / block_size)
    if absmax.numel() != num_blocks:
        raise ValueError("invalid absmax")
    # look up the values
    codebook = nf4_codebook()
    values = codebook[codes.reshape(-1).long()]
    # multiply by absmax
    scale = absmax.repeat_interleave(block_size)[:n]
    result = values * scale
    # cast and reshape
    return result.to(dtype).reshape(codes.shape)


def float8_codebook() -> Tensor:
    """The 256 values of the signed 8-bit dynamic float; given, for task 5.3.

    A code has a sign, e zeros, a one that ends them, and 6 - e bits of fraction: (0.1 + 0.9 fraction) 10^-e, the fraction at
    the middle of its step. 0 and 1 come in addition; -1 does not. Source: Dettmers, "8-Bit Approximations for
    Parallelism in Deep Learning", arXiv:1511.04561; Dettmers et al., "8-bit Optimizers via Block-wise Quantization",
    arXiv:2110.02861.

    Returns:
        Shape (256,), float32, ascending.
    """
    values = [(0.1 + 0.9 * (k + 0.5) / 2 ** (6 - e)) / 10**e for e in range(7) for k in range(2 ** (6 - e))]
    return torch.tensor(sorted([-v for v in values] + [0.0, 1.0] + values))


def double_quantize(absmax: Tensor, block_size: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Task 5.3: quantise the block constants themselves, to 8-bit floats.

    The constants are all positive, so their mean (one, of all of them) is subtracted first; what remains is quantised
    block by block: the scale is the largest absolute deviation of the block, and each deviation, divided by it, gets the
    index of the nearest value in `float8_codebook()`. A block whose deviations are all zero has scale 0 and the
    codes of zero.

    Source: section 3, "Double Quantization". absmax is the paper's c_2 and scales its c_1.

    Args:
        absmax: float32, shape (n,), n at least 1, none negative.
        block_size: constants in a block.

    Returns:
        codes: uint8, shape (n,);
        scales: float32, shape (number of blocks,);
        mean: float32, shape (), a tensor.

    Raises:
        ValueError: if block_size is less than 1.
    """
    if block_size < 1:
        raise ValueError("invalid block size")
    # subtract the mean
    mean = absmax.mean()
    flat = absmax - mean
    n = flat.numel()
    num_blocks = math.ceil(n / block_size)
    # pad to a full number of blocks
    pad = num_blocks * block_size - n
    if pad > 0:
        flat = torch.cat([flat, torch.zeros(pad)])
    blocks = flat.reshape(num_blocks, block_size)
    scales = torch.max(torch.abs(blocks), dim=1).values
    # avoid division by zero
    div = torch.where(scales == 0, torch.ones_like(scales), scales)
    normed = blocks / div.unsqueeze(1)
    # find the nearest code
    codebook = float8_codebook()
    dist = torch.abs(normed.unsqueeze(-1) - codebook)
    codes = torch.argmin(dist, dim=-1)
    # remove the padding
    codes = codes.reshape(-1)[:n].to(torch.uint8)
    return codes, scales, mean


def double_dequantize(codes: Tensor, scales: Tensor, mean: Tensor, block_size: int = 256) -> Tensor:
    """Task 5.3: the constants that the result of `double_quantize` stands for: codebook value times scale, plus mean.

    Args:
        codes: uint8, shape (n,).
        scales: float32, shape (number of blocks,).
        mean: float32, shape ().
        block_size: as in `double_quantize`.

    Returns:
        Shape (n,), float32.

    Raises:
        ValueError: if block_size is less than 1, or scales does not have one entry for each block.
    """
    if block_size < 1:
        raise ValueError("invalid block size")
    n = codes.numel()
    num_blocks = math.ceil(n / block_size)
    if scales.numel() != num_blocks:
        raise ValueError("invalid scales")
    # look up the values
    codebook = float8_codebook()
    values = codebook[codes.long()]
    # multiply by the scales and add the mean
    scale = scales.repeat_interleave(block_size)[:n]
    return values * scale + mean


class QLoRALinear(nn.Module):
    """A linear layer whose weight is kept in NF4 with doubly quantised constants, and LoRA factors beside it.

    Attributes:
        bias: tensor of shape (out_features,) with the values of base.bias, frozen; None if base has no bias.
        lora_A: `nn.Parameter`, shape (rank, in_features).
        lora_B: `nn.Parameter`, shape (out_features, rank).
        rank: int.
        alpha: float, as it was passed in.
        scaling: float, alpha / rank.

    lora_A and lora_B are the only trainable parameters and have the dtype of base.weight.

    What is kept of the weight is codes and constants, in tensors whose names, number and packing are yours:

    - At most one byte for each weight, one byte for each block's constant, and the second level's constants. Another 4 KiB
      are allowed, for codebooks say. So neither the weight itself nor absmax in float32 is kept, nor what is dequantised
      for a call once that call's result is gone.
    - They are buffers or frozen parameters: `load_state_dict` of another layer's `state_dict` (same sizes, block_size,
      rank and alpha, both with a bias or both without) makes a layer compute what the other one computes.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, block_size: int = 64) -> None:
        """Task 5.4: quantise base.weight and add the two factors.

        base.weight goes through `quantize_nf4` with this block_size and its absmax through `double_quantize` with that
        function's default. `base` itself is not kept and its values do not change. At the start A is random with linearly
        independent rows (how it is drawn is yours) and B is zero.

        Args:
            base: the layer to adapt, with or without a bias.
            rank: inner dimension, 1 <= rank <= min(in_features, out_features).
            alpha: numerator of the scaling.
            block_size: elements of the weight in a block.

        Raises:
            ValueError: if rank or block_size is out of its range.
        """
        super().__init__()
        if rank < 1 or rank > min(base.in_features, base.out_features):
            raise ValueError("invalid rank")
        if block_size < 1:
            raise ValueError("invalid block size")
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        self.block_size = block_size
        w = base.weight.detach().clone()
        # quantise the weight
        codes, absmax = quantize_nf4(w, block_size)
        # quantise the constants
        q, s, m = double_quantize(absmax)
        self.register_buffer("codes", codes)
        self.register_buffer("q", q)
        self.register_buffer("s", s)
        self.register_buffer("m", m)
        # bias
        if base.bias is not None:
            self.register_buffer("bias", base.bias.detach().clone())
        else:
            self.bias = None
        # lora
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, dtype=w.dtype))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=w.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Task 5.4: y = W x + b + (alpha / rank) B A x, with W dequantised to the dtype of x in every call.

        W is `dequantize_nf4` of the codes with the absmax that `double_dequantize` gives. The gradients of x, lora_A and
        lora_B are those of this equation, in every backward pass of every call; nothing else gets one, and base.weight,
        which may still be trainable outside, does not either.

        Source: section 3, equations (5) and (6).

        Args:
            x: shape (..., in_features), dtype of base.weight.

        Returns:
            Shape (..., out_features), dtype of x.
        """
        # dequantise the constants
        absmax = double_dequantize(self.q, self.s, self.m)
        # dequantise the weight
        w = dequantize_nf4(self.codes, absmax, self.block_size, x.dtype)
        out = x @ w.T
        if self.bias is not None:
            out = out + self.bias
        lora = (x @ self.lora_A.T) @ self.lora_B.T
        return out + lora * self.scaling


def quantize_affine(x: Tensor, num_bits: int, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Task 5.5 (stretch): block-wise quantisation to evenly spaced integers with a zero point, the INT4 and INT8 baseline.

    For each block, with lo = min(0, smallest x), hi = max(0, largest x) and top = 2^num_bits - 1:

        scale = (hi - lo) / top
        zero_point = round(-lo / scale)
        q = round(x / scale) + zero_point, limited to 0 ... top

    so zero is represented exactly, in blocks of one sign too. At a tie, round to either neighbour. A block of zeros has
    scale, zero_point and q equal to 0. x does not change, and the results carry no gradient.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", arXiv:1712.05877, section 2.1, equation (1).

    Args:
        x: any shape, at least one element, finite, of any floating dtype. It is converted to float32 first.
        num_bits: from 2 to 8.
        block_size: elements in a block.

    Returns:
        q: uint8, shape of x;
        scale: float32, shape (number of blocks,);
        zero_point: uint8, shape (number of blocks,).

    Raises:
        ValueError: if num_bits is out of its range or block_size is less than 1.
    """
    if num_bits < 2 or num_bits > 8:
        raise ValueError("invalid number of bits")
    if block_size < 1:
        raise ValueError("invalid block size")
    # flatten and convert
    flat = x.detach().to(torch.float32).reshape(-1)
    n = flat.numel()
    num_blocks = math.ceil(n / block_size)
    # pad to a full number of blocks
    pad = num_blocks * block_size - n
    if pad > 0:
        flat = torch.cat([flat, torch.zeros(pad)])
    blocks = flat.reshape(num_blocks, block_size)
    # min and max, zero included
    lo = torch.clamp(blocks.min(dim=1).values, max=0)
    hi = torch.clamp(blocks.max(dim=1).values, min=0)
    top = 2**num_bits - 1
    scale = (hi - lo) / top
    # avoid division by zero
    div = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.round(-lo / div)
    q = torch.round(blocks / div.unsqueeze(1)) + zero_point.unsqueeze(1)
    q = torch.clamp(q, 0, top)
    # remove the padding
    q = q.reshape(-1)[:n].reshape(x.shape).to(torch.uint8)
    return q, scale, zero_point.to(torch.uint8)


def dequantize_affine(
    q: Tensor, scale: Tensor, zero_point: Tensor, block_size: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Task 5.5 (stretch): scale (q - zero_point), computed in float32 (or wider) and rounded once, to `dtype`.

    Args:
        q: uint8, any shape, at least one element.
        scale: float32, shape (number of blocks,).
        zero_point: uint8, shape (number of blocks,).
        block_size: as in `quantize_affine`.
        dtype: floating dtype of the result.

    Returns:
        Shape of q, `dtype`.

    Raises:
        ValueError: if block_size is less than 1, or scale does not have one entry for each block.
    """
    if block_size < 1:
        raise ValueError("invalid block size")
    n = q.numel()
    num_blocks = math.ceil(n / block_size)
    if scale.numel() != num_blocks:
        raise ValueError("invalid scale")
    # expand per block values
    s = scale.repeat_interleave(block_size)[:n]
    z = zero_point.repeat_interleave(block_size)[:n].float()
    result = s * (q.reshape(-1).float() - z)
    # cast and reshape
    return result.to(dtype).reshape(q.shape)


def pack_nibbles(codes: Tensor) -> Tensor:
    """Task 5.6 (stretch): two codes in a byte, in row-major order, the first of each pair in the high half.

    Where the number of codes is odd, the low half of the last byte is 0. codes does not change.

    Args:
        codes: uint8 from 0 to 15, any shape, at least one element.

    Returns:
        uint8, shape (ceil(elements / 2),).

    Raises:
        ValueError: if a code is larger than 15.
    """
    flat = codes.reshape(-1)
    if flat.max() > 15:
        raise ValueError("invalid code")
    # pad if odd
    if flat.numel() % 2 == 1:
        flat = torch.cat([flat, torch.zeros(1, dtype=torch.uint8)])
    # even and odd positions
    first = flat[0::2]
    second = flat[1::2]
    return first * 16 + second


def unpack_nibbles(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Task 5.6 (stretch): the codes that `pack_nibbles` packed.

    Args:
        packed: uint8, shape (bytes,).
        shape: of the codes.

    Returns:
        uint8, that shape.

    Raises:
        ValueError: if the number of bytes is not the one that codes of that shape are packed into.
    """
    n = 1
    for s in shape:
        n = n * s
    if packed.numel() != math.ceil(n / 2):
        raise ValueError("invalid number of bytes")
    # even and odd positions
    result = torch.zeros(2 * packed.numel(), dtype=torch.uint8)
    result[0::2] = packed // 16
    result[1::2] = packed % 16
    return result[:n].reshape(tuple(shape))


def bits_per_parameter(block_size: int = 64, second_block_size: int | None = 256) -> float:
    """Task 5.7 (stretch): bits of storage for each weight: its 4-bit code, and its share of the constants.

    Without double quantisation a block has one float32 constant. With it, a block has an 8-bit constant, and each
    second_block_size of these have one float32 constant. The single mean, and what a shorter last block adds, do not count.

    Source: section 3, "Double Quantization": 0.127 bits of constants in place of 0.5.

    Args:
        block_size: weights in a block, at least 1.
        second_block_size: constants in a block of the second level, at least 1; None: no double quantisation.

    Raises:
        ValueError: if a block size is less than 1.
    """
    if block_size < 1:
        raise ValueError("invalid block size")
    # without double quantisation
    if second_block_size is None:
        return 4 + 32 / block_size
    if second_block_size < 1:
        raise ValueError("invalid block size")
    # with double quantisation
    return 4 + 8 / block_size + 32 / (block_size * second_block_size)

# stub 5938ab0d332d844e
