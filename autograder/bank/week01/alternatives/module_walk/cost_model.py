"""Modules are walked by hand, parameters are told apart by their ids, and a recipe is a class."""

from dataclasses import dataclass

import torch


def _walk(module, prefix=""):
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield prefix + name, parameter
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{prefix}{name}.")


def count_parameters(model):
    seen = set()
    trainable = frozen = 0
    for _, parameter in _walk(model):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        if parameter.requires_grad:
            trainable += parameter.numel()
        else:
            frozen += parameter.numel()
    everything = trainable + frozen
    try:
        percent = trainable / everything * 100
    except ZeroDivisionError:
        percent = 0
    return dict(total=everything, trainable=trainable, frozen=frozen, percent=percent)


def lora_parameter_count(shapes, rank):
    count = 0
    if rank < 1:
        raise ValueError("rank must be positive")
    for rows, columns in shapes:
        if rank > rows or rank > columns:
            raise ValueError(f"rank {rank} is too large for {rows} x {columns}")
        A = torch.empty(rank, columns, device="meta")
        B = torch.empty(rows, rank, device="meta")
        count += A.numel() + B.numel()
    return count


@dataclass(frozen=True)
class Recipe:
    low_precision: bool
    adapters: bool
    may_quantise: bool = False

    @property
    def weight_bytes(self):
        return 2 if self.low_precision else 4

    @property
    def gradient_bytes(self):
        return 2 if self.low_precision and not self.adapters else 4

    @property
    def optimizer_bytes(self):
        moments = 2 * 4
        master = 4 if self.low_precision and not self.adapters else 0
        return moments + master


RECIPES = {
    "full_fp32": Recipe(low_precision=False, adapters=False),
    "full_mixed": Recipe(low_precision=True, adapters=False),
    "lora": Recipe(low_precision=True, adapters=True),
    "qlora": Recipe(low_precision=True, adapters=True, may_quantise=True),
}


def training_memory(n_params, n_trainable, recipe, n_quantised=0, unit="B"):
    try:
        how = RECIPES[recipe]
        size = {"B": 1.0, "GB": 1e9, "GiB": 1024.0**3}[unit]
    except KeyError as error:
        raise ValueError(f"unknown: {error}") from None
    if n_trainable < 0:
        raise ValueError("n_trainable is negative")
    if not how.adapters and n_trainable > n_params:
        raise ValueError("more parameters train than there are")
    if n_quantised < 0 or n_quantised > n_params:
        raise ValueError("n_quantised is out of range")
    if n_quantised and not how.may_quantise:
        raise ValueError(f"{recipe} quantises nothing")
    nf4_bytes = (4 + 8 / 64 + 32 / (64 * 256)) / 8
    weights = how.weight_bytes * n_params
    weights -= (how.weight_bytes - nf4_bytes) * n_quantised
    result = {
        "gradients": how.gradient_bytes * n_trainable / size,
        "optimizer": how.optimizer_bytes * n_trainable / size,
        "weights": weights / size,
        "lora": 4 * n_trainable / size if how.adapters else 0.0,
    }
    result["total"] = result["weights"] + result["lora"] + result["gradients"] + result["optimizer"]
    return result


def training_energy(gpu_hours, watts, pue, intensity):
    for name, value, least in (("gpu_hours", gpu_hours, 0), ("watts", watts, 0), ("pue", pue, 1), ("intensity", intensity, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}")
    joules = gpu_hours * 3600 * watts * pue
    kwh = joules / 3.6e6
    grams = kwh * intensity
    return kwh, grams / 1000


def select_trainable(model, method, n=1, blocks="layers"):
    every = list(_walk(model))
    if method == "bias":
        chosen = {id(p) for name, p in every if name.split(".")[-1] == "bias" or name.endswith("_bias")}
        if len(chosen) == 0:
            raise ValueError("no bias")
    elif method == "last_n":
        found = model
        for step in blocks.split("."):
            found = getattr(found, step) if not isinstance(found, torch.nn.ModuleDict) else found[step]
        if n < 0 or n > len(found):
            raise ValueError("n is out of range")
        first = len(found) - n
        chosen = {id(p) for i, block in enumerate(found) if i >= first for _, p in _walk(block)}
    else:
        raise ValueError(method)
    for _, parameter in every:
        parameter.requires_grad = id(parameter) in chosen
