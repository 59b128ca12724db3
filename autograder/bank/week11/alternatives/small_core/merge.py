"""Decompositions of the small core, sums by einsum and where; the exported model is rebuilt by recursion."""

import copy
import math
from collections import Counter
from typing import NamedTuple

import torch
from spectrum import factors_svd, widened
from torch import Tensor, nn


class LoRA(NamedTuple):
    lora_A: Tensor
    lora_B: Tensor
    alpha: float


class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        self.base, self.alpha = base.requires_grad_(False), alpha
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        branch = self.dropout(x) @ self.lora_A.T @ self.lora_B.T
        return self.base(x) + branch * (self.alpha / len(self.lora_A))


def update(lora, dtype):
    B, A = lora.lora_B.to(dtype), lora.lora_A.to(dtype)
    return torch.einsum("or,ri->oi", B, A).mul_(lora.alpha / A.size(0))


def merge_loras(base, adapters, weights, dtype=torch.float16):
    if len(adapters) != len(weights):
        raise ValueError("one weight for each adapter")
    named = Counter(name for adapter in adapters for name in adapter)
    if any(name not in base for name in named):
        raise ValueError("an adapter for nothing")
    work = torch.float64 if dtype == torch.float64 else torch.float32

    def one(name, value):
        if not value.dtype.is_floating_point:
            return value
        parts = [value.to(work)]
        parts += [w * update(a[name], work) for a, w in zip(adapters, weights, strict=True) if name in a]
        result = torch.stack(parts).sum(0).to(dtype)
        if torch.isinf(result).any():
            raise OverflowError(f"{name} overflows {dtype}")
        return result

    return {name: one(name, value) for name, value in base.items()}


def ties_merge(deltas, density, scale=1.0):
    if not deltas:
        raise ValueError("nothing to merge")
    if not 0.0 < density <= 1.0:
        raise ValueError("density")
    if any(d.shape != deltas[0].shape for d in deltas):
        raise ValueError("shapes")
    kept = [keep_largest(d, density) for d in deltas]
    total = sum(kept)
    up = sum(k.clamp(min=0) for k in kept) / sum((k > 0).int() for k in kept).clamp(min=1)
    down = sum(k.clamp(max=0) for k in kept) / sum((k < 0).int() for k in kept).clamp(min=1)
    chosen = torch.where(total > 0, up, torch.where(total < 0, down, torch.zeros_like(up)))
    return chosen * scale


def keep_largest(delta, density):
    count = int(density * delta.numel()) or 1
    bar = delta.abs().reshape(-1).sort(descending=True).values[count - 1]
    return torch.where(delta.abs() >= bar, delta, torch.zeros_like(delta))


def svd_compress(lora, rank):
    if rank not in range(1, lora.lora_A.size(0) + 1):
        raise ValueError("rank")
    B, A = widened(lora.lora_B, lora.lora_A)
    U, S, Vh = factors_svd(B, A)
    A = S[:rank, None] * Vh[:rank] * (rank / lora.lora_A.size(0))
    return lora._replace(lora_A=A.to(lora.lora_A.dtype), lora_B=U[:, :rank].to(lora.lora_B.dtype))


def prune_by_energy(lora, energy):
    if energy <= 0 or energy > 1:
        raise ValueError("energy")
    _, S, _ = factors_svd(*widened(lora.lora_B, lora.lora_A))
    tail = torch.flip(torch.cumsum(torch.flip(S**2, [0]), 0), [0])  # energy of the directions from k on
    lost = [float(t) for t in tail[1:]] + [0.0]
    rank = next(k for k, t in enumerate(lost, 1) if t <= (1 - energy) * float(tail[0]))
    return svd_compress(lora, rank)


def plain(module):
    for name, child in module.named_children():
        setattr(module, name, plain(child))
    if not isinstance(module, LoRALinear):
        return module
    base = module.base
    W = base.weight + update(LoRA(module.lora_A, module.lora_B, module.alpha), base.weight.dtype)
    base.weight = nn.Parameter(W.detach(), requires_grad=False)
    return base


def export_onnx(model, example, path):
    served = plain(copy.deepcopy(model)).eval()
    rows = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        served, (example,), dynamo=True, input_names=["x"], output_names=["y"], dynamic_shapes=({0: rows},), verbose=False
    )
    program.save(path, external_data=False)


def dare(delta, drop_rate, generator):
    if not 0 <= drop_rate < 1:
        raise ValueError("drop_rate")
    draws = torch.empty(delta.numel()).uniform_(generator=generator).reshape(delta.shape)
    return delta.div(1 - drop_rate).masked_fill(draws < drop_rate, 0)


def compress_int8(weight):
    largest = torch.linalg.vector_norm(weight, ord=math.inf, dim=1, keepdim=True)
    largest = torch.where(largest == 0, torch.ones_like(largest), largest)
    codes = torch.floor(weight * 127 / largest + 0.5).clamp(-127, 127)
    return codes.to(torch.int8), largest / 127


def decompress_int8(codes, scale):
    return torch.mul(codes, scale)


def ewc_penalty(parameters, old, fisher, strength):
    flat = [torch.cat([t[name].reshape(-1) for name in old]) for t in (parameters, old, fisher)]
    gap = flat[0] - flat[1].detach()
    return torch.dot(flat[2].detach(), gap.square()) * (strength / 2)


def stack_tasks(loras):
    A, B = [], []
    for lora in loras:
        A += lora.lora_A.unbind(0)
        B += (lora.lora_B * (lora.alpha / lora.lora_A.size(0))).unbind(1)
    return LoRA(lora_A=torch.stack(A), lora_B=torch.stack(B, dim=1), alpha=1.0 * len(A))
