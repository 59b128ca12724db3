"""Adapters are taken apart by a helper module; the fingerprint calls canonicalize."""

import hashlib
import pickle
from copy import deepcopy

import torch
from parts import Layer, Malformed, best_of_rank, put_together, take_apart


def relocate(adapter, mapping):
    layers = take_apart(adapter)
    names = [layer.name for layer in layers]
    if not set(mapping) <= set(names):
        raise ValueError("unknown layer")
    moved = [Layer(mapping.get(layer.name, layer.name), layer.B, layer.A) for layer in layers]
    if len({layer.name for layer in moved}) < len(moved):
        raise ValueError("a name is taken")
    return put_together(deepcopy(adapter["config"]), moved)


def canonicalize(B, A, rtol=1e-5):
    try:
        (m, r), (q, n) = B.shape, A.shape
    except ValueError:
        raise ValueError("two matrices are needed") from None
    if r != q:
        raise ValueError(f"{r} is not {q}")
    kind, W = B.dtype, torch.einsum("or,ri->oi", B.double(), A.double())
    u, s, v = torch.svd(W)
    count = 0
    while count < len(s) and s[count] > rtol * s[0]:
        count += 1
    new_B, new_A = torch.zeros(m, count, dtype=torch.float64), torch.zeros(count, n, dtype=torch.float64)
    for i in range(count):
        sign = 1.0 if u[u[:, i].abs().argmax(), i] > 0 else -1.0
        new_B[:, i] = sign * u[:, i] * s[i] ** 0.5
        new_A[i] = sign * v[:, i] * s[i] ** 0.5
    return new_B.to(kind), new_A.to(kind)


def frozen(value):
    """A configuration as nested tuples, dicts by sorted key; the type keeps True and 1 apart."""
    if isinstance(value, dict):
        return ("dict", tuple((key, frozen(value[key])) for key in sorted(value)))
    if isinstance(value, list):
        return ("list", tuple(map(frozen, value)))
    return (type(value).__name__, repr(value))


def fingerprint(adapter):
    parts = [repr(frozen(adapter["config"]))]
    for layer in take_apart(adapter):
        B, A = canonicalize(layer.B.double(), layer.A.double())
        parts.append(repr((layer.name, layer.shape, B.shape[1])))
        for factor in (B, A):
            peak = torch.linalg.vector_norm(factor, float("inf")).item() if factor.numel() else 1.0
            for row in factor.tolist():
                parts.append(",".join(str(round(value / peak * 1e6)) for value in row))
            parts.append(f"{factor.norm().item():.5e}")
    return hashlib.new("sha256", pickle.dumps("|".join(parts), protocol=4)).hexdigest()


def verify_adapter(adapter, manifest):
    try:
        layers = take_apart(adapter)
        for layer in layers:
            sizes = {layer.B.shape[1], layer.A.shape[0]} if layer.B.dim() == layer.A.dim() == 2 else set()
            total = layer.B.double().sum() + layer.A.double().sum()  # NaN and infinity are contagious
            if sizes != {adapter["config"]["rank"]} or not torch.isfinite(total):
                return ["tensors"]
    except (Malformed, KeyError):
        return ["tensors"]
    problems = set()
    if manifest["layers"] != {layer.name: layer.shape for layer in layers}:
        problems.add("layers")
    if manifest["config"] != adapter["config"]:
        problems.add("config")
    if manifest["fingerprint"] != fingerprint(adapter):
        problems.add("fingerprint")
    return sorted(problems)


def membership_auc(members, others, reference_members, reference_others):
    for tensor in (members, others, reference_members, reference_others):
        if tensor.numel() == 0 or torch.isnan(tensor).any() or torch.isinf(tensor).any():
            raise ValueError("empty or not finite")
    if members.shape != reference_members.shape or others.shape != reference_others.shape:
        raise ValueError("lengths")
    gaps = torch.sub(reference_members, members).unsqueeze(1) - torch.sub(reference_others, others).unsqueeze(0)
    won, equal = (gaps > 0).sum(), (gaps == 0).sum()
    return (won + 0.5 * equal) / gaps.numel()  # in float32, which is precise enough for a share


def pgd(model, x, y, epsilon, step_size, steps):
    if not (epsilon >= 0 and step_size > 0 and steps >= 0):
        raise ValueError("out of range")
    delta = torch.zeros_like(x)
    for _ in range(steps):
        with torch.enable_grad():
            delta = delta.detach().requires_grad_(True)
            log_probabilities = model(x + delta).log_softmax(dim=1)
            objective = -log_probabilities[torch.arange(len(y)), y].sum()
        (direction,) = torch.autograd.grad(objective, delta)
        with torch.no_grad():
            up = torch.where(direction > 0, step_size, torch.where(direction < 0, -step_size, 0.0))
            delta = (delta + up.to(x.dtype)).clamp(-epsilon, epsilon)
            delta = (x + delta).clamp(0, 1) - x
    return (x + delta).detach()


def spectral_detune(merged, rank, steps):
    first, *rest = merged or [None]
    if not rest or any(W.shape != first.shape for W in rest) or rank not in range(1, min(first.shape) + 1) or steps < 0:
        raise ValueError("cannot be")
    estimate = sum(merged) / len(merged)
    while steps > 0:
        updates = [best_of_rank(W - estimate, rank) for W in merged]
        estimate = sum(W - M for W, M in zip(merged, updates, strict=True)) / len(merged)
        steps -= 1
    return estimate


def trigger_scan(base, adapted, inputs, candidates, threshold=0.5):
    def predictions(model, prefix=()):
        rows = [list(prefix) + row for row in inputs.tolist()]
        return model(torch.tensor(rows)).max(dim=-1).indices

    def rate(model, token):
        return (predictions(model, [token]) != predictions(model)).float().mean()

    scored = {token: float(rate(adapted, token) - rate(base, token)) for token in candidates}
    ranked = sorted(scored, key=lambda token: (scored[token], -token), reverse=True)
    return [(token, scored[token]) for token in ranked if not scored[token] < threshold]
