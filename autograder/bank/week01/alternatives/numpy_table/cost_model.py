"""Products of arrays: the recipes are a matrix of bytes, the counts a vector."""

import numpy as np

NF4_BITS = 4.126953125

#            weights lora gradients optimizer, in bytes
BYTES = np.array([[4, 0, 4, 8], [2, 0, 2, 12], [2, 4, 4, 8], [2, 4, 4, 8]], dtype=np.float64)
NAMES = ["full_fp32", "full_mixed", "lora", "qlora"]
PARTS = ["weights", "lora", "gradients", "optimizer"]


def count_parameters(model):
    unique = {id(p): p for _, p in model.named_parameters(remove_duplicate=False)}.values()
    numel = np.array([np.prod(p.shape) for p in unique], dtype=np.int64)
    trains = np.array([p.requires_grad for p in unique], dtype=bool)
    total, trainable = numel.sum(), numel[trains].sum()
    return {
        "percent": np.divide(100.0 * trainable, total) if total > 0 else np.float64(0),
        "total": total,
        "trainable": trainable,
        "frozen": numel[~trains].sum(),
    }


def lora_parameter_count(shapes, rank):
    sides = np.array(list(shapes), dtype=np.int64).reshape(-1, 2)
    if rank < 1 or (sides.size and rank > sides.min()):
        raise ValueError(f"rank {rank}")
    return rank * sides.sum()


def training_memory(n_params, n_trainable, recipe, n_quantised=0, unit="B"):
    if recipe not in NAMES:
        raise ValueError(f"{recipe!r} is not one of {NAMES}")
    if unit not in ("B", "GB", "GiB"):
        raise ValueError(f"{unit!r}")
    full = NAMES.index(recipe) < 2
    limit = n_params if full else np.inf
    if not (0 <= n_trainable <= limit and 0 <= n_quantised <= n_params) or (n_quantised > 0 and recipe != "qlora"):
        raise ValueError("a count is out of its range")
    table = BYTES[NAMES.index(recipe)] * np.array([n_params, n_trainable, n_trainable, n_trainable], dtype=np.float64)
    table[0] += n_quantised * (NF4_BITS / 8 - 2)
    table /= {"B": 1, "GB": 10**9, "GiB": 2**30}[unit]
    return {**dict(zip(PARTS, table, strict=True)), "total": table.sum()}


def training_energy(gpu_hours, watts, pue, intensity):
    given = np.array([gpu_hours, watts, intensity, pue - 1])
    if (given < 0).any():
        raise ValueError("an argument is below its minimum")
    kwh = np.prod([gpu_hours, watts, pue, 1e-3])
    return np.array([1.0, intensity / 1e3]) * kwh


def select_trainable(model, method, n=1, blocks="layers"):
    named = list(model.named_parameters(remove_duplicate=False))
    names = np.array([name for name, _ in named])
    if method == "bias":
        last = np.array([name.rsplit(".", 1)[-1] for name in names])
        mask = (last == "bias") | np.char.endswith(last, "_bias")
        if not mask.any():
            raise ValueError("there is no bias")
    elif method == "last_n":
        count = len(model.get_submodule(blocks))
        if n not in range(count + 1):
            raise ValueError(f"n={n}")
        prefixes = tuple(f"{blocks}.{i}." for i in range(count - n, count))
        mask = np.array([name.startswith(prefixes) if prefixes else False for name in names])
    else:
        raise ValueError(f"no method {method!r}")
    for _, p in named:
        p.requires_grad_(False)
    for (_, p), chosen in zip(named, mask, strict=True):
        if chosen:
            p.requires_grad_()
