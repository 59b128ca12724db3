"""NumPy in float64 and plain loops; torch at the edges only."""

import copy
from typing import NamedTuple

import numpy as np
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


def array(t):
    return t.detach().to(torch.float64).cpu().numpy().copy()


def scaled(lora):
    return (lora.alpha / lora.lora_A.shape[0]) * (array(lora.lora_B) @ array(lora.lora_A))


def merge_loras(base, adapters, weights, dtype=torch.float16):
    if len(list(weights)) != len(list(adapters)):
        raise ValueError("adapters and weights differ in number")
    for adapter in adapters:
        for name in adapter:
            if name not in base:
                raise ValueError(name)
    result = {}
    for name in base:
        if not torch.is_floating_point(base[name]):
            result[name] = base[name].clone()
            continue
        total = array(base[name])
        for k in range(len(adapters)):
            if adapters[k].get(name) is not None:
                total += weights[k] * scaled(adapters[k][name])
        if np.abs(total).max(initial=0.0) > torch.finfo(dtype).max:
            raise OverflowError(name)
        result[name] = torch.from_numpy(total).to(dtype)
    return result


def ties_merge(deltas, density, scale=1.0):
    if density <= 0 or density > 1 or len(deltas) == 0:
        raise ValueError("density or number of updates")
    for delta in deltas:
        if tuple(delta.shape) != tuple(deltas[0].shape):
            raise ValueError("shapes differ")
    flat = [array(delta).ravel() for delta in deltas]
    size = flat[0].size
    count = max(int(density * size), 1)
    for v in flat:
        order = np.argsort(-np.abs(v), kind="stable")
        v[order[count:]] = 0.0
    merged = np.zeros(size)
    for i in range(size):
        column = [v[i] for v in flat]
        mass = sum(column)
        if mass > 0:
            side = [c for c in column if c > 0]
        elif mass < 0:
            side = [c for c in column if c < 0]
        else:
            side = []
        if side:
            merged[i] = sum(side) / len(side)
    out = torch.from_numpy(scale * merged).reshape(deltas[0].shape)
    return out.to(deltas[0].dtype)


def svd_compress(lora, rank):
    old = lora.lora_A.shape[0]
    if rank < 1 or rank > old:
        raise ValueError("rank")
    U, S, Vh = np.linalg.svd(array(lora.lora_B) @ array(lora.lora_A), full_matrices=False)
    root = np.sqrt(S[:rank] * rank / old)
    dtype = lora.lora_A.dtype
    A = torch.from_numpy(root[:, None] * Vh[:rank]).to(dtype)
    return LoRA(A, torch.from_numpy(U[:, :rank] * root).to(dtype), lora.alpha)


def prune_by_energy(lora, energy):
    if not (energy > 0 and energy <= 1):
        raise ValueError("energy")
    power = np.linalg.svd(array(lora.lora_B) @ array(lora.lora_A), compute_uv=False) ** 2
    total = power.sum()
    k = 1
    while k < lora.lora_A.shape[0] and power[:k].sum() < energy * total * (1 - 1e-12):
        k += 1
    return svd_compress(lora, k)


def export_onnx(model, example, path):
    clone = copy.deepcopy(model)
    clone.train(False)
    for name, module in [(n, m) for n, m in clone.named_modules() if isinstance(m, LoRALinear)]:
        plain = nn.Linear(module.base.in_features, module.base.out_features, bias=module.base.bias is not None)
        with torch.no_grad():
            update = torch.from_numpy(scaled(LoRA(module.lora_A, module.lora_B, module.alpha))).float()
            plain.weight.copy_(module.base.weight + update)
            if plain.bias is not None:
                plain.bias.copy_(module.base.bias)
        *parents, last = name.split(".")
        parent = clone
        for part in parents:
            parent = getattr(parent, part)
        setattr(parent, last, plain)
    torch.onnx.export(
        clone,
        (example,),
        str(path),
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=[{0: torch.export.Dim("batch", min=1)}],
        dynamo=True,
    )


def dare(delta, drop_rate, generator):
    if drop_rate < 0 or drop_rate >= 1:
        raise ValueError("drop_rate")
    chance = torch.full(delta.shape, 1 - drop_rate, dtype=torch.float64)
    mask = torch.bernoulli(chance, generator=generator)
    return (delta.double() * mask / (1 - drop_rate)).to(delta.dtype)


def compress_int8(weight):
    w = weight.detach().numpy()
    scales = np.zeros((w.shape[0], 1), w.dtype)
    codes = np.zeros(w.shape, np.int8)
    for i, row in enumerate(w):
        biggest = max(row.max(), -row.min())
        scales[i, 0] = biggest / 127
        if biggest > 0:
            codes[i] = np.rint(row / scales[i, 0])
    return torch.from_numpy(codes), torch.from_numpy(scales)


def decompress_int8(codes, scale):
    return torch.from_numpy(codes.numpy() * scale.numpy())


def ewc_penalty(parameters, old, fisher, strength):
    total = 0.0
    for name in old:
        gap = parameters[name] - old[name].data
        total = total + 0.5 * strength * torch.sum(fisher[name].data * gap * gap)
    return total


def stack_tasks(loras):
    rank = sum(lora.lora_A.shape[0] for lora in loras)
    A = loras[0].lora_A.new_empty(rank, loras[0].lora_A.shape[1])
    B = loras[0].lora_B.new_empty(loras[0].lora_B.shape[0], rank)
    at = 0
    for lora in loras:
        r = lora.lora_A.shape[0]
        A[at : at + r] = lora.lora_A
        B[:, at : at + r] = lora.lora_B * (lora.alpha / r)
        at += r
    return LoRA(A, B, float(rank))
