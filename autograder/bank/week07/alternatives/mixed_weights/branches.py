"""The weights are mixed first and applied after: one matrix for each token or sample; bmm, gather and padding."""

from contextlib import contextmanager

import numpy as np
import scipy.linalg
import torch
import torch.nn as nn
import torch.nn.functional as F


class _Adapted(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.base.weight.requires_grad_(False)
        if self.base.bias is not None:
            self.base.bias.requires_grad_(False)

    def new(self, *shape):
        return nn.Parameter(torch.zeros(*shape, dtype=self.base.weight.dtype, device=self.base.weight.device))

    def set_rank(self, rank, limit=None):
        limit = limit or min(self.base.out_features, self.base.in_features)
        if rank not in range(1, limit + 1):
            raise ValueError(f"1 to {limit}")
        self.rank = rank

    def set_alpha(self, alpha):
        self.alpha = alpha
        self.scaling = float(alpha) / self.rank

    def new_A(self):
        self.lora_A = self.new(self.rank, self.base.in_features)
        nn.init.orthogonal_(self.lora_A) if self.lora_A.dtype.itemsize > 2 else nn.init.normal_(self.lora_A)


class HydraLoRALinear(_Adapted):
    def __init__(self, base, rank, num_branches, alpha):
        super().__init__(base)
        self.set_rank(rank)
        self.set_alpha(alpha)
        if num_branches <= 0:
            raise ValueError("there must be a branch")
        self.num_branches = num_branches
        self.new_A()
        self.lora_B = self.new(num_branches, base.out_features, rank)
        self.router = nn.Linear(base.in_features, num_branches, bias=False).to(base.weight)
        self.register_buffer("mask", torch.zeros(num_branches), persistent=False)

    def set_route(self, branch):
        if branch is not None and (branch < 0 or branch > self.num_branches - 1):
            raise ValueError("no such branch")
        self.mask.zero_()
        if branch is not None:
            self.mask[branch] = 1

    def route_weights(self, x):
        if self.mask.any():
            return self.mask.to(x.dtype).expand(x.shape[:-1] + self.mask.shape).clone()
        logits = x @ self.router.weight.t()
        powers = (logits - logits.amax(-1, keepdim=True)).exp()
        return powers / powers.sum(-1, keepdim=True)

    def forward(self, x):
        B = torch.tensordot(self.route_weights(x), self.lora_B, dims=1)  # (..., out, rank), one for each token
        update = B @ self.lora_A * self.scaling
        return F.linear(x, self.base.weight, self.base.bias) + (update @ x.unsqueeze(-1)).squeeze(-1)


def multi_adapter_forward(base, adapters, x, adapter_ids):
    count = len(adapters)
    if list(adapter_ids.shape) != [x.shape[0]]:
        raise ValueError("adapter_ids")
    if len(adapter_ids) and (adapter_ids.min() < -1 or adapter_ids.max() >= count):
        raise ValueError("adapter_ids")
    widest = max((A.shape[0] for A, _, _ in adapters), default=1)
    none = (x.new_zeros(widest, base.in_features), x.new_zeros(base.out_features, widest))
    padded = [
        (F.pad(A, (0, 0, 0, widest - A.shape[0])), F.pad(B * (alpha / A.shape[0]), (0, widest - A.shape[0])))
        for A, B, alpha in adapters
    ]
    padded.append(none)  # the last one: -1 finds it
    stacked_A, stacked_B = (torch.stack(factors) for factors in zip(*padded))
    flat = x.reshape(len(x), -1, x.shape[-1])
    hidden = torch.bmm(flat, stacked_A[adapter_ids].mT)
    update = torch.bmm(hidden, stacked_B[adapter_ids].mT)
    return base(x) + update.reshape(*x.shape[:-1], base.out_features)


class DoRALinear(_Adapted):
    def __init__(self, base, rank, alpha):
        super().__init__(base)
        self.set_rank(rank)
        self.set_alpha(alpha)
        self.new_A()
        self.lora_B = self.new(base.out_features, rank)
        self.magnitude = self.new(base.out_features)
        with torch.no_grad():
            self.magnitude.copy_((base.weight**2).sum(1).sqrt())

    def forward(self, x):
        V = torch.addmm(self.base.weight, self.lora_B, self.lora_A, alpha=self.scaling)
        gain = self.magnitude / V.detach().square().sum(dim=1).sqrt()
        W = torch.diag(gain) @ V
        y = x @ W.t()
        return y if self.base.bias is None else y + self.base.bias


class RandLoRALinear(_Adapted):
    def __init__(self, base, basis_A, basis_B, alpha):
        super().__init__(base)
        short, long = sorted([base.in_features, base.out_features])
        if basis_A.dim() != 2 or basis_B.dim() != 3:
            raise ValueError("dimensions")
        if basis_A.shape[1] != short or basis_B.shape[1] != long or basis_B.shape[2] != basis_A.shape[0]:
            raise ValueError("shapes")
        if basis_B.shape[0] < -(-short // basis_A.shape[0]):
            raise ValueError("full rank needs more bases")
        self.rank = basis_A.shape[0]
        self.set_alpha(alpha)
        self.register_buffer("basis_A", basis_A)
        self.register_buffer("basis_B", basis_B)
        self.diag_lambda = self.new(len(basis_B), self.rank)
        self.diag_gamma = self.new(len(basis_B), short)
        nn.init.constant_(self.diag_gamma, -0.25)

    def forward(self, x):
        left = (self.basis_B * self.diag_lambda[:, None, :]).permute(1, 0, 2).flatten(1)  # (D, n rank)
        right = (self.basis_A * self.diag_gamma[:, None, :]).flatten(0, 1)  # (n rank, d)
        if self.base.out_features >= self.base.in_features:
            update = left @ right
        else:
            update = right.t() @ left.t()
        return F.linear(x, self.base.weight + self.scaling * update, self.base.bias)


def adalora_importance(factors, gradients, state=None, beta1=0.85, beta2=0.85):
    if min(beta1, beta2) <= 0 or max(beta1, beta2) >= 1:
        raise ValueError("betas")
    P, E, Q = (f.detach() for f in factors)
    gP, gE, gQ = gradients
    # One row a triplet: its column of P, its E, its row of Q.
    now = torch.cat([P.mT * gP.mT, (E * gE)[:, None], Q * gQ], dim=1).abs()
    mean, spread = state if state is not None else (0, 0)
    mean = torch.lerp(now, mean * torch.ones_like(now), beta1)
    spread = beta2 * spread + (1 - beta2) * torch.abs(now - mean)
    s = mean * spread
    rows = len(P)
    return s[:, :rows].mean(1) + s[:, rows] + s[:, rows + 1 :].mean(1), (mean, spread)


def allocate_ranks(scores, budget):
    names = sorted(scores)
    flat = np.concatenate([np.asarray(scores[name], dtype=np.float64) for name in names]) if names else np.zeros(0)
    if not 0 <= budget <= flat.size:
        raise ValueError("budget")
    place = np.empty(flat.size, dtype=int)
    place[np.argsort(-flat, kind="stable")] = np.arange(flat.size)
    result, start = {}, 0
    for name in names:
        stop = start + len(scores[name])
        result[name] = torch.from_numpy(place[start:stop] < budget)
        start = stop
    return result


class QRLoRALinear(_Adapted):
    def __init__(self, base, rank):
        super().__init__(base)
        self.set_rank(rank)
        W = base.weight.detach().to(torch.float64).numpy()
        Q, R, order = scipy.linalg.qr(W, pivoting=True)
        place = np.eye(len(order))[order]  # W[:, order] = W @ place.T
        self.register_buffer("basis_Q", torch.tensor(-Q[:, :rank]).to(base.weight))
        self.register_buffer("basis_R", torch.tensor(-(R @ place)[:rank]).to(base.weight))
        self.lora_lambda = self.new(rank)

    def forward(self, x):
        dW = (self.basis_Q * self.lora_lambda) @ self.basis_R
        return F.linear(x, self.base.weight + dW, self.base.bias)


@contextmanager
def without_adapters(model):
    adapters = [(m, m.enabled) for m in model.modules() if hasattr(m, "enabled")]
    try:
        for m, _ in adapters:
            m.enabled = False
        yield
    finally:
        for m, before in adapters:
            m.enabled = before


def dpo_loss(model, chosen, chosen_labels, rejected, rejected_labels, beta=0.1):
    if beta <= 0:
        raise ValueError("beta")
    batch, length = len(chosen), max(chosen.shape[1], rejected.shape[1])

    def both(first, second, fill):
        return torch.cat([F.pad(t, (0, length - t.shape[1]), value=fill) for t in (first, second)])

    tokens, labels = both(chosen, rejected, 0), both(chosen_labels, rejected_labels, -100)

    def margin():
        logits = model(tokens)
        nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
        total = -nll.sum(1)
        return total[:batch] - total[batch:]

    with without_adapters(model):
        reference = margin().detach()
    logits = beta * (margin() - reference)
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
