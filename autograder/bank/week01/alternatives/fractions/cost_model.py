"""Exact arithmetic in bits, one conversion at the end; sets of parameters; early returns."""

from fractions import Fraction
from itertools import chain

BITS = {
    ("full_fp32", "weights"): 32,
    ("full_fp32", "gradients"): 32,
    ("full_fp32", "optimizer"): 64,
    ("full_mixed", "weights"): 16,
    ("full_mixed", "gradients"): 16,
    ("full_mixed", "optimizer"): 96,
}
for _name in ("lora", "qlora"):
    BITS |= {(_name, "weights"): 16, (_name, "lora"): 32, (_name, "gradients"): 32, (_name, "optimizer"): 64}


def count_parameters(model):
    parameters = set(chain.from_iterable(module.parameters(recurse=False) for module in model.modules()))
    learning = {p for p in parameters if p.requires_grad}
    total = sum(p.nelement() for p in parameters)
    frozen = sum(p.nelement() for p in parameters - learning)
    share = Fraction(total - frozen, total) if total else Fraction(0)
    return {"total": total, "trainable": total - frozen, "frozen": frozen, "percent": float(100 * share)}


def lora_parameter_count(shapes, rank):
    sides = [side for shape in shapes for side in shape]
    if not 1 <= rank <= min(sides, default=rank):
        raise ValueError("rank is out of its range")
    return rank * sum(sides)


def training_memory(n_params, n_trainable, recipe, n_quantised=0, unit="B"):
    if (recipe, "weights") not in BITS:
        raise ValueError("no such recipe")
    has_factors = (recipe, "lora") in BITS
    if n_trainable < 0 or n_trainable > n_params and not has_factors:
        raise ValueError("n_trainable")
    if n_quantised != 0 and recipe != "qlora":
        raise ValueError("only the base of qlora is quantised")
    if n_quantised not in range(n_params + 1):
        raise ValueError("n_quantised")
    if unit == "B":
        bits = 8
    elif unit == "GB":
        bits = 8 * 1000**3
    elif unit == "GiB":
        bits = 8 << 30
    else:
        raise ValueError("no such unit")
    quantised = 4 + Fraction(8, 64) + Fraction(32, 64 * 256)
    held = {part: Fraction(BITS.get((recipe, part), 0) * n_trainable) for part in ("lora", "gradients", "optimizer")}
    held["weights"] = BITS[recipe, "weights"] * (n_params - n_quantised) + quantised * n_quantised
    held["total"] = sum(held.values())
    return {part: float(value / bits) for part, value in held.items()}


def training_energy(gpu_hours, watts, pue, intensity):
    if gpu_hours < 0 or watts < 0 or intensity < 0:
        raise ValueError("nothing may be negative")
    if not pue >= 1:
        raise ValueError("pue is at least 1")
    watt_hours = gpu_hours * watts
    overhead = watt_hours * (pue - 1)
    energy = (watt_hours + overhead) / 1000
    return [energy, energy * intensity / 1000]


def select_trainable(model, method, n=1, blocks="layers"):
    if method not in ("bias", "last_n"):
        raise ValueError("no such method")
    chosen = set()
    if method == "bias":
        for name, parameter in model.named_parameters(remove_duplicate=False):
            *_, last = name.split(".")
            if f".{last}".endswith((".bias", "_bias")):
                chosen.add(parameter)
        if not chosen:
            raise ValueError("the model has no bias")
    else:
        rows = dict(model.named_modules(remove_duplicate=False))[blocks]
        if n > len(rows) or n < 0:
            raise ValueError("n is out of its range")
        if n > 0:
            for block in rows[-n:]:
                chosen.update(block.parameters())
    for parameter in set(model.parameters()):
        parameter.requires_grad_(parameter in chosen)
