"""Adapters are concatenated to one wide product; masks instead of sorting; the file is made from an exported program."""

import copy
from typing import NamedTuple

import torch
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


def wide_factors(loras, dtype):
    A = torch.vstack([lora.lora_A.to(dtype) for lora, _ in loras])
    B = torch.hstack([lora.lora_B.to(dtype) * (w * lora.alpha / lora.lora_A.shape[0]) for lora, w in loras])
    return A, B


def merge_loras(base, adapters, weights, dtype=torch.float16):
    if len(weights) != len(adapters):
        raise ValueError("weights")
    targets = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, lora in adapter.items():
            targets.setdefault(name, []).append((lora, float(weight)))
    if not targets.keys() <= base.keys():
        raise ValueError("unknown weight")
    merged = dict(base)
    for name, value in base.items():
        if value.is_floating_point():
            total = value.to(torch.float64)
            if name in targets:
                A, B = wide_factors(targets[name], torch.float64)
                total = torch.addmm(total, B, A)
            merged[name] = total.to(dtype)
            if not torch.all(torch.isfinite(merged[name])):
                raise OverflowError(name)
    return merged


def ties_merge(deltas, density, scale=1.0):
    if not 0 < density <= 1 or len(deltas) == 0 or len({tuple(d.shape) for d in deltas}) > 1:
        raise ValueError("cannot merge these")
    stack = torch.stack(tuple(deltas))
    magnitude = stack.abs().flatten(1)
    count = max(1, int(density * magnitude.shape[1]))
    rank_of = magnitude.argsort(dim=1, descending=True).argsort(dim=1)
    stack = stack * (rank_of < count).reshape(stack.shape)
    positive, negative = stack.clamp(min=0), stack.clamp(max=0)
    mass_up, mass_down = positive.sum(0), -negative.sum(0)
    side = torch.where(mass_up > mass_down, positive, negative)
    number = (side != 0).sum(0)
    mean = side.sum(0) / torch.where(number == 0, torch.ones_like(number), number)
    return torch.where(mass_up == mass_down, torch.zeros_like(mean), mean) * scale


def spectrum(lora):
    dtype = lora.lora_B.dtype if lora.lora_B.dtype.itemsize >= 4 else torch.float32
    A, B = lora.lora_A.to(dtype), lora.lora_B.to(dtype)
    return torch.svd(B @ A)


def svd_compress(lora, rank):
    r = lora.lora_A.shape[0]
    if rank <= 0 or rank > r:
        raise ValueError("rank")
    U, S, V = spectrum(lora)
    new_A = V.T[:rank] * S[:rank].sqrt()[:, None]
    new_B = U[:, :rank] @ torch.diag(S[:rank].sqrt())
    return LoRA(new_A.to(lora.lora_A.dtype), (new_B / (r / rank)).to(lora.lora_B.dtype), lora.alpha)


def prune_by_energy(lora, energy):
    if not 0 < energy <= 1:
        raise ValueError("energy")
    S = spectrum(lora)[1][: lora.lora_A.shape[0]].double()
    wanted, held, rank = energy * (S * S).sum().item(), 0.0, 0
    for value in S.tolist():
        held, rank = held + value * value, rank + 1
        if held >= wanted:
            break
    return svd_compress(lora, rank)


def export_onnx(model, example, path):
    twin = copy.deepcopy(model)
    twin.requires_grad_(False)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is LoRALinear:
                A, B = wide_factors([(LoRA(child.lora_A, child.lora_B, child.alpha), 1.0)], torch.float32)
                child.base.weight.copy_(torch.addmm(child.base.weight, B, A))
                setattr(parent, name, child.base)
    twin.eval()
    program = torch.export.export(twin, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.onnx.export(program, (), path, dynamo=True, input_names=("x",), output_names=("y",))


def dare(delta, drop_rate, generator):
    if not 0.0 <= drop_rate < 1.0:
        raise ValueError("drop_rate")
    keep = 1.0 - drop_rate
    mask = torch.empty_like(delta).bernoulli_(keep, generator=generator).bool()
    return torch.where(mask, delta / keep, torch.zeros_like(delta))


def compress_int8(weight):
    scale = torch.max(weight.abs(), dim=1, keepdim=True).values.div(127)
    ratio = torch.nan_to_num(weight / scale)
    return ratio.round().type(torch.int8), scale


def decompress_int8(codes, scale):
    return torch.diag(scale[:, 0]) @ codes.to(scale.dtype)


def ewc_penalty(parameters, old, fisher, strength):
    with torch.no_grad():
        weights = {name: fisher[name].detach().clone() for name in old}
        anchor = {name: old[name].detach().clone() for name in old}
    return sum(0.5 * strength * (weights[name] * (parameters[name] - anchor[name]).pow(2)).sum() for name in old)


def stack_tasks(loras):
    A, B = wide_factors([(lora, 1.0) for lora in loras], loras[0].lora_A.dtype)
    return LoRA(A, B, float(A.shape[0]))
