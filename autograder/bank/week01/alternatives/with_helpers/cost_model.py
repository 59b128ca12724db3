"""The prices of a parameter stand in a module beside this one; match statements and generators do the rest."""

from collections import OrderedDict, namedtuple
from functools import reduce
from operator import mul

import prices
from torch.nn import Parameter

Consumption = namedtuple("Consumption", "energy emissions")


def count_parameters(model):
    tensors = {p for p in model.state_dict(keep_vars=True).values() if isinstance(p, Parameter)}
    groups = {True: 0, False: 0}
    for p in tensors:
        groups[p.requires_grad] += reduce(mul, p.shape, 1)
    total = sum(groups.values())
    return OrderedDict(
        total=total, trainable=groups[True], frozen=groups[False], percent=100.0 * groups[True] / max(total, 1)
    )


def lora_parameter_count(shapes, rank):
    prices.demand(rank >= 1, "rank must be at least 1")

    def factors():
        for d_out, d_in in shapes:
            prices.demand(rank <= d_out and rank <= d_in, "rank is above a side")
            yield d_out * rank
            yield rank * d_in

    return sum(factors())


def training_memory(n_params, n_trainable, recipe, n_quantised=0, unit="B"):
    match recipe:
        case "full_fp32":
            plan = prices.full(prices.FP32)
        case "full_mixed":
            plan = prices.full(prices.BF16)
        case "lora" | "qlora":
            plan = prices.adapters()
        case _:
            raise ValueError(f"no recipe {recipe!r}")
    prices.demand(n_quantised == 0 or recipe == "qlora", "only qlora is quantised")
    prices.demand(0 <= n_quantised <= n_params, "n_quantised is out of range")
    prices.demand(n_trainable >= 0 and (plan.lora or n_trainable <= n_params), "n_trainable is out of range")
    memory = {
        "total": 0.0,
        "weights": (n_params - n_quantised) * plan.weight + n_quantised * prices.NF4,
        "lora": n_trainable * plan.lora,
        "gradients": n_trainable * plan.gradient,
        "optimizer": n_trainable * plan.optimizer,
    }
    memory = {name: prices.convert(value, unit) for name, value in memory.items()}
    for name in set(memory) - {"total"}:
        memory["total"] += memory[name]
    return memory


def training_energy(gpu_hours, watts, pue, intensity):
    prices.demand(gpu_hours >= 0 and watts >= 0 and intensity >= 0, "negative")
    prices.demand(pue >= 1, "a data centre draws at least what its machines draw")
    kilowatts = watts * pue / 1000
    kg_per_kwh = intensity / 1000
    return Consumption(energy=kilowatts * gpu_hours, emissions=kilowatts * gpu_hours * kg_per_kwh)


def select_trainable(model, method, n=1, blocks="layers"):
    match method:
        case "bias":
            chosen = [
                p
                for module in model.modules()
                for name, p in module._parameters.items()
                if p is not None and (name == "bias" or name[-5:] == "_bias")
            ]
            prices.demand(chosen, "the model has no bias")
        case "last_n":
            container = model.get_submodule(blocks)
            prices.demand(0 <= n <= len(container), "n is out of range")
            kept = list(reversed(container))[:n]
            chosen = [p for block in kept for p in block.parameters()]
        case other:
            raise ValueError(f"no method {other!r}")
    model.requires_grad_(False)
    for p in chosen:
        p.requires_grad = True
