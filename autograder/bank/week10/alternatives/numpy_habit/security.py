"""NumPy does the arithmetic: QR before a small SVD, canonical factors under the hash, midranks for the AUC."""

import hashlib
import json

import numpy as np
import torch


def layers_of(adapter):
    return sorted({key[: key.rindex(".")] for key in adapter["tensors"]})


def relocate(adapter, mapping):
    known = layers_of(adapter)
    for old in mapping:
        if old not in known:
            raise ValueError(old)
    targets = [mapping[name] if name in mapping else name for name in known]
    if len(set(targets)) != len(targets):
        raise ValueError("the new names are not distinct")
    tensors = {}
    for old, new in zip(known, targets):
        for factor in ("lora_B", "lora_A"):
            tensors[new + "." + factor] = adapter["tensors"][old + "." + factor].clone()
    return dict(tensors=tensors, config=json.loads(json.dumps(adapter["config"])))


def as_double(t):
    return t.detach().to(torch.float64).numpy()


def decompose(B, A, rtol):
    """Canonical factors of matrices in float64, from the SVD of a rank x rank matrix."""
    Qb, Rb = np.linalg.qr(B)
    Qa, Ra = np.linalg.qr(A.T)
    U, s, Vh = np.linalg.svd(Rb @ Ra.T, full_matrices=False)
    keep = np.flatnonzero(s > rtol * s.max())
    left, right = Qb @ U[:, keep], Vh[keep] @ Qa.T
    for j in range(len(keep)):
        column = left[:, j]
        if column[np.abs(column).argmax()] < 0:
            left[:, j], right[j] = -left[:, j], -right[j]
    root = np.sqrt(s[keep])
    return left * root, root[:, None] * right


def canonicalize(B, A, rtol=1e-5):
    if not (B.dim() == A.dim() == 2) or B.size(1) != A.size(0):
        raise ValueError("shapes")
    return tuple(torch.from_numpy(np.ascontiguousarray(m)).to(B.dtype) for m in decompose(as_double(B), as_double(A), rtol))


def fingerprint(adapter):
    text = [json.dumps(adapter["config"], sort_keys=True)]
    for name in layers_of(adapter):
        pair = decompose(as_double(adapter["tensors"][name + ".lora_B"]), as_double(adapter["tensors"][name + ".lora_A"]), 1e-5)
        text.append(name)
        for matrix in pair:
            size = np.abs(matrix).max(initial=0.0)
            text.append(f"{matrix.shape} {size:.5e}")
            if size:
                text.append(str(np.rint(matrix / size * 100_000).astype(int).tolist()))
    return hashlib.sha256("\n".join(text).encode("utf-8")).hexdigest()


def verify_adapter(adapter, manifest):
    rank = adapter["config"].get("rank")
    shapes = {}
    for key, value in adapter["tensors"].items():
        if not key.endswith((".lora_A", ".lora_B")) or value.dim() != 2:
            return ["tensors"]
        name, which = key[:-7], key[-1]
        partner = adapter["tensors"].get(name + (".lora_B" if which == "A" else ".lora_A"))
        if partner is None or not np.isfinite(as_double(value)).all():
            return ["tensors"]
        if value.shape[0 if which == "A" else 1] != rank:
            return ["tensors"]
        shapes.setdefault(name, [0, 0])[1 if which == "A" else 0] = value.shape[1 if which == "A" else 0]
    found = []
    if adapter["config"] != manifest["config"]:
        found.append("config")
    if fingerprint(adapter) != manifest["fingerprint"]:
        found.append("fingerprint")
    if shapes != manifest["layers"]:
        found.append("layers")
    return found


def membership_auc(members, others, reference_members, reference_others):
    own, far, own_reference, far_reference = map(as_double, (members, others, reference_members, reference_others))
    if min(own.size, far.size) == 0 or own.shape != own_reference.shape or far.shape != far_reference.shape:
        raise ValueError("sizes")
    if not all(np.isfinite(a).all() for a in (own, far, own_reference, far_reference)):
        raise ValueError("not finite")
    scores, sorted_others = own_reference - own, np.sort(far_reference - far)
    below = np.searchsorted(sorted_others, scores, "left")
    not_above = np.searchsorted(sorted_others, scores, "right")
    return float((below + not_above).mean() / (2 * far.size))


def pgd(model, x, y, epsilon, step_size, steps):
    if epsilon < 0:
        raise ValueError("epsilon")
    if step_size <= 0:
        raise ValueError("step_size")
    if steps < 0:
        raise ValueError("steps")
    current = x.detach()
    for _ in range(steps):
        leaf = current.clone().requires_grad_()
        loss = torch.nn.CrossEntropyLoss(reduction="sum")(model(leaf), y)
        up = torch.sign(torch.autograd.grad(loss, [leaf])[0])
        moved = current + step_size * up
        current = torch.clamp(torch.min(torch.max(moved, x - epsilon), x + epsilon), 0, 1)
    return current.clone()


def spectral_detune(merged, rank, steps):
    weights = [as_double(W) for W in merged]
    if len(weights) < 2 or any(W.shape != weights[0].shape for W in weights):
        raise ValueError("matrices")
    if rank < 1 or rank > min(weights[0].shape) or steps < 0:
        raise ValueError("rank or steps")
    W = sum(weights) / len(weights)
    for _ in range(steps):
        rest = []
        for Wi in weights:
            # What is left of Wi when the best approximation of Wi - W is taken away.
            U, s, Vh = np.linalg.svd(Wi - W)
            rest.append(Wi - U[:, :rank] @ np.diag(s[:rank]) @ Vh[:rank])
        W = np.mean(rest, axis=0)
    return torch.from_numpy(W)


def trigger_scan(base, adapted, inputs, candidates, threshold=0.5):
    n = inputs.shape[0]
    before = {model: model(inputs).argmax(-1) for model in (base, adapted)}
    found = []
    for token in candidates:
        triggered = torch.cat((torch.tensor([[token]]).repeat(n, 1), inputs), 1)
        flips = {model: int((model(triggered).argmax(-1) != before[model]).sum()) for model in (base, adapted)}
        score = (flips[adapted] - flips[base]) / n
        if score >= threshold:
            found.append((token, score))
    found.sort()
    found.sort(key=lambda pair: pair[1], reverse=True)
    return found
