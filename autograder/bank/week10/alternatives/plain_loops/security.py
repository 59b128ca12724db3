"""Loops over layers, entries and pairs; eigenvectors of the Gram matrix; a digest of digests."""

from hashlib import sha256

import torch


def split(key):
    parts = key.split(".")
    return ".".join(parts[:-1]), parts[-1]


def copied(value):
    if type(value) is dict:
        return {k: copied(v) for k, v in value.items()}
    if type(value) is list:
        return [copied(v) for v in value]
    return value


def relocate(adapter, mapping):
    pending = set(mapping)
    out = {}
    for key in adapter["tensors"]:
        layer, factor = split(key)
        pending.discard(layer)
        new = (mapping[layer] if layer in mapping else layer) + "." + factor
        if new in out:
            raise ValueError(f"{new} stands twice")
        out[new] = adapter["tensors"][key]
    if pending:
        raise ValueError(f"not there: {pending}")
    return {"tensors": out, "config": copied(adapter["config"])}


def canonicalize(B, A, rtol=1e-5):
    if len(B.shape) != 2 or len(A.shape) != 2:
        raise ValueError("not matrices")
    if B.shape[-1] != A.shape[0]:
        raise ValueError("inner sizes")
    W = B.double().matmul(A.double())
    values, vectors = torch.linalg.eigh(W.T @ W)  # ascending
    pairs = []
    top = values[-1].clamp(min=0).sqrt()
    for value, v in zip(values.flip(0), vectors.T.flip(0)):
        s = value.clamp(min=0).sqrt()
        if s > rtol * top:
            u = W @ v / s
            if u.max() < -u.min():
                u, v = -u, -v
            pairs.append((s.sqrt() * u, s.sqrt() * v))
    if not pairs:
        return B.new_zeros(B.shape[0], 0), A.new_zeros(0, A.shape[1])
    return torch.stack([u for u, _ in pairs], dim=1).type(B.dtype), torch.stack([v for _, v in pairs]).type(B.dtype)


def described(value):
    if isinstance(value, dict):
        return "{" + ";".join(f"{k!r}:{described(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ";".join(described(v) for v in value) + "]"
    return repr(value)


def digest_of(W):
    peak = max(abs(w) for row in W.tolist() for w in row)
    lines = [f"{peak:.7g}"]
    for row in W.tolist():
        lines.append(" ".join(f"{w / peak:.5f}".replace("-0.00000", "0.00000") if peak else "0" for w in row))
    return sha256("\n".join(lines).encode()).hexdigest()


def fingerprint(adapter):
    entries = []
    for key, B in adapter["tensors"].items():
        layer, factor = split(key)
        if factor == "lora_B":
            entries.append(repr(layer) + digest_of(B.double() @ adapter["tensors"][layer + ".lora_A"].double()))
    return sha256((described(adapter["config"]) + "".join(sorted(entries))).encode()).hexdigest()


def verify_adapter(adapter, manifest):
    names = []
    rank = adapter["config"].get("rank", None)
    for key, t in adapter["tensors"].items():
        layer, factor = split(key)
        if factor not in ("lora_A", "lora_B") or not layer:
            return ["tensors"]
        other = layer + (".lora_A" if factor == "lora_B" else ".lora_B")
        if other not in adapter["tensors"]:
            return ["tensors"]
        if t.ndim != 2 or rank is None or t.shape[0 if factor == "lora_A" else 1] != rank:
            return ["tensors"]
        if (t != t).any() or (t.abs() == float("inf")).any():
            return ["tensors"]
        names.append(layer)
    layers = {}
    for name in names:
        layers[name] = [adapter["tensors"][name + ".lora_B"].shape[0], adapter["tensors"][name + ".lora_A"].shape[1]]
    verdict = []
    if adapter["config"] != manifest["config"]:
        verdict += ["config"]
    if fingerprint(adapter) != manifest["fingerprint"]:
        verdict += ["fingerprint"]
    if sorted(layers.items()) != sorted(manifest["layers"].items()):
        verdict += ["layers"]
    return verdict


def membership_auc(members, others, reference_members, reference_others):
    scores = []
    for losses, reference in [(members, reference_members), (others, reference_others)]:
        losses, reference = losses.tolist(), reference.tolist()
        if not losses or len(losses) != len(reference):
            raise ValueError("lengths")
        if any(abs(v) == float("inf") or v != v for v in losses + reference):
            raise ValueError("not a finite loss")
        scores.append([r - v for v, r in zip(losses, reference)])
    wins = 0.0
    for a in scores[0]:
        for b in scores[1]:
            if a > b:
                wins += 1
            elif a == b:
                wins += 0.5
    return wins / (len(scores[0]) * len(scores[1]))


def pgd(model, x, y, epsilon, step_size, steps):
    if epsilon < 0 or step_size <= 0 or steps < 0:
        raise ValueError("range")
    trainable = [p.requires_grad for p in model.parameters()]
    for p in model.parameters():
        p.requires_grad = False
    z = x.clone().detach()
    for _ in range(steps):
        z.requires_grad = True
        torch.nn.functional.nll_loss(torch.log_softmax(model(z), 1), y).backward()
        step = z.grad.sign() * step_size
        z = z.detach() + step
        z = torch.where(z > x + epsilon, x + epsilon, z)
        z = torch.where(z < x - epsilon, x - epsilon, z)
        z = torch.where(z > 1, torch.ones_like(z), z)
        z = torch.where(z < 0, torch.zeros_like(z), z)
    for p, flag in zip(model.parameters(), trainable):
        p.requires_grad = flag
    return z


def spectral_detune(merged, rank, steps):
    if len(merged) < 2:
        raise ValueError("too few")
    for W in merged:
        if W.shape != merged[0].shape:
            raise ValueError("shapes")
    if not 0 < rank <= min(merged[0].shape):
        raise ValueError("rank")
    if steps < 0:
        raise ValueError("steps")
    W = torch.zeros_like(merged[0])
    for Wi in merged:
        W = W + Wi / len(merged)
    for _ in range(steps):
        total = torch.zeros_like(W)
        for Wi in merged:
            U, s, Vh = torch.linalg.svd(Wi - W)
            M = torch.zeros_like(W)
            for k in range(rank):
                M = M + s[k] * torch.outer(U[:, k], Vh[k])
            total = total + (Wi - M)
        W = total / len(merged)
    return W


def trigger_scan(base, adapted, inputs, candidates, threshold=0.5):
    result = []
    for token in sorted(candidates):
        score = 0
        for row in inputs:
            longer = torch.cat([torch.tensor([token]), row])
            for model, weight in ((adapted, 1), (base, -1)):
                if model(longer[None])[0].argmax() != model(row[None])[0].argmax():
                    score += weight
        if score / len(inputs) >= threshold:
            result.append((token, score / len(inputs)))
    return sorted(result, key=lambda pair: pair[1], reverse=True)
