"""Each element knows the number of its block: scatter, gather, bucketize. The printed table, with the offset's quantiles."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)


def nf4_codebook() -> Tensor:
    return torch.tensor(NF4)


def block_numbers(tensor: Tensor, block_size: int) -> Tensor:
    if block_size < 1:
        raise ValueError("block_size < 1")
    return torch.div(torch.arange(tensor.numel()), block_size, rounding_mode="floor")


def reduce_blocks(flat: Tensor, numbers: Tensor, how: str) -> Tensor:
    return torch.zeros(int(numbers[-1]) + 1).scatter_reduce_(0, numbers, flat, how)


def spread(constants: Tensor, tensor: Tensor, block_size: int) -> Tensor:
    numbers = block_numbers(tensor, block_size)
    if constants.numel() != numbers[-1] + 1:
        raise ValueError("constants and blocks differ in number")
    return constants.gather(0, numbers).reshape(tensor.shape)


def relative(flat: Tensor, constants: Tensor) -> Tensor:
    return torch.where(constants > 0, flat / constants, torch.zeros_like(flat))


def midpoints(table: Tensor) -> Tensor:
    return table[:-1] + torch.diff(table) / 2


def quantize_nf4(x: Tensor, block_size: int = 64) -> tuple[Tensor, Tensor]:
    flat = x.data.float().reshape(-1)
    numbers = block_numbers(flat, block_size)
    absmax = reduce_blocks(flat.abs(), numbers, "amax")
    codes = torch.bucketize(relative(flat, absmax[numbers]), midpoints(nf4_codebook()), right=True)
    return codes.to(torch.uint8).reshape(x.shape), absmax


def dequantize_nf4(codes: Tensor, absmax: Tensor, block_size: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    one_hot = F.one_hot(codes.long(), 16).double() @ nf4_codebook().double()
    return (one_hot * spread(absmax, codes, block_size)).to(dtype)


def float8_codebook() -> Tensor:
    values = [(0.1 + 0.9 * (k + 0.5) / 2 ** (6 - e)) / 10**e for e in range(7) for k in range(2 ** (6 - e))]
    return torch.tensor(sorted([-v for v in values] + [0.0, 1.0] + values))


def double_quantize(absmax: Tensor, block_size: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    mean = absmax.sum() / absmax.numel()
    offsets = absmax - mean
    numbers = block_numbers(offsets, block_size)
    scales = reduce_blocks(offsets.abs(), numbers, "amax")
    codes = torch.bucketize(relative(offsets, scales[numbers]), midpoints(float8_codebook()))
    return codes.to(torch.uint8), scales, mean


def double_dequantize(codes: Tensor, scales: Tensor, mean: Tensor, block_size: int = 256) -> Tensor:
    return torch.addcmul(mean, float8_codebook()[codes.int()], spread(scales, codes, block_size))


class QLoRALinear(nn.Module):
    bias: Tensor | None

    def __init__(self, base: nn.Linear, rank: int, alpha: float, block_size: int = 64) -> None:
        super().__init__()
        if rank <= 0:
            raise ValueError("rank must be positive")
        if rank > base.in_features or rank > base.out_features:
            raise ValueError("rank is too large")
        self.rank = rank
        self.alpha = float(alpha)
        self.scaling = self.alpha / self.rank
        self.block = block_size
        with torch.no_grad():
            codes, absmax = quantize_nf4(base.weight, self.block)
            second = double_quantize(absmax)
        self.register_buffer("nf4", codes)
        self.register_buffer("fp8", second[0])
        self.register_buffer("fp32", torch.cat([second[1], second[2].reshape(1)]))
        self.register_buffer("bias", base.bias.detach() if base.bias is not None else None)
        self.lora_A = nn.Parameter(torch.empty_like(base.weight[:1].detach()).repeat(rank, 1))
        self.lora_B = nn.Parameter(torch.zeros_like(base.weight[:, :1].detach()).repeat(1, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            absmax = double_dequantize(self.fp8, self.fp32[:-1], self.fp32[-1])
            frozen = dequantize_nf4(self.nf4, absmax, self.block, x.dtype)
        update = F.linear(F.linear(x, self.scaling * self.lora_A), self.lora_B)
        return torch.add(F.linear(x, frozen, bias=self.bias), update)


def quantize_affine(x: Tensor, num_bits: int, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
    if num_bits < 2:
        raise ValueError("num_bits < 2")
    if num_bits > 8:
        raise ValueError("num_bits > 8")
    flat = x.data.float().reshape(-1)
    numbers = block_numbers(flat, block_size)
    lo, hi = reduce_blocks(flat, numbers, "amin"), reduce_blocks(flat, numbers, "amax")  # zero takes part
    steps = 2**num_bits - 1
    scale = (hi - lo) / steps
    zero_point = torch.floor(relative(-lo, scale) + 0.5)
    q = torch.floor(relative(flat, scale[numbers]) + 0.5) + zero_point[numbers]
    q = torch.minimum(q, torch.tensor(float(steps))).relu()
    return q.reshape(x.shape).to(torch.uint8), scale, zero_point.to(torch.uint8)


def dequantize_affine(
    q: Tensor, scale: Tensor, zero_point: Tensor, block_size: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    factor, offset = spread(scale, q, block_size).double(), spread(zero_point, q, block_size).double()
    return torch.mul(factor, q.double() - offset).to(dtype)


def pack_nibbles(codes: Tensor) -> Tensor:
    if not bool((codes < 16).all()):
        raise ValueError("codes must be below 16")
    flat = codes.reshape(-1)
    high = flat[0::2]
    low = torch.zeros_like(high)
    low[: flat[1::2].numel()] = flat[1::2]
    return torch.bitwise_or(torch.bitwise_left_shift(high, 4), low)


def unpack_nibbles(packed: Tensor, shape) -> Tensor:
    size = torch.Size(shape)
    if packed.numel() * 2 not in (size.numel(), size.numel() + 1):
        raise ValueError("wrong number of bytes")
    position = torch.arange(size.numel())
    byte, shift = packed[position // 2], 4 * (1 - position % 2)
    return ((byte >> shift.to(torch.uint8)) & 15).reshape(size)


def bits_per_parameter(block_size: int = 64, second_block_size: int | None = 256) -> float:
    if block_size < 1:
        raise ValueError("block_size < 1")
    if second_block_size is None:
        return (4 * block_size + 32) / block_size
    if second_block_size < 1:
        raise ValueError("second_block_size < 1")
    weights = block_size * second_block_size
    return (4 * weights + 8 * second_block_size + 32) / weights
